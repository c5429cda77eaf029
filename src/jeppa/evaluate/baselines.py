"""What a learned sigma must beat: one constant, and the edges of the reconstruction.

Without the second, sigma could be just an edge detector. Both are given the true error, so they are as strong as
such a sigma can be. Arguments are as in `jeppa.evaluate.calibration`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from jeppa.evaluate.metrics import check_same_shape

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
