"""DDIM in latent space: one step with the variance that the net predicts, sampling, and inversion.

Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502. A DDIM step replaces x0 by the estimate
E[x0|zt], so at every step it loses the variance of x0 around that estimate; the fewer the steps, the larger the loss.
Bao et al., "Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models", arXiv 2206.07309,
derive the variance that a step of any DDIM should have instead: its own lambda^2 plus a share of Var[x0|zt].

The sampler is a generator. After each step the caller can show the estimate with its uncertainty, report progress, or
stop.

It differs from `diffusers.DDIMScheduler.step` in two points. Coefficients are float64: in float32, ancestral
sampling (eta 1) from zero terminal SNR gives NaN at 25 and 50 steps, the root of a difference rounded below 0.
And the timestep after `t` is the next in the list that is actually visited. diffusers subtracts the integer
T // steps instead (issue 9261), which misses the list for linspace, and for trailing where `steps` does not
divide T: a latent is then treated as noisier or cleaner than it is, and where T / steps rounds up (7, 15, 60
of 1000, trailing) noise is left in the result.

DDIM inversion goes from a clean latent to the noise that plain DDIM turns into it: Song et al., arXiv 2010.02502,
section 4.3. A DDIM step in terms of v is a rotation,

    zs = cos(d) zt - sin(d) v(zt, t),    so    zt = (zs + sin(d) v(zt, t)) / cos(d),

with d the angle between the two noise levels. The right-hand side has the unknown zt in it: it is iterated from
zt = zs, whose first turn is the usual approximate inversion.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion.prediction import Denoise
from jeppa.diffusion.schedule import Timesteps, alpha_bars, timesteps
from jeppa.distributions import standard_normal
from jeppa.errors import ConfigError


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
    check_eta(eta)
    # At the clean end there is no noise to replace, and the quotients of eq. 16 may be 0/0.
    if eta == 0.0 or alpha_bar_prev == 1.0:
        return 0.0
    if alpha_bar_prev < alpha_bar_t:
        raise ConfigError(
            f"eta is {eta} in a step from alpha_bar {alpha_bar_t} to {alpha_bar_prev}, which does not "
            "denoise: use eta 0 to go back towards noise"
        )
    kept = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar_t)
    return eta**2 * kept * (1.0 - alpha_bar_t / alpha_bar_prev)


def x0_share(alpha_bar_t: float, alpha_bar_prev: float, variance: float) -> float:
    """Derivative of a step's result with respect to the estimate of x0, at fixed zt.

    c = sqrt(a_prev) - sqrt(a_t) sqrt((1 - a_prev - variance) / (1 - a_t)). The first term is the direct part of x0; the
    second is subtracted because a larger x0 implies a smaller eps. c is 1 for a step to the clean latent and near 0 for
    a small step.

    Args:
        alpha_bar_t: in [0, 1), at the step's start.
        alpha_bar_prev: in [0, 1], at its end.
        variance: of the fresh noise, see `ddim_variance`.

    Source: Bao et al., arXiv 2201.06503, theorem 1, with lambda^2 for `variance`.
    """
    kept = (1.0 - alpha_bar_prev - variance) / (1.0 - alpha_bar_t)
    return math.sqrt(alpha_bar_prev) - math.sqrt(alpha_bar_t * kept)


def ddim_step(
    x0: Tensor,
    eps: Tensor,
    alpha_bar_t: float,
    alpha_bar_prev: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
    x0_variance: Tensor | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """One DDIM step from the estimates at t to the latent at the previous timestep.

    sqrt(a_prev) x0 + sqrt(1 - a_prev - lambda^2) eps + sigma noise, with a for alpha_bar, lambda^2 the value of
    `ddim_variance`, c that of `x0_share` and

        sigma^2 = lambda^2 + temperature^2 c^2 Var[x0|zt].

    Given x0 and eps, the latent zt that they were estimated from is not needed. Variance leaves the mean as it is.

    Args:
        x0: estimate of the clean latent, `[B,C,h,w]`.
        eps: estimate of the noise, same shape.
        alpha_bar_t: in [0, 1]; 0 is pure noise.
        alpha_bar_prev: in [0, 1]; 1 returns x0, with a draw of its uncertainty if `x0_variance` is given.
        eta: 0 to 1.
        noise: standard normal, same shape; needed when the variance is above 0.
        x0_variance: Var[x0|zt], same shape, see `Prediction.x0_variance`; None for plain DDIM.
        temperature: factor of the learned part's deviation, at least 0: 0 is plain DDIM, 1 the optimal variance. A
            tensor that broadcasts to x0 sets it place by place.

    Raises:
        ConfigError: see `ddim_variance`, and if the variance is above 0 and `noise` is missing.

    Source: arXiv 2010.02502, eq. 12; arXiv 2201.06503, theorem 1; arXiv 2206.07309 (one variance for each element).
    """
    variance = ddim_variance(alpha_bar_t, alpha_bar_prev, eta)
    # At eta 1 and alpha_bar_t 0 the difference is exactly 0: squaring a rounded sigma would take it below.
    direction = math.sqrt(1.0 - alpha_bar_prev - variance)
    mean = math.sqrt(alpha_bar_prev) * x0 + direction * eps
    learned = x0_variance is not None and is_warm(temperature)
    if variance == 0.0 and not learned:
        return mean
    if noise is None:
        why = f"eta is {eta}" if variance > 0.0 else f"temperature is {temperature}"
        raise ConfigError(f"{why}, which adds noise in each step: pass noise, or set eta and temperature to 0")
    if x0_variance is None or not learned:
        return mean + math.sqrt(variance) * noise
    share = x0_share(alpha_bar_t, alpha_bar_prev, variance)
    return mean + (variance + (temperature * share) ** 2 * x0_variance).sqrt().to(mean) * noise


def check_eta(eta: float) -> None:
    """Refuse an eta that is no number from 0 to 1.

    Raises:
        ConfigError: it is not.
    """
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(
            f"eta is {eta}, but must lie in 0 to 1: use 0 (deterministic) or 1 (fresh noise in each step)"
        )


def is_warm(temperature: float | Tensor) -> bool:
    """Whether the temperature is above 0 at any place, so that the learned variance has a part in a step."""
    return bool(torch.as_tensor(temperature).any())


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse a temperature that is negative, infinite or not a number, at any place.

    Raises:
        ConfigError: it is.
    """
    values = torch.as_tensor(temperature)
    if not bool((values.isfinite() & (values >= 0.0)).all()):
        shown = temperature if values.ndim == 0 else f"{float(values.min())} to {float(values.max())}"
        raise ConfigError(
            f"temperature is {shown}, but must be 0 or more: use 0 (plain DDIM) or 1 (the optimal variance)"
        )


