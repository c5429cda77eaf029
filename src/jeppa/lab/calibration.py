"""Is sigma as large as the error, and is it large where the error is? One value per image.

Common arguments: `x` original `[B,3,H,W]` in [-1,1]; `mean` reconstruction of the same shape, *not* clamped;
`logvar` natural log of the variance of x, any shape that broadcasts to `mean`; `df` None for Gaussian marginals, or
the degrees of freedom (above 2) of Student-t marginals, whose *variance* is exp(logvar) too. Pass the dequantised
`x` where sigma may be as small as half a grey level, else rounding to 8 bits counts as model error.

Calibration (`chi2`, `coverage`, `pit`, `crps`) judges each pixel's p(x|z). The others are scores of the order of sigma
alone: any rising function of sigma has the same scores.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import spearmanr
from scoringrules import crps_normal, crps_t
from torch import Tensor
from torch.nn import functional

from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lab.metrics import check_same_shape

COVERAGE_LEVELS = (0.5, 0.68, 0.9, 0.95)


def chi2(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean squared standardised residual, (x - mean)^2 / variance: `[B]`.

    Target 1; above 1 sigma is too small on average, below 1 too large. Unbounded: one tiny sigma can rule it.
    """
    check_same_shape(x, mean)
    squared = (x.float() - mean.float()).square()
    return (squared * (-logvar.float()).exp()).flatten(1).mean(1)


def coverage(x: Tensor, mean: Tensor, logvar: Tensor, level: float, df: float | None = None) -> Tensor:
    """Share of values inside the central interval that should hold `level` of them, 0 to 1: `[B]`.

    Args:
        x: see the module docstring.
        mean: see the module docstring.
        logvar: see the module docstring.
        level: target share, between 0 and 1 exclusive; 0.68 is exactly that, not "one sigma" (0.6827).
        df: see the module docstring.

    Raises:
        ValueError: if `level` is not strictly between 0 and 1, or `df` not above 2.
    """
    check_same_shape(x, mean)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}, but must lie strictly between 0 and 1")
    upper = 0.5 + level / 2.0
    quantile = float(ndtri(upper) if df is None else stdtrit(df, upper))
    inside = (x.float() - mean.float()).abs() <= quantile * scale(logvar, df)
    return inside.float().flatten(1).mean(1)


def pit(x: Tensor, mean: Tensor, logvar: Tensor, df: float | None = None, bins: int = 20) -> Tensor:
    """Histogram of the probability integral transform F(x), where F is each value's predicted distribution: `[B,bins]`.

    Shares of equal bins over [0,1], which sum to 1. Flat (1/bins each) is calibrated; a hump says that sigma is
    too large, a bowl that it is too small, a slope that the mean is off.

    Raises:
        ValueError: if the shapes differ, `bins` is below 1, or `df` is not above 2.

    Source: Gneiting, Balabdaoui and Raftery, J. R. Statist. Soc. B 69(2), 2007, section 3.1.
    """
    check_same_shape(x, mean)
    if bins < 1:
        raise ValueError(f"bins is {bins}, but must be at least 1")
    standardised = _array((x.float() - mean.float()) / scale(logvar, df))
    probability = ndtr(standardised) if df is None else stdtr(df, standardised)
    index = np.minimum((probability * bins).astype(np.int64), bins - 1).reshape(x.shape[0], -1)
    shares = [np.bincount(one, minlength=bins) / one.size for one in index]
    return torch.from_numpy(np.stack(shares)).float()


def crps(x: Tensor, mean: Tensor, logvar: Tensor, df: float | None = None) -> Tensor:
    """Continuous ranked probability score in 8-bit grey levels, lower is better: `[B]`.

    The integral of (F(y) - [y >= x])^2 over y, averaged over values: |x - mean| for a certain prediction, and more
    robust than the log score, as it grows with the error and not with its square.

    Raises:
        ValueError: if the shapes differ or `df` is not above 2.

    Source: Gneiting and Raftery, J. Am. Stat. Assoc. 102(477), 2007, equations 20 and 21.
    """
    check_same_shape(x, mean)
    values = [_array(part.float() * LEVELS_PER_UNIT) for part in (x, mean, scale(logvar, df).expand_as(mean))]
    target, centre, spread = values
    scores = crps_normal(target, centre, spread) if df is None else crps_t(target, df, centre, spread)
    return torch.from_numpy(np.asarray(scores)).float().flatten(1).mean(1)


