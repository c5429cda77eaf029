"""DDIM sampling in latent space: from noise to a standardised latent, one step at a time.

Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502. The sampler is a generator: the caller
previews each estimate, reports progress, and stops by no longer asking.

It differs from `diffusers.DDIMScheduler.step` in two points. Coefficients are float64: in float32, ancestral
sampling (eta 1) from zero terminal SNR gives NaN at 25 and 50 steps, the root of a difference rounded below 0.
And the timestep after `t` is the next in the list that is actually visited. diffusers subtracts the integer
T // steps instead (issue 9261), which misses the list for linspace, and for trailing where `steps` does not
divide T: a latent is then treated as noisier or cleaner than it is, and where T / steps rounds up (7, 15, 60
of 1000, trailing) noise is left in the result.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion.schedule import Denoise, Spacing, alpha_bars, eps_from_v, timesteps, x0_from_v
from jeppa.errors import ConfigError
from jeppa.gaussian import standard_normal

# torch's CPU generator keeps only 32 bits of its seed, so 3 and 3 + 2**32 would give the same picture.
SEED_LIMIT = 2**32


@dataclass(frozen=True)
class SamplerStep:
    """What is known after one sampling step.

    Args:
        index: number of the step, from 0.
        t: the timestep at which the net was asked.
        zt: the latent after the step, `[B,C,h,w]`; after the last step it is the sample.
        x0: the net's estimate of the clean latent at this step, same shape.
    """

    index: int
    t: int
    zt: Tensor
    x0: Tensor


def ddim_variance(alpha_bar_t: float, alpha_bar_prev: float, eta: float) -> float:
    """Variance of the fresh noise in one step: eta^2 (1-a_prev)/(1-a_t) (1 - a_t/a_prev), a for alpha_bar.

    Args:
        alpha_bar_t: in [0, 1], at the step's start.
        alpha_bar_prev: in [0, 1], at its end; nearer to 1 than `alpha_bar_t` when denoising.
        eta: 0 (deterministic) to 1 (ancestral sampling as in DDPM).

    Raises:
        ConfigError: if `eta` is outside [0, 1] or not a number, or above 0 in a step that adds noise back.

    Source: arXiv 2010.02502, eq. 16.
    """
    _check_eta(eta)
    # At the clean end there is no noise to replace, and the quotients of eq. 16 may be 0/0.
    if eta == 0.0 or alpha_bar_prev == 1.0:
        return 0.0
    if alpha_bar_prev <= alpha_bar_t:
        raise ConfigError(
            f"eta is {eta} in a step from alpha_bar {alpha_bar_t} to {alpha_bar_prev}, which does not "
            "denoise: use eta 0 to go back towards noise"
        )
    kept = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar_t)
    return eta**2 * kept * (1.0 - alpha_bar_t / alpha_bar_prev)


def ddim_step(
    x0: Tensor,
    eps: Tensor,
    alpha_bar_t: float,
    alpha_bar_prev: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One DDIM step from the estimates at t to the latent at the previous timestep.

    sqrt(a_prev) x0 + sqrt(1 - a_prev - var) eps + sqrt(var) noise, with a for alpha_bar and var the value of
    `ddim_variance`. Given x0 and eps, the latent zt that they were estimated from is not needed.

    Args:
        x0: estimate of the clean latent, `[B,C,h,w]`.
        eps: estimate of the noise, same shape.
        alpha_bar_t: in [0, 1]; 0 is pure noise.
        alpha_bar_prev: in [0, 1]; 1 returns x0.
        eta: 0 to 1.
        noise: standard normal, same shape; needed when the variance is above 0.

    Raises:
        ConfigError: see `ddim_variance`, and if the variance is above 0 and `noise` is missing.

    Source: arXiv 2010.02502, eq. 12.
    """
    variance = ddim_variance(alpha_bar_t, alpha_bar_prev, eta)
    # At eta 1 and alpha_bar_t 0 the difference is exactly 0: squaring a rounded sigma would take it below.
    direction = math.sqrt(1.0 - alpha_bar_prev - variance)
    mean = math.sqrt(alpha_bar_prev) * x0 + direction * eps
    if variance == 0.0:
        return mean
    if noise is None:
        raise ConfigError(f"eta is {eta}, which adds noise in each step: pass noise, or set eta to 0")
    return mean + math.sqrt(variance) * noise


