"""The training objective of the denoiser, with the random choices that a training step makes.

Everything is a pure function of tensors; randomness comes in as a generator.
"""

import torch
from torch import Tensor

from jeppa.diffusion.schedule import Denoise, add_noise, v_target
from jeppa.errors import ConfigError


def v_loss(denoise: Denoise, z0: Tensor, t: Tensor, noise: Tensor, alpha_bars: Tensor) -> Tensor:
    """Squared error of the predicted v for each sample, float32 `[B]`: the mean over C, h and w.

    A mean rather than a sum, so that it compares across latent sizes: about 1 for a net that predicts 0 on
    standardised latents. It is a squared error, not a likelihood: no variance, no log 2 pi, no unit of nats.

    Timesteps weigh equally in v. In terms of x0 the same error is weighted by SNR + 1 =
    1 / (1 - alpha_bar), the "SNR + 1" weighting, which stays finite at zero terminal SNR.

    Args:
        denoise: gives v for (zt, t), see `jeppa.diffusion.guided`.
        z0: standardised clean latent `[B,C,h,w]`.
        t: LongTensor `[B]`, each 0 to T-1.
        noise: standard normal, shape of z0.
        alpha_bars: float64 `[T]`, see `jeppa.diffusion.alpha_bars`.

    Source: Salimans and Ho, arXiv 2202.00512, section 4.
    """
    bars = alpha_bars[t.to(alpha_bars.device)]
    v = denoise(add_noise(z0, noise, bars), t)
    error = v.float() - v_target(z0, noise, bars).float()
    return error.square().flatten(1).mean(1)


def sample_timesteps(batch: int, train_steps: int, generator: torch.Generator) -> Tensor:
    """Timesteps for a batch, evenly spread: LongTensor `[batch]`, each 0 to train_steps-1.

    One random offset u is shared: t_i = floor(T * ((u + i/B) mod 1)). Each is uniform by itself, and every
    B-th part of the schedule gets exactly one, so that the loss varies less from batch to batch than with
    independent draws. Neighbouring rows have neighbouring timesteps, which is harmless on shuffled data.

    Args:
        batch: number of samples B, at least 1.
        train_steps: timesteps T of the schedule, at least 1.
        generator: advanced by one draw, whatever B.

    Raises:
        ConfigError: if a number is below 1.

    Source: Kingma et al., arXiv 2107.00630, appendix I.1.
    """
    if batch < 1 or train_steps < 1:
        raise ConfigError(f"batch is {batch} and train_steps {train_steps}, but both must be at least 1")
    device = generator.device
    offset = torch.rand((), generator=generator, device=device, dtype=torch.float64)
    position = (offset + torch.arange(batch, device=device, dtype=torch.float64) / batch) % 1.0
    # T * u can round up to T for u just below 1.
    return (position * train_steps).long().clamp(max=train_steps - 1)


def drop_labels(labels: Tensor, null_label: int, probability: float, generator: torch.Generator) -> Tensor:
    """Replace each label by the null label with the given probability, so that one net learns both.

    Args:
        labels: LongTensor `[B]`; not changed.
        null_label: see `jeppa.diffusion.null_label`.
        probability: 0 (never) to 1 (always); 0.1 is customary.
        generator: advanced by B draws, whatever the probability.

    Raises:
        ConfigError: if `probability` is outside [0, 1].

    Source: Ho and Salimans, arXiv 2207.12598, Algorithm 1.
    """
    if not 0.0 <= probability <= 1.0:
        raise ConfigError(f"label drop probability is {probability}, but must lie in 0 to 1: use 0.1")
    draws = torch.rand(labels.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return labels.masked_fill((draws < probability).to(labels.device), null_label)
