"""The training objective of the denoiser, with the random choices that a training step makes.

Everything is a pure function of tensors; randomness comes in as a generator.
"""

import torch
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.diffusion.prediction import Denoise, add_noise, target
from jeppa.errors import ConfigError
from jeppa.gaussian import gaussian_nll


def denoising_loss(
    denoise: Denoise,
    z0: Tensor,
    t: Tensor,
    noise: Tensor,
    alpha_bars: Tensor,
    kind: PredictionKind = "v_prediction",
) -> dict[str, Tensor]:
    """The faithful loss of a denoiser, each term float32 `[B]`, the mean over C, h and w.

    `mse` is the squared error of the mean; where the net predicts a logvar, `variance_nll` is the negative log density
    of the same error, detached, in nats a dimension (log 2 pi included) and `chi2` the mean of error^2 / variance, 1
    when the variance is right. If the head sees only detached features, the net's mean is that of an ordinary denoiser.

    A mean rather than a sum, so that it compares across latent sizes: `mse` is about 1 for a net that predicts v = 0
    on standardised latents. Timesteps weigh equally. For v that weighs the error of x0 by SNR + 1 =
    1 / (1 - alpha_bar), which stays finite at zero terminal SNR.

    Args:
        denoise: gives the prediction for (zt, t), see `jeppa.diffusion.guided`.
        z0: standardised clean latent `[B,C,h,w]`.
        t: LongTensor `[B]`, each 0 to T-1.
        noise: standard normal, shape of z0.
        alpha_bars: float64 `[T]`, see `jeppa.diffusion.alpha_bars`.
        kind: what the net predicts.

    Source: Salimans and Ho, arXiv 2202.00512, section 4; Stirn et al., arXiv 2212.09184, eq. 5; Bao et al., arXiv
    2206.07309 (NPR).
    """
    bars = alpha_bars[t.to(alpha_bars.device)]
    predicted = denoise(add_noise(z0, noise, bars), t)
    error = predicted.mean.float() - target(kind, z0, noise, bars).float()
    terms = {"mse": error.square().flatten(1).mean(1)}
    if predicted.logvar is None:
        return terms
    logvar = predicted.logvar.float()
    fixed = error.detach()
    terms["variance_nll"] = gaussian_nll(fixed, logvar).flatten(1).mean(1)
    terms["chi2"] = (fixed.square() * (-logvar.detach()).exp()).flatten(1).mean(1)
    return terms


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
