"""The noise schedule: how much of the clean latent is left at each timestep, and which timesteps a sampler visits.

The forward process is zt = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) eps, with z0 the standardised latent.
The schedule is Stable Diffusion's, rescaled to a signal-to-noise ratio of exactly zero at the last timestep
(Lin et al., arXiv 2305.08891), so that sampling can start from pure noise without a gap to training. A net
that predicts eps says nothing there, so its schedule is left as it was.

diffusers' scheduler holds the schedule, for its config and for exports; its `add_noise` and `get_velocity`
are not used. They cast alpha_bar to the latent's dtype first, and in bfloat16 every alpha_bar above 0.998
becomes 1, which removes the noise of the first timesteps. Here coefficients are float64 until the last.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.errors import ConfigError

Spacing = Literal["trailing", "leading", "linspace"]

Timesteps = Spacing | Sequence[int]
"""A rule for a number of steps, or the list itself."""


def make_scheduler(
    train_steps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    kind: PredictionKind = "v_prediction",
) -> DDIMScheduler:
    """The project's schedule as a diffusers scheduler, whose saved config opens in stock diffusers.

    Args:
        train_steps: number of timesteps T of the training schedule, at least 2.
        beta_start: variance added at the first timestep, before the rescaling to zero terminal SNR.
        beta_end: variance added at the last timestep, before the rescaling. For another T, scale both
            betas by 1000 / T to keep the same process on a finer or coarser grid.
        kind: what the net predicts; the terminal signal-to-noise ratio is zero unless it is `epsilon`.

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
        rescale_betas_zero_snr=kind != "epsilon",
        prediction_type=kind,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def alpha_bars(schedule: DDIMScheduler) -> Tensor:
    """The share of signal variance left at each timestep: float64 `[T]` on the CPU, decreasing.

    At zero terminal SNR the last one is exactly 0.

    The values are diffusers' float32 ones, so that both libraries mean the same process; only the arithmetic
    done with them is finer.
    """
    bars: Tensor = schedule.alphas_cumprod.double().cpu()
    return bars


def timesteps(train_steps: int, steps: int, spacing: Timesteps = "trailing") -> list[int]:
    """The timesteps that a sampler visits, in descending order: exactly `steps` of them.

    Equal to `DDIMScheduler.set_timesteps`, including the rounding of halves, but for one thing: its trailing
    list has an extra entry of -1 at some step counts (61, 103, 121, ... of 1000), which is left out here.

    Only trailing starts at the last timestep at every step count; leading stops short of it and, like
    linspace at one step, would treat pure noise as a nearly clean latent. They are for comparisons.

    Args:
        train_steps: timesteps T of the training schedule.
        steps: how many to visit, 1 to `train_steps`.
        spacing: trailing (ends of T/steps wide intervals), leading (their starts), linspace (both ends), or a list
            of `steps` timesteps, descending.

    Raises:
        ConfigError: if `steps` is out of range, `spacing` unknown, or a list is not descending within 0 to T-1.

    Source: Lin et al., arXiv 2305.08891, Table 2.
    """
    check_steps(train_steps, steps)
    if not isinstance(spacing, str):
        return _check_visited(spacing, steps, train_steps)
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


def check_steps(train_steps: int, steps: int) -> None:
    """Refuse a number of steps that a schedule of `train_steps` timesteps does not have.

    Raises:
        ConfigError: it is below 1 or above `train_steps`.
    """
    if not 1 <= steps <= train_steps:
        raise ConfigError(f"steps is {steps}, but the schedule has {train_steps} timesteps: choose 1 to {train_steps}")


def _check_visited(visited: Sequence[int], steps: int, train_steps: int) -> list[int]:
    within = len(visited) == steps and all(0 <= t < train_steps for t in visited)
    if not within or any(after >= before for before, after in pairwise(visited)):
        raise ConfigError(
            f"timesteps are {list(visited)}, but must be {steps} in descending order from {train_steps - 1} to 0"
        )
    return [int(t) for t in visited]
