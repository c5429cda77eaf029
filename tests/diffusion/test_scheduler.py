"""The scheduler is diffusers' DDIMScheduler without a variance, and `sample_ddim` with one."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from jeppa.diffusion import (
    DDIM,
    HeteroscedasticDDIMScheduler,
    Prediction,
    alpha_bars,
    generators_for,
    initial_noise,
    make_scheduler,
    sample_ddim,
)
from jeppa.errors import ConfigError

SEEDS, SHAPE = [1, 2], (2, 4, 3)
CLOSE = {"atol": 2e-5, "rtol": 0.0}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# As in the scheduler's folder of Stable Diffusion 1 and 2.
STABLE_DIFFUSION = {
    **BETAS,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def net(zt: Tensor, t: Tensor | int) -> Tensor:
    return 0.7 * torch.tanh(zt + t / 1000) - 0.1


def logvar_of_v(zt: Tensor) -> Tensor:
    return torch.sin(3.0 * zt) - 2.0


def sampled(scheduler, steps: int, eta: float = 0.0) -> Tensor:
    generators = generators_for(SEEDS)
    zt = initial_noise(SHAPE, generators)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        zt = scheduler.step(net(zt, int(t)), t, zt, eta=eta, generator=generators).prev_sample
    return zt


def ours(**settings) -> HeteroscedasticDDIMScheduler:
    return HeteroscedasticDDIMScheduler(**settings)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        *[(STABLE_DIFFUSION, steps) for steps in (1, 7, 50)],
        ({**STABLE_DIFFUSION, "steps_offset": 0}, 10),
        *[({**BETAS, "timestep_spacing": "trailing", "clip_sample": False}, steps) for steps in (2, 25)],
        ({**BETAS, "timestep_spacing": "trailing", "clip_sample": True, "clip_sample_range": 0.5}, 10),
        ({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading", "clip_sample": True}, 10),
    ],
)
def test_plain_steps_equal_diffusers_where_its_stride_meets_the_list(settings, steps: int, kind, eta: float) -> None:
    """Red when a setting is not passed on, eps follows the clipped x0, or the last step draws no noise."""
    settings = {**settings, "prediction_type": kind}
    peer = sampled(DDIMScheduler(**settings), steps, eta)
    torch.testing.assert_close(sampled(ours(**settings), steps, eta), peer, **CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 999, 1000])
def test_stable_diffusion_visits_the_timesteps_of_diffusers(steps: int) -> None:
    """At 1000 diffusers' offset list starts past the schedule. Red without the offset, or when it makes one twice."""
    scheduler, peer = ours(**STABLE_DIFFUSION), DDIMScheduler(**STABLE_DIFFUSION)
    scheduler.set_timesteps(steps)
    peer.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()
    assert visited == [t - (steps == 1000) for t in peer.timesteps.tolist()]
    assert len(set(visited)) == steps


@pytest.mark.parametrize(("eta", "draw_last"), [(0.0, False), (0.0, True), (0.5, True)])
def test_learned_variance_given_as_that_of_eps_equals_our_sampler(eta: float, draw_last: bool) -> None:
    """A v-net's is eps_logvar = logvar + log(alpha_bar), since eps = b zt + a v.

    The list starts below the last timestep, where alpha_bar is 0 and eps says nothing about x0.
    Red when the variance of eps is used as that of x0, bounded elsewhere, or drawn in another order.
    """
    visited = [950, 700, 400, 100]
    schedule = make_scheduler()
    scheduler = HeteroscedasticDDIMScheduler.from_config(schedule.config, draw_last=draw_last)
    generators = generators_for(SEEDS)
    z_t = zt = initial_noise(SHAPE, generators)
    scheduler.set_timesteps(timesteps=visited)
    for t in scheduler.timesteps:
        eps_logvar = logvar_of_v(zt) + math.log(alpha_bars(schedule)[t])
        zt = scheduler.step(net(zt, int(t)), t, zt, eta, eps_logvar, 0.8, generators).prev_sample

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        return Prediction(net(zt, int(t[0])), logvar_of_v(zt))

    generators = generators_for(SEEDS)
    torch.testing.assert_close(initial_noise(SHAPE, generators), z_t)
    *_, last = sample_ddim(denoise, z_t, schedule, DDIM(4, eta, visited, 0.8, draw_last), generators)
    torch.testing.assert_close(zt, last.zt, **CLOSE)


def test_temperature_zero_and_no_variance_are_the_same_step() -> None:
    """Red when a given `eps_logvar` is drawn whatever the temperature."""
    scheduler = ours(prediction_type="v_prediction", draw_last=True)
    scheduler.set_timesteps(5)
    zt = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        plain = scheduler.step(net(zt, int(t)), t, zt)
        cold = scheduler.step(net(zt, int(t)), t, zt, eps_logvar=logvar_of_v(zt), temperature=0.0)
        warm = scheduler.step(net(zt, int(t)), t, zt, eps_logvar=logvar_of_v(zt), variance_noise=torch.ones_like(zt))
        assert torch.equal(cold.prev_sample, plain.prev_sample)
        assert torch.equal(warm.pred_original_sample, plain.pred_original_sample)
        assert (warm.prev_sample > plain.prev_sample).all()


