"""The schedule is diffusers' with zero terminal SNR; v, x0 and eps are three names of one thing."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from jeppa.diffusion import (
    add_noise,
    alpha_bars,
    eps_from_v,
    make_scheduler,
    timesteps,
    v_target,
    x0_from_v,
)
from jeppa.errors import ConfigError

BARS = alpha_bars(make_scheduler())
CLOSE = {"atol": 1e-6, "rtol": 0.0}


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, eps = torch.randn(2, 3, 4, 5, 6, generator=generator)
    return z0, eps


def test_terminal_snr_is_exactly_zero_and_alpha_bar_falls_from_nearly_one() -> None:
    """Red when `rescale_betas_zero_snr` is False."""
    assert BARS.dtype == torch.float64
    assert BARS.shape == (1000,)
    assert BARS[-1] == 0.0
    assert 0.999 < BARS[0] < 1.0
    assert (BARS.diff() < 0).all()


def test_saved_config_samples_the_same_way_in_stock_diffusers() -> None:
    """Red when `clip_sample` or `set_alpha_to_one` is left at another value."""
    config = DDIMScheduler.from_config(make_scheduler().config).config
    assert config.prediction_type == "v_prediction"
    assert config.timestep_spacing == "trailing"
    assert config.clip_sample is False
    assert config.set_alpha_to_one is True
    assert (config.beta_schedule, config.beta_start, config.beta_end) == ("scaled_linear", 0.00085, 0.012)


@pytest.mark.parametrize("alpha_bar", [0.0, 1e-6, 0.3, 0.999, 1.0])
def test_x0_and_eps_come_back_from_v(pair, alpha_bar: float) -> None:
    """Red when the sign in `x0_from_v`, `eps_from_v` or `v_target` is flipped."""
    z0, eps = pair
    zt, v = add_noise(z0, eps, alpha_bar), v_target(z0, eps, alpha_bar)
    torch.testing.assert_close(x0_from_v(zt, v, alpha_bar), z0, **CLOSE)
    torch.testing.assert_close(eps_from_v(zt, v, alpha_bar), eps, **CLOSE)


def test_at_the_ends_of_the_schedule_the_conversions_are_exact(pair) -> None:
    """Red when `_rates` clamps alpha_bar away from 0 or 1."""
    zt, v = pair
    assert torch.equal(x0_from_v(zt, v, 0.0), -v)
    assert torch.equal(eps_from_v(zt, v, 0.0), zt)
    assert torch.equal(x0_from_v(zt, v, 1.0), zt)
    assert torch.equal(eps_from_v(zt, v, 1.0), v)
    assert torch.equal(add_noise(zt, v, BARS[-1]), v)


def test_one_alpha_bar_for_each_sample_equals_sample_by_sample(pair) -> None:
    """Red when `_rates` lets `[B]` broadcast against the last dimension."""
    z0, eps = pair
    bars = BARS[torch.tensor([0, 500, 999])]
    for row in range(3):
        assert torch.equal(v_target(z0, eps, bars)[row], v_target(z0[row], eps[row], float(bars[row])))


def test_noising_and_v_equal_diffusers_in_float32(pair) -> None:
    """Red when signal and noise rates are exchanged in `add_noise` or `v_target`."""
    z0, eps = pair
    t = torch.tensor([0, 500, 999])
    schedule = make_scheduler()
    torch.testing.assert_close(add_noise(z0, eps, BARS[t]), schedule.add_noise(z0, eps, t), **CLOSE)
    torch.testing.assert_close(v_target(z0, eps, BARS[t]), schedule.get_velocity(z0, eps, t), **CLOSE)


def test_bfloat16_latents_keep_the_noise_of_the_first_timestep() -> None:
    """Why diffusers' `add_noise` is not used. Red when `_rates` casts alpha_bar before 1 - alpha_bar."""
    z0, eps = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16), torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    assert make_scheduler().add_noise(z0, eps, torch.tensor([0])).item() == 0.0
    assert add_noise(z0, eps, BARS[0]).item() == pytest.approx((1.0 - float(BARS[0])) ** 0.5, rel=0.01)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps_are_those_of_diffusers_and_exactly_as_many_as_asked(spacing) -> None:
    """diffusers appends -1 to the trailing list at 61, 103, ... steps, hence the cut.

    Red when the halves are rounded another way (48 steps trailing), or without `[:steps]`.
    """
    schedule = DDIMScheduler.from_config(make_scheduler().config, timestep_spacing=spacing)
    for steps in [*range(1, 130), 333, 500, 999, 1000]:
        schedule.set_timesteps(steps)
        ours = timesteps(1000, steps, spacing)
        assert ours == schedule.timesteps.tolist()[:steps]
        assert len(ours) == steps
        assert all(earlier > later for earlier, later in itertools.pairwise(ours))
        assert ours[-1] >= 0


def test_trailing_starts_at_pure_noise_at_every_step_count() -> None:
    """Red when the trailing list loses its - 1 or starts one interval later."""
    assert all(timesteps(1000, steps)[0] == 999 for steps in range(1, 1001))


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_step_counts_out_of_range_are_one_line_with_value_limit_and_remedy(steps: int) -> None:
    """Red when the check lets `train_steps + 1` or 0 pass."""
    with pytest.raises(ConfigError, match=f"^steps is {steps}, .* 1000 timesteps: choose 1 to 1000$"):
        timesteps(1000, steps)


def test_bad_schedule_settings_are_one_line() -> None:
    """Red when a check is removed."""
    with pytest.raises(ConfigError, match="spacing is 'karras', but must be one of trailing, leading, linspace"):
        timesteps(1000, 10, "karras")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train_steps is 1, but"):
        make_scheduler(train_steps=1)
    with pytest.raises(ConfigError, match=r"betas are 0\.02 to 0\.01, but"):
        make_scheduler(beta_start=0.02, beta_end=0.01)
