"""Theorems about the sampler: exact on a point, first-order on a Gaussian, independent of the batch."""

import math

import pytest
import torch
from torch import Tensor

from jeppa.diffusion import (
    DDIM,
    Prediction,
    alpha_bars,
    ddim_step,
    ddim_variance,
    generators_for,
    initial_noise,
    make_scheduler,
    sample_ddim,
    timesteps,
)
from jeppa.errors import ConfigError

SCHEDULE = make_scheduler()
BARS = alpha_bars(SCHEDULE).tolist()
SHAPE = (2, 4, 3)


def point_oracle(point: float):
    """The exact v of data that is one point: eps = (zt - sqrt(a) m) / sqrt(1 - a)."""
    return gaussian_oracle(point, 0.0, alpha_bars(SCHEDULE))


def gaussian_oracle(mean: float, std: float, bars: Tensor):
    """The exact v of data N(mean, std^2): E[x0|zt] by the Gaussian posterior, then v from x0 and zt."""

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        a = bars[t].reshape(-1, 1, 1, 1)
        centred = zt.double() - a.sqrt() * mean
        x0 = mean + std**2 * a.sqrt() / (std**2 * a + 1 - a) * centred
        return Prediction(((a.sqrt() * zt - x0) / (1 - a).sqrt()).to(zt.dtype))

    return denoise


def per_sample_net(zt: Tensor, t: Tensor) -> Prediction:
    return Prediction(0.7 * torch.tanh(zt + t.reshape(-1, 1, 1, 1) / 1000) - 0.1)


def final(steps) -> Tensor:
    *_, last = steps
    return last.zt


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 5, 7, 50])
def test_ddim_is_exact_on_point_mass_data_at_every_step(steps: int, spacing) -> None:
    """Every latent on the way is the point noised with the z_T's own eps to the next visited timestep.

    Red when the next timestep is `t - T // steps`, when the last alpha_bar is not 1, or when x0 and eps
    swap their coefficients.
    """
    z_t = initial_noise(SHAPE, generators_for([0, 1]))
    visited = timesteps(1000, steps, spacing)
    start = BARS[visited[0]]
    eps = (z_t - math.sqrt(start) * 0.8) / math.sqrt(1 - start)
    seen = list(sample_ddim(point_oracle(0.8), z_t, SCHEDULE, DDIM(steps, spacing=spacing)))
    assert [(step.index, step.t) for step in seen] == list(enumerate(visited))
    for step, after in zip(seen, [*visited[1:], None], strict=True):
        bar = 1.0 if after is None else BARS[after]
        expected = math.sqrt(bar) * 0.8 + math.sqrt(1 - bar) * eps
        torch.testing.assert_close(step.zt, expected, atol=2e-4, rtol=0.0)
        torch.testing.assert_close(step.x0, torch.full_like(z_t, 0.8), atol=1e-5, rtol=0.0)


def test_ddim_converges_with_first_order_on_gaussian_data() -> None:
    """Data N(m, s^2): the exact deterministic flow takes z_T to m + s z_T, since zt keeps its standard score.

    A 20,000-step grid with the same process stands for continuous time. The ratio is a little under 2
    because the noise level grows as the root of time near the clean end, which adds a factor log(steps).
    Red when a step's alpha_bar is that of another timestep, or the two are exchanged.
    """
    mean, std, train_steps = 0.5, 1.5, 20_000
    scale = 1000 / train_steps
    schedule = make_scheduler(train_steps, 0.00085 * scale, 0.012 * scale)
    denoise = gaussian_oracle(mean, std, alpha_bars(schedule))
    z_t = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 1, 2, 4)
    exact = mean + std * z_t
    runs = [final(sample_ddim(denoise, z_t, schedule, DDIM(steps))) for steps in (50, 100, 200)]
    at_50, at_100, at_200 = ((run - exact).abs().max().item() for run in runs)
    assert at_50 < 0.1
    assert 1.85 < at_50 / at_100 < 2.1
    assert 1.85 < at_100 / at_200 < 2.1


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_keeps_the_distribution_of_gaussian_data(eta: float) -> None:
    """At every timestep of the schedule, samples of N(0.5, 0.3^2) have that mean and standard deviation.

    Red when the direction ignores the variance (1 - alpha_bar_prev alone), or the noise is scaled by the
    variance instead of its root.
    """
    generators = generators_for(range(4))
    z_t = initial_noise((1, 64, 64), generators)
    oracle = gaussian_oracle(0.5, 0.3, alpha_bars(SCHEDULE))
    sample = final(sample_ddim(oracle, z_t, SCHEDULE, DDIM(1000, eta), generators))
    assert sample.mean().item() == pytest.approx(0.5, abs=0.01)
    assert sample.std().item() == pytest.approx(0.3, abs=0.01)