def scale(logvar: Tensor, df: float | None) -> Tensor:
    """Scale parameter of the marginal of variance exp(logvar), shape of `logvar`: the t's is below its deviation.

    Raises:
        ValueError: if `df` is not above 2, where a Student-t has no variance.
    """
    if df is not None and not df > 2.0:
        raise ValueError(f"df is {df}, but a Student-t has a variance above 2 degrees of freedom only")
    shrink = 1.0 if df is None else math.sqrt((df - 2.0) / df)
    return (0.5 * logvar.float()).exp() * shrink


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array


STEPS = 100
REMOVED = tuple(step / STEPS for step in range(STEPS))
"""Shares of pixels removed at the points of a sparsification curve."""


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


def sparsification(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Error left after the most uncertain pixels are removed, relative to the error of all: `[B,len(REMOVED)]`.

    At `REMOVED[i]` that share of the pixels (rounded down), their channels pooled, is gone; the value is the
    root mean squared error of the rest over that of the whole image. It starts at 1 and falls if sigma knows
    where the error is. Pixels of equal variance count with their mean squared error, as if in random order, so
    a constant sigma gives 1 throughout. NaN for an exact reconstruction.

    Raises:
        ValueError: if the shapes differ.

    Source: Ilg et al., arXiv 1802.07095, section 4.
    """
    check_same_shape(x, mean)
    errors, variances = _pixel_error(x, mean), _pixel_variance(mean, logvar)
    return torch.stack([_remaining(*one) for one in zip(errors.flatten(1), variances.flatten(1), strict=True)])


def oracle_sparsification(x: Tensor, mean: Tensor) -> Tensor:
    """`sparsification` by the true error instead of sigma, the lowest possible curve: `[B,len(REMOVED)]`."""
    check_same_shape(x, mean)
    return torch.stack([_remaining(one, one) for one in _pixel_error(x, mean).flatten(1)])


def ause(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Area under the sparsification error: the mean gap of sigma's curve to the oracle's, 0 is ideal: `[B]`.

    Even a perfect sigma stays above 0, as single residuals are random: compare it with that of `sobel_logvar`.
    NaN for an exact reconstruction.
    """
    return (sparsification(x, mean, logvar) - oracle_sparsification(x, mean)).mean(1)


def _remaining(error: Tensor, uncertainty: Tensor) -> Tensor:
    """One curve from squared errors and what to sort them by, `[N]` each: `[len(REMOVED)]` float32."""
    ordered, order = uncertainty.sort()
    _, tie, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    of_tie = torch.bincount(tie, weights=error[order].double()) / count
    # Rising order: the first k values are what remains once the n - k most uncertain are gone.
    mean_square = of_tie[tie].cumsum(0) / torch.arange(1, error.numel() + 1, device=error.device)
    kept = [error.numel() - step * error.numel() // STEPS for step in range(STEPS)]
    chosen = mean_square[torch.tensor(kept, device=error.device) - 1]
    curve: Tensor = (chosen / mean_square[-1]).sqrt().float()
    return curve


def _pixel_error(x: Tensor, mean: Tensor) -> Tensor:
    """Squared error averaged over channels, `[B,1,H,W]`."""
    return (x.float() - mean.float()).square().mean(1, keepdim=True)


def _pixel_variance(mean: Tensor, logvar: Tensor) -> Tensor:
    """Variance averaged over channels, `[B,1,H,W]`."""
    return logvar.float().exp().expand_as(mean).mean(1, keepdim=True)


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of each row after flattening, NaN where a row is constant: `[B]`."""
    rows = zip(first.flatten(1).cpu().numpy(), second.flatten(1).cpu().numpy(), strict=True)
    # scipy warns on a constant row, where the answer is NaN by definition: do not ask it.
    values = [
        float("nan") if np.ptp(one) == 0.0 or np.ptp(other) == 0.0 else float(spearmanr(one, other).statistic)
        for one, other in rows
    ]
    return torch.tensor(values, device=first.device)


VARIANCE_FLOOR = math.exp(-12.0)
"""Variance of a log sigma of -6 (0.3 grey levels): the least that a baseline predicts, as for the decoder."""


def mean_square_error(x: Tensor, mean: Tensor) -> Tensor:
    """Mean of (x - mean)^2 over each image, in squared units of x: `[B]`."""
    check_same_shape(x, mean)
    return (x.float() - mean.float()).square().flatten(1).mean(1)


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


def _sobel_energy(x: Tensor) -> Tensor:
    """Squared Sobel gradient per pixel step, averaged over channels, edges replicated: `[B,1,H,W]`."""
    batch, channels, height, width = x.shape
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8.0
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate").view(-1, 1, height + 2, width + 2)
    gradient = functional.conv2d(padded, torch.stack([kernel, kernel.T]).unsqueeze(1))
    return gradient.square().sum(1).view(batch, channels, height, width).mean(1, keepdim=True)
