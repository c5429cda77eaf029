"""The noise schedule: how much of the clean latent is left at each timestep, and the names of a prediction.

The forward process is zt = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) eps, with z0 the standardised latent.
The schedule is Stable Diffusion's, rescaled to a signal-to-noise ratio of exactly zero at the last timestep
(Lin et al., arXiv 2305.08891), so that sampling can start from pure noise without a gap to training.
The net predicts v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z0 (Salimans and Ho, arXiv 2202.00512), which
stays well defined there, unlike eps.

diffusers' scheduler holds the schedule, for its config and for exports; its `add_noise` and `get_velocity`
are not used. They cast alpha_bar to the latent's dtype first, and in bfloat16 every alpha_bar above 0.998
becomes 1, which removes the noise of the first timesteps. Here coefficients are float64 until the last.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.errors import ConfigError

Spacing = Literal["trailing", "leading", "linspace"]

# denoise(zt [B,C,h,w], t LongTensor [B]) -> v [B,C,h,w]
Denoise = Callable[[Tensor, Tensor], Tensor]


def make_scheduler(train_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> DDIMScheduler:
    """The project's schedule as a diffusers scheduler, whose saved config opens in stock diffusers.

    Args:
        train_steps: number of timesteps T of the training schedule, at least 2.
        beta_start: variance added at the first timestep, before the rescaling to zero terminal SNR.
        beta_end: variance added at the last timestep, before the rescaling. For another T, scale both
            betas by 1000 / T to keep the same process on a finer or coarser grid.

    Raises:
        ConfigError: if `train_steps` is below 2 or the betas are not 0 < beta_start <= beta_end < 1.

    Source: Rombach et al., arXiv 2112.10752 (betas); Lin et al., arXiv 2305.08891, Algorithm 1.
    """
    if train_steps < 2:
        raise ConfigError(f"train_steps is {train_steps}, but a schedule needs at least 2: use 1000")
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise ConfigError(f"betas are {beta_start} to {beta_end}, but need 0 < start <= end < 1: use 0.00085 to 0.012")
    return DDIMScheduler(
        num_train_timesteps=train_steps,
        beta_start=beta_start,
        beta_end=beta_end,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def alpha_bars(schedule: DDIMScheduler) -> Tensor:
    """The share of signal variance left at each timestep: float64 `[T]` on the CPU, decreasing to exactly 0.

    The values are diffusers' float32 ones, so that both libraries mean the same process; only the arithmetic
    done with them is finer.
    """
    bars: Tensor = schedule.alphas_cumprod.double().cpu()
    return bars


def timesteps(train_steps: int, steps: int, spacing: Spacing = "trailing") -> list[int]:
    """The timesteps that a sampler visits, in descending order: exactly `steps` of them.

    Equal to `DDIMScheduler.set_timesteps`, including the rounding of halves, but for one thing: its trailing
    list has an extra entry of -1 at some step counts (61, 103, 121, ... of 1000), which is left out here.

    Only trailing starts at the last timestep at every step count; leading stops short of it and, like
    linspace at one step, would treat pure noise as a nearly clean latent. They are for comparisons.

    Args:
        train_steps: timesteps T of the training schedule.
        steps: how many to visit, 1 to `train_steps`.
        spacing: trailing (ends of T/steps wide intervals), leading (their starts), linspace (both ends).

    Raises:
        ConfigError: if `steps` is out of range or `spacing` unknown.

    Source: Lin et al., arXiv 2305.08891, Table 2.
    """
    if not 1 <= steps <= train_steps:
        raise ConfigError(f"steps is {steps}, but the schedule has {train_steps} timesteps: choose 1 to {train_steps}")
    if spacing == "trailing":
        ends = np.arange(train_steps, 0, -train_steps / steps)[:steps]
        visited = np.round(ends) - 1
    elif spacing == "leading":
        visited = np.arange(steps)[::-1] * (train_steps // steps)
    elif spacing == "linspace":
        visited = np.linspace(0, train_steps - 1, steps).round()[::-1]
    else:
        raise ConfigError(f"spacing is {spacing!r}, but must be one of {', '.join(get_args(Spacing))}")
    return [int(t) for t in visited]


def add_noise(z0: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noised latent zt = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) eps, shape and dtype of `z0`.

    Args:
        z0: standardised clean latent `[B,C,h,w]`.
        eps: standard normal noise, same shape.
        alpha_bar: one value in [0, 1], or `[B]` with one for each sample.

    Source: Ho et al., arXiv 2006.11239, eq. 4.
    """
    signal, noise = _rates(alpha_bar, z0)
    return signal * z0 + noise * eps


def v_target(z0: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """What the net learns to predict: v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z0.

    Args as for `add_noise`. Source: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D.
    """
    signal, noise = _rates(alpha_bar, z0)
    return signal * eps - noise * z0


def x0_from_v(zt: Tensor, v: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The clean latent that `v` implies: sqrt(alpha_bar) zt - sqrt(1 - alpha_bar) v; -v at alpha_bar 0.

    Args:
        zt: noised latent `[B,C,h,w]`.
        v: v, true or predicted, same shape.
        alpha_bar: one value in [0, 1], or `[B]`.

    Source: Salimans and Ho, arXiv 2202.00512, section 4 (alpha^2 + sigma^2 = 1, so nothing is divided).
    """
    signal, noise = _rates(alpha_bar, zt)
    return signal * zt - noise * v


def eps_from_v(zt: Tensor, v: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noise that `v` implies: sqrt(1 - alpha_bar) zt + sqrt(alpha_bar) v; zt itself at alpha_bar 0.

    Args and source as for `x0_from_v`.
    """
    signal, noise = _rates(alpha_bar, zt)
    return noise * zt + signal * v


def _rates(alpha_bar: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), computed in float64, ready to broadcast against `like`."""
    bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    bar = bar.reshape(bar.shape + (1,) * (like.dim() - bar.dim()))
    return bar.sqrt().to(like), (1.0 - bar).sqrt().to(like)