def test_eta_one_step_has_the_variance_of_the_ddpm_posterior() -> None:
    """sigma^2 = (1 - a_prev) / (1 - a_t) * beta_t (arXiv 2006.11239, eq. 7). Red when a_t and a_prev swap."""
    a_t, a_prev = BARS[600], BARS[599]
    beta = 1 - a_t / a_prev
    assert ddim_variance(a_t, a_prev, 1.0) == pytest.approx((1 - a_prev) / (1 - a_t) * beta, rel=1e-9)
    assert ddim_variance(a_t, a_prev, 0.5) == pytest.approx(0.25 * ddim_variance(a_t, a_prev, 1.0), rel=1e-9)
    assert ddim_variance(0.0, a_prev, 1.0) == pytest.approx(1 - a_prev, rel=1e-9)
    assert ddim_variance(1.0, 1.0, 1.0) == 0.0


def test_ancestral_step_from_pure_noise_is_finite_at_every_alpha_bar() -> None:
    """There 1 - a_prev - variance is exactly 0 in float64.

    Red when `ddim_variance` returns sigma and `ddim_step` squares it, which rounds below 0.
    """
    one = torch.ones(1, 1, 1, 1)
    for bar in BARS[:-1]:
        assert ddim_step(one, one, 0.0, bar, 1.0, one).isfinite().all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(eta: float) -> None:
    """Red when `_draw_noise` draws the whole batch from the first generator."""

    def draw(seeds: list[int]) -> Tensor:
        generators = generators_for(seeds)
        z_t = initial_noise(SHAPE, generators)
        return final(sample_ddim(per_sample_net, z_t, SCHEDULE, DDIM(5, eta), generators))

    assert torch.equal(draw([3])[0], draw([1, 3, 5])[1])
    assert not torch.allclose(draw([3])[0], draw([5])[0])


def test_step_noise_is_not_the_initial_noise_again() -> None:
    """Red when `initial_noise` restarts or copies the generators it is given."""
    generators = generators_for([7])
    first, second = initial_noise(SHAPE, generators), initial_noise(SHAPE, generators)
    assert not torch.allclose(first, second)


def test_the_caller_can_stop_and_keeps_its_gradient_mode() -> None:
    """Red when `torch.no_grad()` spans the yield, or the sampler runs ahead of its caller."""
    calls = []

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        calls.append((t.tolist(), torch.is_grad_enabled()))
        return per_sample_net(zt, t)

    z_t = initial_noise(SHAPE, generators_for([0, 1]))
    for step in sample_ddim(denoise, z_t, SCHEDULE, DDIM(10)):
        assert torch.is_grad_enabled()
        if step.index == 1:
            break
    assert calls == [([999, 999], False), ([899, 899], False)]


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan, math.inf])
def test_bad_eta_is_one_line_before_any_step_runs(eta: float) -> None:
    """Red when the settings are not checked when made, or by `eta < 0 or eta > 1` (nan passes)."""
    with pytest.raises(ConfigError, match=f"^eta is {eta}, but must lie in 0 to 1: .*$"):
        DDIM(5, eta)
    with pytest.raises(ConfigError, match=f"^eta is {eta}, but must lie in 0 to 1: .*$"):
        ddim_step(torch.zeros(1), torch.zeros(1), 0.1, 0.2, eta)


def test_other_bad_settings_are_one_line_before_any_step_runs() -> None:
    """Red when a check is removed or moved into the generator's body."""
    z_t = torch.zeros(2, *SHAPE)
    with pytest.raises(ConfigError, match="steps is 0, but the schedule has 1000 timesteps"):
        sample_ddim(per_sample_net, z_t, SCHEDULE, DDIM(0))
    with pytest.raises(ConfigError, match=r"eta is 1.0, .* 0 generators for 2 samples: pass one for each"):
        sample_ddim(per_sample_net, z_t, SCHEDULE, DDIM(5, 1.0))
    with pytest.raises(ConfigError, match=r"eta is 1.0, .* 1 generators for 2 samples"):
        sample_ddim(per_sample_net, z_t, SCHEDULE, DDIM(5, 1.0), generators_for([0]))
    with pytest.raises(ConfigError, match="pass noise, or set eta and temperature to 0"):
        ddim_step(z_t, z_t, 0.1, 0.2, 1.0)
    with pytest.raises(ConfigError, match="use eta 0 to go back towards noise"):
        ddim_step(z_t, z_t, 0.2, 0.1, 1.0, z_t)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**32 + 3])
def test_seeds_that_would_repeat_another_picture_are_refused(seed: int) -> None:
    """torch keeps 32 bits of a seed. Red when `SEED_LIMIT` is 2**64."""
    with pytest.raises(ConfigError, match=f"seed is {seed}, but must lie in 0 to 4294967295"):
        generators_for([0, seed])