def sample_ddim(
    denoise: Denoise,
    z_T: Tensor,  # noqa: N803 - the paper's name for the latent at the last timestep
    schedule: DDIMScheduler,
    steps: int,
    eta: float = 0.0,
    spacing: Spacing = "trailing",
    generators: list[torch.Generator] | None = None,
) -> Iterator[SamplerStep]:
    """Sample from noise; yields after each of `steps` steps. The last step's `zt` is the sample.

    Settings are checked at the call, not at the first step. The net runs without gradients; the caller's
    gradient mode is untouched between steps.

    Args:
        denoise: gives v for (zt `[B,C,h,w]`, t LongTensor `[B]`), see `jeppa.diffusion.guided`.
        z_T: standard normal noise `[B,C,h,w]`, see `initial_noise`.
        schedule: see `make_scheduler`; only its alpha_bar values are read.
        steps: 1 to the schedule's number of timesteps.
        eta: 0 (the sample depends on z_T alone) to 1 (fresh noise in each step).
        spacing: which timesteps are visited, see `timesteps`.
        generators: one for each sample, so that a sample does not depend on its batch. Needed when eta is
            above 0: pass the ones that drew z_T, since fresh ones of the same seeds would draw z_T again.

    Raises:
        ConfigError: if steps, eta or spacing is out of range, or generators are missing or not one a sample.
    """
    _check_eta(eta)
    bars = alpha_bars(schedule).tolist()
    visited = timesteps(len(bars), steps, spacing)
    if eta > 0.0 and (generators is None or len(generators) != len(z_T)):
        given = 0 if generators is None else len(generators)
        raise ConfigError(
            f"eta is {eta}, which draws noise, but there are {given} generators for {len(z_T)} samples: "
            "pass one for each sample, or set eta to 0"
        )
    return _steps(denoise, z_T, bars, visited, eta, generators)


def generators_for(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each seed.

    Raises:
        ConfigError: if a seed is not in 0 to 2^32 - 1.
    """
    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ConfigError(f"seed is {seed}, but must lie in 0 to {SEED_LIMIT - 1}: choose another")
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial_noise(shape_of_one: Sequence[int], generators: list[torch.Generator]) -> Tensor:
    """Standard normal z_T, float32 `[B, *shape_of_one]`, row i from generator i alone.

    Advances the generators; pass the same ones on to `sample_ddim`.
    """
    return _noise((len(generators), *shape_of_one), generators)


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(
            f"eta is {eta}, but must lie in 0 to 1: use 0 (deterministic) or 1 (fresh noise in each step)"
        )


def _steps(
    denoise: Denoise,
    zt: Tensor,
    bars: list[float],
    visited: list[int],
    eta: float,
    generators: list[torch.Generator] | None,
) -> Iterator[SamplerStep]:
    for index, t in enumerate(visited):
        alpha_bar_t = bars[t]
        alpha_bar_prev = bars[visited[index + 1]] if index + 1 < len(visited) else 1.0
        noise = _noise(zt.shape, generators).to(zt) if eta > 0.0 and generators else None
        # no_grad must not span the yield: it would switch gradients off in the caller's own code.
        with torch.no_grad():
            v = denoise(zt, torch.full((len(zt),), t, dtype=torch.long, device=zt.device))
            x0 = x0_from_v(zt, v, alpha_bar_t)
            eps = eps_from_v(zt, v, alpha_bar_t)
            zt = ddim_step(x0, eps, alpha_bar_t, alpha_bar_prev, eta, noise)
        yield SamplerStep(index, t, zt, x0)


def _noise(shape: Sequence[int], generators: list[torch.Generator]) -> Tensor:
    """Drawn where the generators live, so that a seed gives the same picture whichever device samples it."""
    device = generators[0].device if generators else None
    return standard_normal(torch.empty(tuple(shape), device=device), generators)
