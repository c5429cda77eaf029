"""The sampler equals `diffusers.DDIMScheduler` wherever that visits its own list of timesteps."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion import DDIM, Prediction, alpha_bars, generators_for, initial_noise, make_scheduler, sample_ddim

SEEDS = [1, 2]
SHAPE = (2, 3, 4)
SCHEDULE = make_scheduler()


def net(zt: Tensor, t: Tensor) -> Prediction:
    return Prediction(0.7 * torch.tanh(zt + t.reshape(-1, 1, 1, 1) / 1000) - 0.1)


def point_net(zt: Tensor, t: Tensor) -> Prediction:
    """The exact v when all data is the point 0.8."""
    a = alpha_bars(SCHEDULE)[t].reshape(-1, 1, 1, 1)
    return Prediction(((a.sqrt() * zt - 0.8) / (1 - a).sqrt()).float())


def ours(denoise, steps: int, spacing, eta: float = 0.0, schedule: DDIMScheduler = SCHEDULE) -> Tensor:
    generators = generators_for(SEEDS)
    z_t = initial_noise(SHAPE, generators)
    *_, last = sample_ddim(denoise, z_t, schedule, DDIM(steps, eta, spacing), generators)
    return last.zt


def theirs(denoise, steps: int, spacing, eta: float = 0.0, schedule: DDIMScheduler = SCHEDULE) -> Tensor:
    generators = generators_for(SEEDS)
    zt = initial_noise(SHAPE, generators)
    peer = DDIMScheduler.from_config(schedule.config, timestep_spacing=spacing)
    peer.set_timesteps(steps)
    for t in peer.timesteps:
        v = denoise(zt, t.expand(len(zt))).mean
        zt = peer.step(v, int(t), zt, eta=eta, generator=generators).prev_sample
    return zt


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [
        *[("trailing", steps) for steps in (1, 2, 5, 10, 25, 50, 100)],
        *[("leading", steps) for steps in (1, 7, 10, 50)],
        ("linspace", 1),
    ],
)
def test_sample_equals_diffusers_where_its_stride_meets_the_list(spacing, steps: int, eta: float) -> None:
    """linspace agrees at one step, and where every timestep is visited: see the next test.

    Red when eta is not squared in `ddim_variance`, x0 and eps swap, or the last alpha_bar is `bars[0]`."""
    torch.testing.assert_close(ours(net, steps, spacing, eta), theirs(net, steps, spacing, eta), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("eta", [0.0, 0.9])
def test_sample_at_every_timestep_equals_diffusers_for_all_spacings(spacing, eta: float) -> None:
    """Red when the sampler skips or repeats a timestep."""
    short = make_scheduler(train_steps=100)
    torch.testing.assert_close(
        ours(net, 100, spacing, eta, short), theirs(net, 100, spacing, eta, short), atol=1e-5, rtol=0.0
    )


@pytest.mark.parametrize("steps", [7, 15, 60])
def test_trailing_counts_that_round_up_leave_noise_in_diffusers_sample_not_in_ours(steps: int) -> None:
    """Its last step ends at a timestep above 0 instead of the clean latent.

    Red when the sampler's next timestep is `t - 1000 // steps`.
    """
    assert (ours(point_net, steps, "trailing") - 0.8).abs().max() < 1e-4
    assert (theirs(point_net, steps, "trailing") - 0.8).abs().max() > 1e-2


def test_linspace_list_is_followed_where_diffusers_stride_is_off_by_up_to_eleven() -> None:
    """At 10 steps the list goes down by 111, diffusers by 100, so that it denoises too little in each step.

    Red when the sampler's next timestep is `t - 1000 // steps`.
    """
    schedule = DDIMScheduler.from_config(SCHEDULE.config, timestep_spacing="linspace")
    schedule.set_timesteps(10)
    first, second = schedule.timesteps[:2].tolist()
    zt = initial_noise(SHAPE, generators_for(SEEDS))
    point_step = next(iter(sample_ddim(point_net, zt, SCHEDULE, DDIM(10, spacing="linspace"))))
    their_step = schedule.step(point_net(zt, torch.full((2,), first)).mean, first, zt).prev_sample
    bars = alpha_bars(SCHEDULE)

    def noised(t: int) -> Tensor:
        return (bars[t].sqrt() * 0.8 + (1 - bars[t]).sqrt() * zt).float()

    assert (first, second) == (999, 888)
    torch.testing.assert_close(point_step.zt, noised(888), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(their_step, noised(899), atol=1e-5, rtol=0.0)


def test_ancestral_sampling_is_finite_and_equals_diffusers_where_that_is() -> None:
    """At eta 1 from zero SNR, diffusers takes the root of a float32 difference that falls below 0 at 25 steps.

    Red when `ddim_step` squares a rounded sigma (as diffusers does), or the variance at eta 1 is wrong.
    """
    for steps in (2, 5, 10, 20, 25, 40, 50):
        sample, peer = ours(net, steps, "trailing", 1.0), theirs(net, steps, "trailing", 1.0)
        assert sample.isfinite().all()
        if peer.isfinite().all():
            torch.testing.assert_close(sample, peer, atol=2e-5, rtol=0.0)
