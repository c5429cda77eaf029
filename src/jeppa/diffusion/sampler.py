"""DDIM sampling in latent space: from noise to a standardised latent, one step at a time.

The sampler is a generator: the caller previews each estimate with its uncertainty, reports progress, and stops by no
longer asking.

It differs from `diffusers.DDIMScheduler.step` in two points. Coefficients are float64: in float32, ancestral
sampling (eta 1) from zero terminal SNR gives NaN at 25 and 50 steps, the root of a difference rounded below 0.
And the timestep after `t` is the next in the list that is actually visited. diffusers subtracts the integer
T // steps instead (issue 9261), which misses the list for linspace, and for trailing where `steps` does not
divide T: a latent is then treated as noisier or cleaner than it is, and where T / steps rounds up (7, 15, 60
of 1000, trailing) noise is left in the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion.ddim import check_eta, check_temperature, ddim_step, is_warm
from jeppa.diffusion.prediction import Denoise
from jeppa.diffusion.schedule import Timesteps, alpha_bars, timesteps
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
        x0_variance: Var[x0|zt] as the net predicts it, same shape, at most 1; None from a net without a variance.
    """

    index: int
    t: int
    zt: Tensor
    x0: Tensor
    x0_variance: Tensor | None


@dataclass(frozen=True)
class DDIM:
    """Which DDIM: the settings of `sample`, checked.

    Args:
        steps: 1 to the schedule's number of timesteps.
        eta: 0 (the sample depends on the first noise alone, but for the learned part) to 1 (ancestral sampling).
        spacing: which timesteps are visited, see `timesteps`.
        temperature: of the learned variance, see `ddim_step`; 0 is plain DDIM. A tensor sets it place by place,
            broadcast to `[B,C,h,w]`.
        last: whether the learned variance is drawn in the last step too, which adds its noise to the sample.

    Raises:
        ConfigError: if eta or temperature is out of range.
    """

    steps: int
    eta: float = 0.0
    spacing: Timesteps = "trailing"
    temperature: float | Tensor = 0.0
    last: bool = False

    def __post_init__(self) -> None:
        check_eta(self.eta)
        check_temperature(self.temperature)

    @property
    def learned(self) -> bool:
        """Whether the learned variance has any part in it."""
        return is_warm(self.temperature)

    @property
    def draws(self) -> bool:
        """Whether noise is drawn at all."""
        return self.eta > 0.0 or self.learned


def sample_ddim(
    denoise: Denoise,
    z_T: Tensor,  # noqa: N803 - the paper's name for the latent at the last timestep
    schedule: DDIMScheduler,
    settings: DDIM,
    generators: list[torch.Generator] | None = None,
) -> Iterator[SamplerStep]:
    """Sample from noise; yields after each step. The last step's `zt` is the sample.

    Settings are checked at the call, not at the first step. The net runs without gradients; the caller's
    gradient mode is untouched between steps.

    Args:
        denoise: the net's prediction for (zt `[B,C,h,w]`, t LongTensor `[B]`), see `jeppa.diffusion.guided`.
        z_T: standard normal noise `[B,C,h,w]`, see `initial_noise`.
        schedule: see `make_scheduler`; only its alpha_bar values are read.
        settings: steps, eta, spacing and temperature.
        generators: one for each sample, so that a sample does not depend on its batch. Needed when noise is drawn:
            pass the ones that drew z_T, since fresh ones of the same seeds would draw z_T again.

    Raises:
        ConfigError: if steps or spacing is out of range, or generators are missing or not one a sample; in a step, if a
            temperature is set but the net predicts no variance.
    """
    bars = alpha_bars(schedule).tolist()
    visited = timesteps(len(bars), settings.steps, settings.spacing)
    if settings.draws and (generators is None or len(generators) != len(z_T)):
        given = 0 if generators is None else len(generators)
        what = f"eta is {settings.eta}" if settings.eta > 0.0 else "temperature is above 0"
        raise ConfigError(
            f"{what}, which draws noise, but there are {given} generators for {len(z_T)} samples: "
            "pass one for each sample, or set eta and temperature to 0"
        )
    return _steps(denoise, z_T, bars, visited, settings, generators)


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


def _steps(
    denoise: Denoise,
    zt: Tensor,
    bars: list[float],
    visited: list[int],
    settings: DDIM,
    generators: list[torch.Generator] | None,
) -> Iterator[SamplerStep]:
    for index, t in enumerate(visited):
        alpha_bar_t = bars[t]
        ends = index + 1 == len(visited)
        alpha_bar_prev = 1.0 if ends else bars[visited[index + 1]]
        noise = _noise(zt.shape, generators).to(zt) if settings.draws and generators else None
        # no_grad must not span the yield: it would switch gradients off in the caller's own code.
        with torch.no_grad():
            predicted = denoise(zt, torch.full((len(zt),), t, dtype=torch.long, device=zt.device))
            x0, eps = predicted.x0(zt, alpha_bar_t), predicted.eps(zt, alpha_bar_t)
            variance = predicted.x0_variance(alpha_bar_t)
            if settings.learned and variance is None:
                raise ConfigError(
                    "a temperature is set, but the denoiser predicts no variance: set it to 0, or train a variance head"
                )
            temperature = 0.0 if ends and not settings.last else settings.temperature
            zt = ddim_step(x0, eps, alpha_bar_t, alpha_bar_prev, settings.eta, noise, variance, temperature)
        yield SamplerStep(index, t, zt, x0, variance)


def _noise(shape: Sequence[int], generators: list[torch.Generator]) -> Tensor:
    """Drawn where the generators live, so that a seed gives the same picture whichever device samples it."""
    device = generators[0].device if generators else None
    return standard_normal(torch.empty(tuple(shape), device=device), generators)
