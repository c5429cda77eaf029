"""What a net predicts from a noised latent (v, eps or x0, and the variance of its error), and the loss it learns from.

zt = a z0 + b eps with a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar), so each of v, eps and x0 is a linear function of
zt and any other, and a variance of one given zt is a multiple of that of another:

    Var[x0|zt] = b^2 Var[v|zt] = (b/a)^2 Var[eps|zt]

The factor of eps grows without bound towards pure noise; that of v never exceeds 1.

Below are the prediction, the loss, and the random choices of a training step. All functions are pure functions of
tensors; random numbers come from a generator that the caller passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.distributions import gaussian_nll
from jeppa.errors import ConfigError


@dataclass(frozen=True)
class Prediction:
    """The net's answer for `zt`.

    Args:
        mean: v, eps or x0, `[B,C,h,w]`.
        logvar: natural log of the variance of the mean's error given zt, same shape; None from a net without a head.
        kind: which of the three the mean is.
    """

    mean: Tensor
    logvar: Tensor | None = None
    kind: PredictionKind = "v_prediction"

    def x0(self, zt: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """The clean latent that the mean implies, shape of `zt`.

        Args:
            zt: noised latent `[B,C,h,w]`.
            alpha_bar: one value in [0, 1], or `[B]`; above 0 for `epsilon`.

        Source: Salimans and Ho, arXiv 2202.00512, section 4.
        """
        signal, noise = rates(alpha_bar, zt)
        if self.kind == "v_prediction":
            return signal * zt - noise * self.mean
        return self.mean if self.kind == "sample" else (zt - noise * self.mean) / signal

    def eps(self, zt: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """The noise that the mean implies, shape of `zt`; args as for `x0`, alpha_bar below 1 for `sample`."""
        signal, noise = rates(alpha_bar, zt)
        if self.kind == "v_prediction":
            return noise * zt + signal * self.mean
        return self.mean if self.kind == "epsilon" else (zt - signal * self.mean) / noise

    def x0_variance(self, alpha_bar: float, largest: float = 1.0) -> Tensor | None:
        """Var[x0|zt], float32 `[B,C,h,w]`, or None without a logvar.

        Args:
            alpha_bar: in [0, 1]; at 0 an eps says nothing about x0, whose variance is then `largest`.
            largest: bound, the variance of the data: 1 for standardised latents. On average over zt the true one is no
                larger, but a net's logvar times (1 - alpha_bar) / alpha_bar can be.

        Source: Bao et al., arXiv 2206.07309, for eps; the module docstring for v.
        """
        if self.logvar is None:
            return None
        if self.kind == "epsilon" and alpha_bar == 0.0:
            return torch.full_like(self.logvar, largest, dtype=torch.float32)
        scale = {"sample": 1.0, "v_prediction": 1.0 - alpha_bar, "epsilon": (1.0 - alpha_bar) / (alpha_bar or 1.0)}
        return (scale[self.kind] * self.logvar.float().exp()).clamp(max=largest)


# denoise(zt [B,C,h,w], t LongTensor [B]) -> Prediction
Denoise = Callable[[Tensor, Tensor], Prediction]


def add_noise(z0: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noised latent zt = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) eps, shape and dtype of `z0`.

    Args:
        z0: standardised clean latent `[B,C,h,w]`.
        eps: standard normal noise, same shape.
        alpha_bar: one value in [0, 1], or `[B]` with one for each sample.

    Source: Ho et al., arXiv 2006.11239, eq. 4.
    """
    signal, noise = rates(alpha_bar, z0)
    return signal * z0 + noise * eps


def target(kind: PredictionKind, z0: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """What a net of this kind learns to predict; v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z0.

    Args as for `add_noise`. Source: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D.
    """
    if kind != "v_prediction":
        return eps if kind == "epsilon" else z0
    signal, noise = rates(alpha_bar, z0)
    return signal * eps - noise * z0


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of prediction.

    Raises:
        ConfigError: it is none of `PredictionKind`.
    """
    if kind not in get_args(PredictionKind):
        raise ConfigError(f"prediction is {kind!r}, but must be one of {', '.join(get_args(PredictionKind))}")


def rates(alpha_bar: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), computed in float64, ready to broadcast against `like`."""
    bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    bar = bar.reshape(bar.shape + (1,) * (like.dim() - bar.dim()))
    return bar.sqrt().to(like), (1.0 - bar).sqrt().to(like)


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
        denoise: gives the prediction for (zt, t), see `jeppa.diffusion.make_denoise`.
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
