"""Images with KNOWN mean and variance, to check that a model recovers a variance that depends on its input.

    known_gaussian:  x = mean + exp(logvar / 2) * noise,                    logvar = known_logvar(mean)
    known_bands:     x = mean + from_bands(exp(band_logvar / 2) * noise),   band_logvar = known_band_logvar(mean)

The mean is smooth and the variance a function of the mean alone, so that a network that sees the mean, even
one with a small field of view, can learn the variance exactly.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jeppa.config import CELL, Basis
from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.distributions import BandGaussian
from jeppa.errors import ConfigError

SIGMA_LEVELS = (1.0, 25.0)
"""Range of sigma in 8-bit grey levels: from a clean photograph to a very noisy one."""
MEAN_RANGE = 0.8
BAND_DECAY = math.log(10.0)
"""How much smaller log sigma is at the highest frequency than at a cell's mean colour."""
_KNOTS = 4


@dataclass(frozen=True)
class SyntheticBands:
    """A draw and the distribution that it comes from; `x` and `truth.mean` are float32 `[B,3,H,W]`."""

    x: Tensor
    truth: BandGaussian


@dataclass(frozen=True)
class SyntheticImages:
    """A draw and the distribution that it comes from; all float32 `[B,3,H,W]`.

    Args:
        x: one draw, in units of x ([-1,1] is black to white) but not clipped, so that it stays Gaussian.
        mean: the true mean, in [-0.8, 0.8].
        logvar: natural log of the true variance, in the units of x squared.
    """

    x: Tensor
    mean: Tensor
    logvar: Tensor


def known_gaussian(count: int, size: int, seed: int) -> SyntheticImages:
    """Draw `count` images of `size` x `size` pixels; image i depends on (seed, i, size) alone.

    Raises:
        ConfigError: if `count` or `size` is not positive or `seed` is negative.
    """
    generators = _generators(count, size, seed)
    mean = _means(generators, size)
    noise = torch.stack([_normal(rng, size) for rng in generators])
    logvar = known_logvar(mean)
    return SyntheticImages(mean + (0.5 * logvar).exp() * noise, mean, logvar)


def known_bands(count: int, size: int, seed: int, basis: Basis) -> SyntheticBands:
    """Draw `count` images whose residual is independent in the bands of `basis`; `size` is a multiple of 8.

    Raises:
        ConfigError: if `count` or `size` is not positive, `size` no multiple of 8, or `seed` negative.
    """
    if size % CELL:
        raise ConfigError(f"size is {size}, but bands need a multiple of {CELL}")
    mean = _means(_generators(count, size, seed), size)
    truth = BandGaussian(mean, known_band_logvar(mean), basis)
    return SyntheticBands(truth.sample([torch.Generator().manual_seed(seed * count + i) for i in range(count)]), truth)


def known_band_logvar(mean: Tensor) -> Tensor:
    """The true log-variance of each coefficient, in the layout of `jeppa.distributions`, where the true mean is `mean`.

    log sigma runs along sin(pi * cell mean) as `known_logvar` does for pixels, less a part that grows with the
    frequency up to `BAND_DECAY`.
    """
    cells = functional.avg_pool2d(mean, CELL).repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    down = torch.arange(mean.shape[2])[:, None] % CELL
    across = torch.arange(mean.shape[3]) % CELL
    return known_logvar(cells) - 2.0 * BAND_DECAY * (down + across) / (2 * (CELL - 1))


def known_logvar(mean: Tensor) -> Tensor:
    """The true log-variance where the true mean is `mean` (elementwise, same shape).

    log sigma runs along sin(pi * mean) between the logs of `SIGMA_LEVELS`; in the units of x one 8-bit level
    is 1/127.5.
    """
    low, high = (math.log(levels / LEVELS_PER_UNIT) for levels in SIGMA_LEVELS)
    share = 0.5 + 0.5 * torch.sin(math.pi * mean)
    return 2.0 * (low + (high - low) * share)


def _generators(count: int, size: int, seed: int) -> list[np.random.Generator]:
    for name, value, least in (("count", count, 1), ("size", size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} is {value}, but must be at least {least}")
    return [np.random.default_rng([seed, index]) for index in range(count)]


def _means(generators: list[np.random.Generator], size: int) -> Tensor:
    return _smooth(torch.stack([_normal(rng, _KNOTS) for rng in generators]), size)


def _normal(rng: np.random.Generator, size: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((3, size, size), dtype=np.float32))


def _smooth(knots: Tensor, size: int) -> Tensor:
    """Interpolate `[B,3,k,k]` to `[B,3,size,size]`; the peak magnitude of each channel is `MEAN_RANGE`."""
    surface = functional.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    peak = surface.abs().amax(dim=(2, 3), keepdim=True)
    return MEAN_RANGE * surface / peak
