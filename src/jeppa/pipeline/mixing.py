"""Pictures between two pictures: a fade or a fusion of their latents, or a morph through noise.

- `fade`: the straight line between the posterior means. Its middle looks like a double exposure.
- `fuse`: the product of the posteriors with powers 1 - share and share. In each element of the latent, the posterior
  with the smaller variance counts more.
- `morph`: DDIM inversion turns both means into noise, and DDIM turns points of the great circle between the two noises
  back into latents. So every picture of a morph is a sample of the denoiser.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from jeppa.config import DDIMSettings
from jeppa.distributions import DiagonalGaussian, Predictive
from jeppa.errors import ConfigError
from jeppa.pipeline.model import Model, batch_size_for

Method = Literal["fade", "fuse", "morph"]


def between(
    model: Model, a: Tensor, b: Tensor, shares: Sequence[float], method: Method, settings: DDIMSettings
) -> Iterator[Predictive]:
    """Decoded pictures, `[1,3,H,W]`, at shares of the way from `a` to `b`.

    Args:
        model: with a denoiser for `morph`.
        a: first picture, `[3,H,W]`, H and W multiples of 8.
        b: second picture, of the same size.
        shares: 0 is the reconstruction of `a`, 1 that of `b`; a `morph` reaches them as nearly as the inversion allows.
        method: `fade`, `fuse` or `morph`.
        settings: steps and label of the morph.

    Raises:
        CheckpointError: a morph without a denoiser.
        ConfigError: a share outside 0 to 1, an unknown method, or settings out of range.
    """
    outside = [share for share in shares if not 0.0 <= share <= 1.0]
    if outside:
        raise ConfigError(f"share is {outside[0]}, but must lie in 0 (the first picture) to 1 (the second)")
    if method not in get_args(Method):
        raise ConfigError(f"method is {method!r}, but must be one of {', '.join(get_args(Method))}")
    first, second = _split_pair(model.codec.encode(torch.stack([a, b])))
    if method == "morph":
        latents = _morph(model, first.mean, second.mean, shares, settings)
    elif method == "fuse":
        latents = (fuse(first, second, share).mean for share in shares)
    else:
        latents = (torch.lerp(first.mean, second.mean, share) for share in shares)
    return (model.codec.decode(z0) for z0 in latents)


def even_shares(frames: int) -> list[float]:
    """Shares 0 to 1 for a path of this many frames, both ends included.

    Raises:
        ConfigError: fewer than 2 frames.
    """
    if frames < 2:
        raise ConfigError(f"frames is {frames}, but a path needs at least its 2 ends")
    return [float(share) for share in torch.linspace(0.0, 1.0, frames)]


def fuse(a: DiagonalGaussian, b: DiagonalGaussian, share: float) -> DiagonalGaussian:
    """The product of two Gaussians with powers 1 - share and share, element by element, normalised.

    Precisions add up: with p = (1 - share) / var_a and q = share / var_b, the mean is (p mean_a + q mean_b) / (p + q)
    and the variance 1 / (p + q). Share 0 gives `a` exactly, 1 gives `b`.

    Args:
        a: the first posterior.
        b: the second, same shape.
        share: of `b`, 0 to 1.

    Source: logarithmic opinion pool of Gaussians; Hinton, Products of experts, ICANN 1999, for powers of 1.
    """
    log_p = math.log1p(-share) - a.logvar if share < 1.0 else torch.full_like(a.logvar, -math.inf)
    log_q = math.log(share) - b.logvar if share > 0.0 else torch.full_like(b.logvar, -math.inf)
    return DiagonalGaussian(torch.lerp(a.mean, b.mean, torch.sigmoid(log_q - log_p)), -torch.logaddexp(log_p, log_q))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at `share` of the way from `a` to `b` on the great circle through them, all elements as one vector.

    The ends are exact. If both vectors have the same norm, so has every point between them. Noise needs that: the
    middle of the straight line between two noises has only half their variance. For equal or opposite directions, which
    have no single great circle, the straight line is taken.

    Args:
        a: any shape, not zero.
        b: same shape.
        share: 0 to 1.

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    x, y = a.double(), b.double()
    cosine = float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-12))
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if math.sin(angle) < 1e-4:
        return torch.lerp(a, b, share)
    weights = math.sin((1.0 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    return (weights[0] * x + weights[1] * y).to(a.dtype)


def _split_pair(both: DiagonalGaussian) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    first, second = (DiagonalGaussian(both.mean[i : i + 1], both.logvar[i : i + 1]) for i in range(2))
    return first, second


def _morph(model: Model, a: Tensor, b: Tensor, shares: Sequence[float], settings: DDIMSettings) -> Iterator[Tensor]:
    first, second = model.invert(torch.cat([a, b]), settings)
    count = batch_size_for(model.factor * max(a.shape[2:]))
    for start in range(0, len(shares), count):
        noise = torch.stack([slerp(first, second, share) for share in shares[start : start + count]])
        *_, last = model.sample_from(noise, settings)
        yield from last.zt.split(1)