# torch's CPU generator keeps only 32 bits of its seed, so 3 and 3 + 2**32 would give the same picture.
SEED_LIMIT = 2**32


@dataclass(frozen=True)
class SamplerStep:
    """The result of one sampling step.

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
    """The checked settings of `sample_ddim`.

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
        denoise: the net's prediction for (zt `[B,C,h,w]`, t LongTensor `[B]`), see `jeppa.diffusion.make_denoise`.
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
        count = 0 if generators is None else len(generators)
        what = f"eta is {settings.eta}" if settings.eta > 0.0 else "temperature is above 0"
        raise ConfigError(
            f"{what}, which draws noise, but there are {count} generators for {len(z_T)} samples: "
            "pass one for each sample, or set eta and temperature to 0"
        )
    return _sample_steps(denoise, z_T, bars, visited, settings, generators)


def generators_for(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each seed.

    Raises:
        ConfigError: as `check_seeds`.
    """
    check_seeds(seeds)
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse a seed outside 0 to 2^32 - 1.

    Raises:
        ConfigError: there is one.
    """
    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ConfigError(f"seed is {seed}, but must lie in 0 to {SEED_LIMIT - 1}: choose another")


def initial_noise(shape_of_one: Sequence[int], generators: list[torch.Generator]) -> Tensor:
    """Standard normal z_T, float32 `[B, *shape_of_one]`, row i from generator i alone.

    Advances the generators; pass the same ones on to `sample_ddim`.
    """
    return _draw_noise((len(generators), *shape_of_one), generators)


def _sample_steps(
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
        noise = _draw_noise(zt.shape, generators).to(zt) if settings.draws and generators else None
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


def _draw_noise(shape: Sequence[int], generators: list[torch.Generator]) -> Tensor:
    """Draw on the device of the generators, so that a seed gives the same picture on any device that samples."""
    device = generators[0].device if generators else None
    return standard_normal(torch.empty(tuple(shape), device=device), generators)


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
        denoise: the net's prediction for (zt, t), see `jeppa.diffusion.make_denoise`.
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
            turned = _undo_step(denoise, z, turned, t, bars[t], after)
        z = turned
    return z


def _undo_step(denoise: Denoise, zs: Tensor, guess: Tensor, t: int, alpha_bar: float, alpha_bar_prev: float) -> Tensor:
    """One fixed-point iteration: the latent at t whose step, as predicted at `guess`, would end in `zs`."""
    predicted = denoise(guess, torch.full((len(zs),), t, dtype=torch.long, device=zs.device))
    x0, eps = predicted.x0(guess, alpha_bar), predicted.eps(guess, alpha_bar)
    v = math.sqrt(alpha_bar) * eps - math.sqrt(1.0 - alpha_bar) * x0
    cosine = math.sqrt(alpha_bar * alpha_bar_prev) + math.sqrt((1.0 - alpha_bar) * (1.0 - alpha_bar_prev))
    sine = math.sqrt((1.0 - alpha_bar) * alpha_bar_prev) - math.sqrt(alpha_bar * (1.0 - alpha_bar_prev))
    return (zs + sine * v) / cosine
