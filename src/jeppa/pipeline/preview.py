"""A sampling step in pictures: the decoded estimate, and how far off every pixel of it may be.

The law of total variance, over what the denoiser does not know about x0 and what the decoder does not know about x:

    Var[x] = E[Var[x|x0]] + Var[E[x|x0]],    x0 ~ N(estimate, Var[x0|zt]).

The first part is the decoder's variance at the estimate. The second is measured with K antithetic pairs, half the
difference of D(estimate + s) and D(estimate - s) squared, with s the deviation times a random sign for each element.
That is exact in the mean for a decoder that is linear over this distance. Signs need far fewer pairs than normal draws,
because what an element adds by itself is the same in each pair and only cross terms must average out; the mean over
cells of 8x8 pixels evens out most of these.

Source of the estimator: Hutchinson, Communications in Statistics 19(2), 1990.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.diffusion import SamplerStep
from jeppa.latent import LatentCodec
from jeppa.vae import FACTOR

PAIRS = 4
SEED = 0


@dataclass(frozen=True)
class Preview:
    """A sampling step in pictures.

    Args:
        step: the step.
        estimate: its x0 decoded, `[B,3,H,W]`.
        sigma: standard deviation of each pixel in units of x, same shape; None from a net without a variance.
    """

    step: SamplerStep
    estimate: Tensor
    sigma: Tensor | None


def preview(codec: LatentCodec, step: SamplerStep) -> Preview:
    """Decode a step's estimate and its uncertainty; 1 + 2 * PAIRS decodings, and no noise of the sampler."""
    decoded = codec.decode(step.x0)
    if step.x0_variance is None:
        return Preview(step, decoded.mean, None)
    variance = decoded.var + variance_through(codec, step.x0, step.x0_variance)
    return Preview(step, decoded.mean, variance.sqrt())


def variance_through(codec: LatentCodec, x0: Tensor, x0_variance: Tensor, pairs: int = PAIRS) -> Tensor:
    """Variance of the decoder's mean when x0 has the given variance, `[B,3,H,W]`, constant in cells of 8x8 pixels.

    The signs are the same for every sample and every step: a map does not depend on its batch, and from step to step it
    changes only with what is known.

    Args:
        codec: the frozen VAE.
        x0: standardised latents `[B,C,h,w]`.
        x0_variance: variance of each element, same shape.
        pairs: antithetic pairs K, at least 1.
    """
    generator = torch.Generator().manual_seed(SEED)
    deviation = x0_variance.sqrt()
    total = torch.zeros(()).to(x0)
    for _ in range(pairs):
        signs = torch.randint(2, x0.shape[1:], generator=generator).to(x0) * 2.0 - 1.0
        shift = deviation * signs
        half = (codec.decode(x0 + shift).mean - codec.decode(x0 - shift).mean) / 2.0
        total = total + F.avg_pool2d(half.square(), FACTOR)
    return F.interpolate(total / pairs, scale_factor=FACTOR, mode="nearest")