def test_variance_of_x0_is_bounded_by_the_setting() -> None:
    """In the last step c is 1. Red when `data_variance` is not passed on."""
    zt = torch.zeros(1, *SHAPE)
    for bound in (0.25, 1.0):
        scheduler = ours(data_variance=bound, draw_last=True)
        scheduler.set_timesteps(1)
        step = scheduler.step(zt, 999, zt, eps_logvar=zt + 20.0, variance_noise=torch.ones_like(zt))
        torch.testing.assert_close(step.prev_sample, torch.full_like(zt, bound**0.5))


@pytest.mark.parametrize("timesteps", [None, [999, 640, 3]])
def test_each_step_ends_at_the_next_timestep_of_the_list(timesteps) -> None:
    """On point-mass data, at 10 steps of linspace (diffusers' issue 9261) and for a list of one's own.

    Red when the next timestep is `t - T // steps`.
    """
    scheduler = ours(timestep_spacing="linspace", prediction_type="sample")
    scheduler.set_timesteps(10 if timesteps is None else None, timesteps=timesteps)
    bars = [*alpha_bars(scheduler)[scheduler.timesteps].tolist(), 1.0]
    if timesteps is None:
        assert scheduler.timesteps[:2].tolist() == [999, 888]
    point, eps = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), -1.3)
    zt = math.sqrt(bars[0]) * point + math.sqrt(1 - bars[0]) * eps
    for t, bar in zip(scheduler.timesteps, bars[1:], strict=True):
        zt = scheduler.step(point, t, zt).prev_sample
        torch.testing.assert_close(zt, math.sqrt(bar) * point + math.sqrt(1 - bar) * eps, atol=1e-4, rtol=0.0)


def test_noising_equals_diffusers() -> None:
    """For pipelines that start from a picture. Red when rates are exchanged."""
    z0, noise = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    peer = DDIMScheduler(**STABLE_DIFFUSION)
    torch.testing.assert_close(ours(**STABLE_DIFFUSION).add_noise(z0, noise, t), peer.add_noise(z0, noise, t))
    torch.testing.assert_close(ours(**STABLE_DIFFUSION).get_velocity(z0, noise, t), peer.get_velocity(z0, noise, t))


def test_settings_come_from_diffusers_and_survive_a_folder(tmp_path) -> None:
    """Red when a shared setting is renamed, or one of ours is not registered."""
    peer = DDIMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction")
    scheduler = HeteroscedasticDDIMScheduler.from_config(peer.config, data_variance=0.7, draw_last=True)
    shared = {key: value for key, value in scheduler.config.items() if not key.startswith("_") and key in peer.config}
    assert len(shared) == 13
    assert shared == {key: peer.config[key] for key in shared}
    scheduler.save_pretrained(tmp_path)
    again = HeteroscedasticDDIMScheduler.from_pretrained(tmp_path)
    assert (again.config.data_variance, again.config.draw_last) == (0.7, True)
    torch.testing.assert_close(sampled(again, 10), sampled(peer, 10), **CLOSE)
    back = DDIMScheduler.from_config(again.config)
    torch.testing.assert_close(sampled(back, 10), sampled(peer, 10), **CLOSE)


def test_bad_input_is_one_line() -> None:
    """Red when a check is removed."""
    zt = torch.zeros(1, *SHAPE)
    scheduler = ours()
    with pytest.raises(ConfigError, match="the timesteps are not chosen yet: call set_timesteps first"):
        scheduler.step(zt, 999, zt)
    for steps in (0, 1001):
        with pytest.raises(ConfigError, match=f"^steps is {steps}, but the schedule has 1000 timesteps: choose"):
            scheduler.set_timesteps(steps)
    for both in ({}, {"num_inference_steps": 2, "timesteps": [9, 3]}):
        with pytest.raises(ConfigError, match="give either num_inference_steps or timesteps"):
            scheduler.set_timesteps(**both)
    for bad in ([3, 9], [9, 9], [1000, 3], [3, -1]):
        with pytest.raises(ConfigError, match=rf"timesteps are \[{bad[0]}, {bad[1]}\], but must be 2 in descending"):
            scheduler.set_timesteps(timesteps=bad)
    scheduler.set_timesteps(4)
    with pytest.raises(ConfigError, match="timestep is 998, which is not in the list of set_timesteps"):
        scheduler.step(zt, 998, zt)
    with pytest.raises(ConfigError, match=r"eta is 1\.5, but must lie in 0 to 1"):
        scheduler.step(zt, 999, zt, eta=1.5)
    with pytest.raises(ConfigError, match=r"temperature is -1\.0, but must be 0 or more"):
        scheduler.step(zt, 999, zt, temperature=-1.0)
    with pytest.raises(ConfigError, match=r"eps_logvar has shape \(1, 1, 4, 3\), but the sample \(1, 2, 4, 3\)"):
        scheduler.step(zt, 999, zt, eps_logvar=zt[:, :1])
    with pytest.raises(ConfigError, match="thresholding is True, but it clips pixels"):
        ours(thresholding=True)
    with pytest.raises(ConfigError, match="prediction is 'v', but must be one of v_prediction, epsilon, sample"):
        ours(prediction_type="v")
