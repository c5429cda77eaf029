"""Does sigma say how wrong the mean is? Calibration of a Gaussian p(x|z), one value per image.

Common arguments: `x` original `[B,3,H,W]` in [-1,1]; `mean` reconstruction of the same shape, *not* clamped;
`logvar` natural log of the variance of x, any shape that broadcasts to `mean`. Pass the dequantised `x` where
sigma may be as small as half a grey level, else rounding to 8 bits counts as model error.

The baselines that a learned sigma must beat are `constant_logvar` and `sobel_logvar`: without the second,
sigma could be just an edge detector.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from jeppa.evaluate.metrics import LEVELS_PER_UNIT, check_same_shape
from jeppa.gaussian import DiagonalGaussian

COVERAGE_LEVELS = (0.5, 0.68, 0.9, 0.95)

VARIANCE_FLOOR = math.exp(-12.0)
"""Variance of a log sigma of -6 (0.3 grey levels): the least that a baseline predicts, as for the decoder."""


@dataclass(frozen=True)
class Reliability:
    """Predicted against real error in equal-count bins of rising sigma; on the diagonal is calibrated.

    Args:
        sigma: root mean predicted variance of each bin, `[bins]`, 8-bit levels.
        error: root mean squared error of the same values, `[bins]`, 8-bit levels.
    """

    sigma: Tensor
    error: Tensor


def mean_square_error(x: Tensor, mean: Tensor) -> Tensor:
    """Mean of (x - mean)^2 over each image, in squared units of x: `[B]`."""
    check_same_shape(x, mean)
    return (x.float() - mean.float()).square().flatten(1).mean(1)


def chi2(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean squared standardised residual, (x - mean)^2 / variance: `[B]`.

    Target 1; above 1 sigma is too small on average, below 1 too large. Unbounded: one tiny sigma can rule it.
    """
    check_same_shape(x, mean)
    squared = (x.float() - mean.float()).square()
    return (squared * (-logvar.float()).exp()).flatten(1).mean(1)


def coverage(x: Tensor, mean: Tensor, logvar: Tensor, level: float) -> Tensor:
    """Share of values inside the central Gaussian interval that should hold `level` of them, 0 to 1: `[B]`.

    Args:
        x: see the module docstring.
        mean: see the module docstring.
        logvar: see the module docstring.
        level: target share, between 0 and 1 exclusive; 0.68 is exactly that, not "one sigma" (0.6827).

    Raises:
        ValueError: if `level` is not strictly between 0 and 1.
    """
    check_same_shape(x, mean)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}, but must lie strictly between 0 and 1")
    gaussian = DiagonalGaussian(mean, logvar)
    lower, upper = gaussian.quantile(0.5 - level / 2.0), gaussian.quantile(0.5 + level / 2.0)
    inside = (x.float() >= lower) & (x.float() <= upper)
    return inside.float().flatten(1).mean(1)


def block_spearman(x: Tensor, mean: Tensor, logvar: Tensor, block: int = 8) -> Tensor:
    """Rank correlation over blocks of root mean predicted variance and mean |error|, -1 to 1: `[B]`.

    Blocks pool channels and `block` x `block` pixels; incomplete ones at the right and bottom are left out.
    Pooling averages out the luck of each residual, which limits `pixel_spearman` even for a perfect sigma.
    Ties get average ranks. NaN (null in reports) where sigma or the error is constant, so for one block too.

    Raises:
        ValueError: if the shapes differ or the image is smaller than a block.
    """
    check_same_shape(x, mean)
    height, width = x.shape[-2:]
    if min(height, width) < block:
        raise ValueError(f"images are {height}x{width}, smaller than one block of {block}x{block}")
    error = (x.float() - mean.float()).abs().mean(1, keepdim=True)
    variance = _pixel_variance(mean, logvar)
    return _spearman(functional.avg_pool2d(variance, block).sqrt(), functional.avg_pool2d(error, block))


