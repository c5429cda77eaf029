"""The schedule is diffusers' with zero terminal SNR, and its timesteps are those of diffusers."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from jeppa.diffusion import alpha_bars, make_scheduler, timesteps
from jeppa.errors import ConfigError

BARS = alpha_bars(make_scheduler())


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
