"""Is sigma large where the error is? Scores of the order of sigma alone, one value per image.

Any rising function of sigma has the same scores. Arguments are as in `jeppa.evaluate.calibration`.
"""

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from jeppa.evaluate.metrics import check_same_shape

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
