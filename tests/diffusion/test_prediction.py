"""v, eps and x0 are three names of one thing, and so are their variances."""

import math

import pytest
import torch

from jeppa.diffusion import Prediction, add_noise, alpha_bars, make_scheduler, target

BARS = alpha_bars(make_scheduler())
KINDS = ("v_prediction", "epsilon", "sample")
CLOSE = {"atol": 1e-6, "rtol": 0.0}
MEAN, STD = 0.5, 0.6


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    z0, eps = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    return z0, eps


def gaussian_oracle(kind, zt: torch.Tensor, a: float) -> Prediction:
    """E and log Var of v, eps or x0 given zt for data N(MEAN, STD^2), by regression of jointly Gaussian variables."""
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    of_x0, of_eps = {"v_prediction": (-noise, signal), "epsilon": (0.0, 1.0), "sample": (1.0, 0.0)}[kind]
    total = a * STD**2 + 1 - a
    shared = of_x0 * signal * STD**2 + of_eps * noise
    variance = of_x0**2 * STD**2 + of_eps**2 - shared**2 / total
    mean = of_x0 * MEAN + shared / total * (zt - signal * MEAN)
    return Prediction(mean, torch.full_like(zt, math.log(variance)), kind)


@pytest.mark.parametrize("alpha_bar", [0.0, 1e-6, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_x0_and_eps_come_back_from_what_the_net_predicts(pair, kind, alpha_bar: float) -> None:
    """Red when the sign in `x0`, `eps` or `target` is flipped."""
    z0, eps = (part.double() for part in pair)
    zt = add_noise(z0, eps, alpha_bar)
    predicted = Prediction(target(kind, z0, eps, alpha_bar), None, kind)
    if kind != "epsilon" or alpha_bar > 0.0:
        torch.testing.assert_close(predicted.x0(zt, alpha_bar), z0, **CLOSE)
    if kind != "sample" or alpha_bar < 1.0:
        torch.testing.assert_close(predicted.eps(zt, alpha_bar), eps, **CLOSE)


@pytest.mark.parametrize("alpha_bar", [0.01, 0.3, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_give_the_gaussian_posterior_of_x0(pair, kind, alpha_bar: float) -> None:
    """Var[x0|zt] = s^2 b^2 / (a^2 s^2 + b^2). Red when a kind's factor is that of another, or its root."""
    zt = add_noise(*pair, alpha_bar).double()
    predicted = gaussian_oracle(kind, zt, alpha_bar)
    total = alpha_bar * STD**2 + 1 - alpha_bar
    x0 = MEAN + math.sqrt(alpha_bar) * STD**2 / total * (zt - math.sqrt(alpha_bar) * MEAN)
    torch.testing.assert_close(predicted.x0(zt, alpha_bar), x0)
    torch.testing.assert_close(
        predicted.eps(zt, alpha_bar), (zt - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)
    )
    variance = torch.full(zt.shape, STD**2 * (1 - alpha_bar) / total)
    torch.testing.assert_close(predicted.x0_variance(alpha_bar), variance, atol=0.0, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_variance_of_x0_is_bounded_by_that_of_the_data(kind) -> None:
    """An eps-net's logvar is multiplied by 10^4 at alpha_bar 1e-4. Red without the clamp, or with one at 1 always."""
    unsure = Prediction(torch.zeros(1), torch.tensor([0.5]), kind)
    assert unsure.x0_variance(1e-4).item() == 1.0
    assert unsure.x0_variance(1e-4, 0.25).item() == 0.25
    assert unsure.x0_variance(1e-4, 9e9).item() > 1.0


def test_eps_says_nothing_about_x0_in_pure_noise() -> None:
    """Even a net that claims certainty. Red when the case alpha_bar 0 divides by 1 instead."""
    sure = torch.full((2, 1), -math.inf)
    assert torch.equal(Prediction(sure, sure, "epsilon").x0_variance(0.0, 0.7), torch.full((2, 1), 0.7))
    assert torch.equal(Prediction(sure, sure, "v_prediction").x0_variance(0.0, 0.7), torch.zeros(2, 1))


def test_variance_is_float32_and_missing_without_a_logvar() -> None:
    """Red when a bfloat16 net's variance is exponentiated in its own precision."""
    half = torch.tensor([-7.3], dtype=torch.bfloat16)
    found = Prediction(half, half).x0_variance(0.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.exp(half.item()), rel=1e-5)
    assert Prediction(half).x0_variance(0.0) is None


def test_at_the_ends_of_the_schedule_the_conversions_are_exact(pair) -> None:
    """Red when `rates` clamps alpha_bar away from 0 or 1."""
    zt, v = pair
    predicted = Prediction(v)
    assert torch.equal(predicted.x0(zt, 0.0), -v)
    assert torch.equal(predicted.eps(zt, 0.0), zt)
    assert torch.equal(predicted.x0(zt, 1.0), zt)
    assert torch.equal(predicted.eps(zt, 1.0), v)
    assert torch.equal(add_noise(zt, v, BARS[-1]), v)


def test_one_alpha_bar_for_each_sample_equals_sample_by_sample(pair) -> None:
    """Red when `rates` lets `[B]` broadcast against the last dimension."""
    z0, eps = pair
    bars = BARS[torch.tensor([0, 500, 999])]
    v = target("v_prediction", z0, eps, bars)
    for row in range(3):
        assert torch.equal(v[row], target("v_prediction", z0[row], eps[row], float(bars[row])))


def test_noising_and_v_equal_diffusers_in_float32(pair) -> None:
    """Red when signal and noise rates are exchanged in `add_noise` or `target`."""
    z0, eps = pair
    t = torch.tensor([0, 500, 999])
    schedule = make_scheduler()
    torch.testing.assert_close(add_noise(z0, eps, BARS[t]), schedule.add_noise(z0, eps, t), **CLOSE)
    v = target("v_prediction", z0, eps, BARS[t])
    torch.testing.assert_close(v, schedule.get_velocity(z0, eps, t), **CLOSE)


def test_bfloat16_latents_keep_the_noise_of_the_first_timestep() -> None:
    """Why diffusers' `add_noise` is not used. Red when `rates` casts alpha_bar before 1 - alpha_bar."""
    z0, eps = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16), torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    assert make_scheduler().add_noise(z0, eps, torch.tensor([0])).item() == 0.0
    assert add_noise(z0, eps, BARS[0]).item() == pytest.approx((1.0 - float(BARS[0])) ** 0.5, rel=0.01)
