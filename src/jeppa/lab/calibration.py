"""Judge a predicted sigma: is it as large as the error, and is it large where the error is? One value per image.

Common arguments: `x` original `[B,3,H,W]` in [-1,1]; `mean` reconstruction of the same shape, *not* clamped;
`logvar` natural log of the variance of x, any shape that broadcasts to `mean`; `df` None for Gaussian marginals, or
the degrees of freedom (above 2) of Student-t marginals, whose *variance* is exp(logvar) too. Where sigma may be as
small as half a grey level, pass the dequantised `x`; otherwise rounding to 8 bits counts as an error of the model.

`chi2`, `coverage`, `pit` and `crps` judge the size of sigma: the calibration of each pixel's p(x|z). The other scores
judge only its order: any rising function of sigma has the same score.

Two baselines give a score its meaning: one constant sigma, and a sigma proportional to the edges of the
reconstruction, without which a learned sigma might be a mere edge detector. Both are scaled by the true error, so no
sigma of their kind is stronger.
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

    Target 1; above 1 sigma is too small on average, below 1 too large. A single tiny sigma can dominate it.
    """
    check_same_shape(x, mean)
    squared = (x.float() - mean.float()).square()
    return (squared * (-logvar.float()).exp()).flatten(1).mean(1)


def coverage(x: Tensor, mean: Tensor, logvar: Tensor, level: float, df: float | None = None) -> Tensor:
    """Share of values inside the central interval that should contain the share `level`, 0 to 1: `[B]`.

    Args:
        x: see the module docstring.
        mean: see the module docstring.
        logvar: see the module docstring.
        level: target share, between 0 and 1 exclusive; 0.68 means 0.68 and not "one sigma" (0.6827).
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

    Shares of equal bins over [0,1], which sum to 1. Flat (1/bins each) is calibrated; a hump shows that sigma is
    too large, a U that it is too small, a slope that the mean is off.

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
    shares = [np.bincount(row, minlength=bins) / row.size for row in index]
    return torch.from_numpy(np.stack(shares)).float()


def crps(x: Tensor, mean: Tensor, logvar: Tensor, df: float | None = None) -> Tensor:
    """Continuous ranked probability score in 8-bit grey levels, lower is better: `[B]`.

    The integral of (F(y) - [y >= x])^2 over y, averaged over values. For sigma 0 it is |x - mean|. It is more robust
    than the log score, because it grows with the error and not with its square.

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
    """Scale parameter of the marginal of variance exp(logvar), shape of `logvar`; that of a t is below its deviation.

    Raises:
        ValueError: if `df` is not above 2, where a Student-t has no variance.
    """
    if df is not None and not df > 2.0:
        raise ValueError(f"df is {df}, but a Student-t has a variance only above 2 degrees of freedom")
    shrink = 1.0 if df is None else math.sqrt((df - 2.0) / df)
    return (0.5 * logvar.float()).exp() * shrink


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array


STEPS = 100
REMOVED = tuple(step / STEPS for step in range(STEPS))
"""Share of pixels that is removed at each point of a sparsification curve."""


def block_spearman(x: Tensor, mean: Tensor, logvar: Tensor, block: int = 8) -> Tensor:
    """Rank correlation over blocks of root mean predicted variance and mean |error|, -1 to 1: `[B]`.

    Blocks pool channels and `block` x `block` pixels; incomplete ones at the right and bottom are left out.
    Pooling averages out the chance in single residuals, which limits `pixel_spearman` even for a perfect sigma.
    Ties get average ranks. NaN (null in reports) where sigma or the error is constant, and thus for a single block.

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
    """`block_spearman` of single pixels, their channels pooled, -1 to 1: `[B]`.

    Even a perfect sigma stays well below 1 here, because single residuals are random. NaN as in `block_spearman`.
    """
    return block_spearman(x, mean, logvar, block=1)


def sparsification(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Error left after the most uncertain pixels are removed, relative to the error of all: `[B,len(REMOVED)]`.

    At point i the share `REMOVED[i]` of the pixels (rounded down), their channels pooled, is removed; the value is
    the root mean squared error of the rest over that of the whole image. It starts at 1 and falls if sigma is
    large where the error is. Pixels of equal variance count as if in random order, each with their mean squared
    error, so a constant sigma gives 1 throughout. NaN for an exact reconstruction.

    Raises:
        ValueError: if the shapes differ.

    Source: Ilg et al., arXiv 1802.07095, section 4.
    """
    check_same_shape(x, mean)
    errors, variances = _pixel_error(x, mean), _pixel_variance(mean, logvar)
    return torch.stack([_remaining(*rows) for rows in zip(errors.flatten(1), variances.flatten(1), strict=True)])


def oracle_sparsification(x: Tensor, mean: Tensor) -> Tensor:
    """`sparsification` by the true error instead of sigma, the lowest possible curve: `[B,len(REMOVED)]`."""
    check_same_shape(x, mean)
    return torch.stack([_remaining(error, error) for error in _pixel_error(x, mean).flatten(1)])


def ause(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Area under the sparsification error: the mean gap between the curve of sigma and the oracle's; 0 is ideal. `[B]`.

    Even a perfect sigma stays above 0, because single residuals are random: compare it with that of `sobel_logvar`.
    NaN for an exact reconstruction.
    """
    return (sparsification(x, mean, logvar) - oracle_sparsification(x, mean)).mean(1)


def _remaining(error: Tensor, uncertainty: Tensor) -> Tensor:
    """One curve from squared errors and the uncertainty to sort them by, `[N]` each: `[len(REMOVED)]` float32."""
    ordered, order = uncertainty.sort()
    _, tie, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    of_tie = torch.bincount(tie, weights=error[order].double()) / count
    # In rising order the first k values are those that remain when the n - k most uncertain ones are removed.
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
    # On a constant row the answer is NaN by definition, and scipy would warn.
    values = [
        float("nan") if np.ptp(a) == 0.0 or np.ptp(b) == 0.0 else float(spearmanr(a, b).statistic) for a, b in rows
    ]
    return torch.tensor(values, device=first.device)


VARIANCE_FLOOR = math.exp(-12.0)
"""Least variance that a baseline predicts: that of log sigma -6 (0.3 grey levels), as for the decoder."""


def mean_square_error(x: Tensor, mean: Tensor) -> Tensor:
    """Mean of (x - mean)^2 over each image, in squared units of x: `[B]`."""
    check_same_shape(x, mean)
    return (x.float() - mean.float()).square().flatten(1).mean(1)


def constant_logvar(x: Tensor, mean: Tensor) -> Tensor:
    """Baseline: the best constant sigma for an image, as a logvar `[B,1,1,1]`.

    It is computed from the true error, so no constant is better: chi2 is 1 (unless the floor applies).
    """
    return mean_square_error(x, mean).clamp_min(VARIANCE_FLOOR).log().view(-1, 1, 1, 1)


def sobel_logvar(mean: Tensor, mean_square_error: Tensor) -> Tensor:
    """Baseline: sigma proportional to the Sobel gradient of the reconstruction, as a logvar `[B,1,H,W]`.

    The squared gradient (mean over channels) gets a small constant, `VARIANCE_FLOOR`, against log 0 in flat
    regions, and is scaled so that the mean variance of the image is its mean squared error.

    Args:
        mean: reconstruction, `[B,3,H,W]` in [-1,1], all that a decoder without a sigma head has.
        mean_square_error: the true one of each image, `[B]`, from `mean_square_error`.
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
