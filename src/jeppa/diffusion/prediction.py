"""What a net says about a noised latent: v, eps or x0, and how far off it expects to be.

zt = a z0 + b eps with a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar), so each of v, eps and x0 is a linear function of
zt and any other, and a variance of one given zt is a multiple of that of another:

    Var[x0|zt] = b^2 Var[v|zt] = (b/a)^2 Var[eps|zt]

The factor of eps grows without bound towards pure noise; that of v never exceeds 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.errors import ConfigError


@dataclass(frozen=True)
class Prediction:
    """The net's answer for `zt`.

    Args:
        mean: v, eps or x0, `[B,C,h,w]`.
        logvar: natural log of the variance of its error given zt, same shape; None if the net does not know.
        kind: which of the three it is.
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
