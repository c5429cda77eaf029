"""DDIM inversion: from a clean latent to the noise that plain DDIM turns into it.

Song et al., arXiv 2010.02502, section 4.3. A DDIM step in terms of v is a rotation,

    zs = cos(d) zt - sin(d) v(zt, t),    so    zt = (zs + sin(d) v(zt, t)) / cos(d),

with d the angle between the two noise levels. The right-hand side has the unknown zt in it: it is iterated from
zt = zs, whose first turn is the usual approximate inversion.
"""

import math

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion.prediction import Denoise
from jeppa.diffusion.schedule import Timesteps, alpha_bars, timesteps
from jeppa.errors import ConfigError


@torch.no_grad()
def invert_ddim(
    denoise: Denoise,
    z0: Tensor,
    schedule: DDIMScheduler,
    steps: int,
    spacing: Timesteps = "trailing",
    turns: int = 5,
) -> Tensor:
    """The noise z_T, `[B,C,h,w]`, that `sample_ddim` with eta 0 takes to `z0`.

    Args:
        denoise: the net's prediction for (zt, t), see `jeppa.diffusion.guided`.
        z0: standardised clean latent `[B,C,h,w]`.
        schedule: see `make_scheduler`; only its alpha_bar values are read.
        steps: of the sampler that is undone; at most the schedule's number of timesteps, and not one from pure noise.
        spacing: of the sampler that is undone.
        turns: fixed-point iterations of each step, each an evaluation of the net; at least 1.

    Raises:
        ConfigError: if a number or `spacing` is out of range.

    Source: arXiv 2010.02502, eq. 13 and 14; Pan et al., arXiv 2309.04907 (fixed point).
    """
    if turns < 1:
        raise ConfigError(f"turns is {turns}, but each step needs at least 1 evaluation of the net")
    bars = alpha_bars(schedule).tolist()
    visited = timesteps(len(bars), steps, spacing)
    if bars[visited[-1]] == 0.0:
        raise ConfigError(f"steps is {steps}, straight from pure noise to the latent, which cannot be undone: use 10")
    z = z0
    for t, after in reversed(list(zip(visited, [*(bars[t] for t in visited[1:]), 1.0], strict=True))):
        turned = z
        for _ in range(turns):
            turned = _back(denoise, z, turned, t, bars[t], after)
        z = turned
    return z


def _back(denoise: Denoise, zs: Tensor, guess: Tensor, t: int, alpha_bar: float, alpha_bar_prev: float) -> Tensor:
    """One fixed-point iteration: the latent at t whose step, as predicted at `guess`, would end in `zs`."""
    predicted = denoise(guess, torch.full((len(zs),), t, dtype=torch.long, device=zs.device))
    x0, eps = predicted.x0(guess, alpha_bar), predicted.eps(guess, alpha_bar)
    v = math.sqrt(alpha_bar) * eps - math.sqrt(1.0 - alpha_bar) * x0
    cosine = math.sqrt(alpha_bar * alpha_bar_prev) + math.sqrt((1.0 - alpha_bar) * (1.0 - alpha_bar_prev))
    sine = math.sqrt((1.0 - alpha_bar) * alpha_bar_prev) - math.sqrt(alpha_bar * (1.0 - alpha_bar_prev))
    return (zs + sine * v) / cosine