def pixel_spearman(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """`block_spearman` with a pixel (its channels pooled) for a block, -1 to 1: `[B]`.

    Even a perfect sigma stays well below 1 here, as single residuals are random. NaN as in `block_spearman`.
    """
    return block_spearman(x, mean, logvar, block=1)


def constant_logvar(x: Tensor, mean: Tensor) -> Tensor:
    """Baseline: one sigma for the image, the best one in hindsight, as a logvar `[B,1,1,1]`.

    It sees the true error, so it is the strongest constant: chi2 is 1 (unless the floor applies).
    """
    return mean_square_error(x, mean).clamp_min(VARIANCE_FLOOR).log().view(-1, 1, 1, 1)


def sobel_logvar(mean: Tensor, mean_square_error: Tensor) -> Tensor:
    """Baseline: sigma proportional to the Sobel gradient of the reconstruction, as a logvar `[B,1,H,W]`.

    The squared gradient (mean over channels) gets a small constant, `VARIANCE_FLOOR`, against log 0 in flat
    regions, and is scaled so that the mean variance of the image is its mean squared error.

    Args:
        mean: reconstruction, `[B,3,H,W]` in [-1,1]: what a decoder without a sigma head would know.
        mean_square_error: of each image, `[B]`, from `mean_square_error` (so in hindsight, in its favour).
    """
    energy = _sobel_energy(mean.float()) + VARIANCE_FLOOR
    relative = energy / energy.mean(dim=(1, 2, 3), keepdim=True)
    return (relative * mean_square_error.float().clamp_min(VARIANCE_FLOOR).view(-1, 1, 1, 1)).log()


def reliability(x: Tensor, mean: Tensor, logvar: Tensor, bins: int = 20) -> Reliability:
    """Sort all values of the batch by sigma into equal-count bins and compare sigma with the error of each.

    The one function here that pools images: it feeds a plot. Bins differ in size by one at most; equal
    sigmas are split in raster order.

    Raises:
        ValueError: if the shapes differ or there are fewer values than bins.
    """
    check_same_shape(x, mean)
    if not 1 <= bins <= x.numel():
        raise ValueError(f"bins is {bins}, but must lie between 1 and the number of values, {x.numel()}")
    variance = logvar.float().exp().expand_as(mean).flatten()
    squared = (x.float() - mean.float()).square().flatten()
    order = variance.argsort(stable=True)
    return Reliability(sigma=_root_mean_of_bins(variance[order], bins), error=_root_mean_of_bins(squared[order], bins))


def _root_mean_of_bins(values: Tensor, bins: int) -> Tensor:
    """Root of the mean of each of `bins` consecutive equal parts, in 8-bit levels: `[bins]`."""
    return torch.stack([part.mean() for part in values.tensor_split(bins)]).sqrt() * LEVELS_PER_UNIT


def _pixel_variance(mean: Tensor, logvar: Tensor) -> Tensor:
    """Variance averaged over channels, `[B,1,H,W]`."""
    return logvar.float().exp().expand_as(mean).mean(1, keepdim=True)


def _sobel_energy(x: Tensor) -> Tensor:
    """Squared Sobel gradient per pixel step, averaged over channels, edges replicated: `[B,1,H,W]`."""
    batch, channels, height, width = x.shape
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8.0
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate").view(-1, 1, height + 2, width + 2)
    gradient = functional.conv2d(padded, torch.stack([kernel, kernel.T]).unsqueeze(1))
    return gradient.square().sum(1).view(batch, channels, height, width).mean(1, keepdim=True)


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of each row after flattening, NaN where a row is constant: `[B]`."""
    rows = zip(first.flatten(1).cpu().numpy(), second.flatten(1).cpu().numpy(), strict=True)
    # scipy warns on a constant row, where the answer is NaN by definition: do not ask it.
    values = [
        float("nan") if np.ptp(one) == 0.0 or np.ptp(other) == 0.0 else float(spearmanr(one, other).statistic)
        for one, other in rows
    ]
    return torch.tensor(values, device=first.device)
