"""Inversion undoes plain DDIM: the sampler takes the noise that it finds back to the latent."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jeppa.diffusion import (
    DDIM,
    Prediction,
    alpha_bars,
    generators_for,
    initial_noise,
    invert_ddim,
    make_scheduler,
    sample_ddim,
    target,
)
from jeppa.errors import ConfigError

SCHEDULE = make_scheduler()
MEAN, STD = 0.5, 0.6


def net(zt: Tensor, t: Tensor) -> Prediction:
    """Smooth, and neighbours matter."""
    return Prediction(0.5 * torch.tanh(zt.roll(1, -1) + t.reshape(-1, 1, 1, 1) / 1000) - 0.2 * zt)


def gaussian_oracle(kind, schedule):
    """The exact answer for data N(MEAN, STD^2)."""
    bars = alpha_bars(schedule)

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        a = bars[t]
        signal = a.sqrt().reshape(-1, 1, 1, 1)
        total = (STD**2 * a + 1 - a).reshape(-1, 1, 1, 1)
        centred = zt.double() - signal * MEAN
        x0 = MEAN + STD**2 * signal / total * centred
        eps = (1 - a).sqrt().reshape(-1, 1, 1, 1) / total * centred
        return Prediction(target(kind, x0, eps, a).to(zt.dtype), None, kind)

    return denoise


def sampled(denoise, z_t: Tensor, schedule, settings: DDIM) -> Tensor:
    *_, last = sample_ddim(denoise, z_t, schedule, settings)
    return last.zt


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [10, 25])
def test_sampling_the_inverted_noise_returns_the_latent(steps: int, spacing) -> None:
    """And the better the more turns. Red when a turn keeps its first guess, or two alpha_bars are exchanged."""
    z0 = initial_noise((2, 4, 6), generators_for([1, 2]))

    def error(turns: int) -> float:
        z_t = invert_ddim(net, z0, SCHEDULE, steps, spacing, turns)
        return (sampled(net, z_t, SCHEDULE, DDIM(steps, spacing=spacing)) - z0).abs().max().item()

    once, thrice, five, ten = (error(turns) for turns in (1, 3, 5, 10))
    assert once > 10 * thrice > 100 * ten
    assert five < 1e-3
    assert ten < 1e-4


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_inversion_is_exact_on_gaussian_data(kind) -> None:
    """There a step multiplies what differs between places by cov(zt, zs) / var(zt), whatever the kind.

    Red when v is not that of the guess, or its sign or the angle's is flipped.
    """
    schedule = make_scheduler(kind=kind)
    denoise = gaussian_oracle(kind, schedule)
    z0 = initial_noise((2, 4, 6), generators_for([1])).double()
    z_t = invert_ddim(denoise, z0, schedule, 10, turns=30)
    torch.testing.assert_close(sampled(denoise, z_t, schedule, DDIM(10)), z0, atol=1e-12, rtol=0.0)
    bars = [*alpha_bars(schedule)[range(999, 0, -100)].tolist(), 1.0]
    factor = 1.0
    for a, after in pairwise(bars):
        factor *= (math.sqrt(a * after) * STD**2 + math.sqrt((1 - a) * (1 - after))) / (STD**2 * a + 1 - a)
    torch.testing.assert_close(z_t - z_t.mean(), (z0 - z0.mean()) / factor)


def test_bad_numbers_are_one_line() -> None:
    """Red when a check is removed: one step from pure noise would divide by 0."""
    z0 = torch.zeros(1, 2, 4, 6)
    with pytest.raises(ConfigError, match="turns is 0, but each step needs at least 1"):
        invert_ddim(net, z0, SCHEDULE, 10, turns=0)
    with pytest.raises(ConfigError, match="steps is 0, but the schedule has 1000 timesteps"):
        invert_ddim(net, z0, SCHEDULE, 0)
    with pytest.raises(ConfigError, match="steps is 1, straight from pure noise to the latent, which cannot be undone"):
        invert_ddim(net, z0, SCHEDULE, 1)
