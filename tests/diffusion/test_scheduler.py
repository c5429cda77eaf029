"""With a variance the scheduler is `sample_ddim`, and with `exact` without one too; see test_scheduler_stock.py."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
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


def net(zt: Tensor, t: Tensor | int) -> Tensor:
    return 0.7 * torch.tanh(zt + t / 1000) - 0.1


def logvar_of_v(zt: Tensor) -> Tensor:
    return torch.sin(3.0 * zt) - 2.0


def ours(**settings) -> HeteroscedasticDDIMScheduler:
    return HeteroscedasticDDIMScheduler(**settings)


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
        step = scheduler.step(net(zt, int(t)), t, zt, eta, generator=generators, eps_logvar=eps_logvar, temperature=0.8)
        zt = step.prev_sample

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        return Prediction(net(zt, int(t[0])), logvar_of_v(zt))

    generators = generators_for(SEEDS)
    torch.testing.assert_close(initial_noise(SHAPE, generators), z_t)
    *_, last = sample_ddim(denoise, z_t, schedule, DDIM(4, eta, visited, 0.8, draw_last), generators)
    torch.testing.assert_close(zt, last.zt, **CLOSE)


@pytest.mark.parametrize(("kind", "steps"), [("v_prediction", 15), ("sample", 25), ("epsilon", 7)])
@pytest.mark.parametrize(("eta", "draw_last"), [(0.0, False), (0.5, True)])
def test_output_of_twice_the_channels_equals_our_sampler(kind, steps: int, eta: float, draw_last: bool) -> None:
    """From pure noise on, over trailing lists that a stride of T // steps would miss.

    Red when the second half is taken for the variance of eps, or `for_latents` is not exact, trailing or unclipped.
    """
    scheduler = HeteroscedasticDDIMScheduler.for_latents(kind, draw_last=draw_last)
    generators = generators_for(SEEDS)
    z_t = zt = initial_noise(SHAPE, generators)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        both = torch.cat([net(zt, int(t)), logvar_of_v(zt)], 1)
        zt = scheduler.step(both, t, zt, eta, generator=generators).prev_sample

    def denoise(zt: Tensor, t: Tensor) -> Prediction:
        return Prediction(net(zt, int(t[0])), logvar_of_v(zt), kind)

    generators = generators_for(SEEDS)
    initial_noise(SHAPE, generators)
    settings = DDIM(steps, eta, temperature=1.0, last=draw_last)
    *_, last = sample_ddim(denoise, z_t, make_scheduler(kind=kind), settings, generators)
    torch.testing.assert_close(zt, last.zt, **CLOSE)


@pytest.mark.parametrize("exact", [False, True])
def test_output_of_twice_the_channels_is_eps_logvar_where_the_net_predicts_eps(exact: bool) -> None:
    """Red when the halves are exchanged, or the second is not used."""
    scheduler = ours(clip_sample=False, exact=exact)
    scheduler.set_timesteps(10)
    zt = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    eps, logvar = net(zt, 500), logvar_of_v(zt)
    given = {"variance_noise": torch.ones_like(zt), "temperature": 0.8}
    whole = scheduler.step(torch.cat([eps, logvar], 1), 500, zt, **given)
    apart = scheduler.step(eps, 500, zt, eps_logvar=logvar, **given)
    assert torch.equal(whole.prev_sample, apart.prev_sample)
    assert torch.equal(whole.pred_original_sample, apart.pred_original_sample)
    assert not torch.equal(whole.prev_sample, scheduler.step(eps, 500, zt).prev_sample)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_learned_variance_is_added_to_the_mean_of_diffusers(eta: float, spacing: str) -> None:
    """sigma^2 = lambda^2 + temperature^2 c^2 Var[x0|zt] about diffusers' own mean, clipped, over its own stride.

    Red when the share is that of another step, lambda is left out or drawn twice, or the mean is not diffusers'.
    """
    settings = {"timestep_spacing": spacing, "clip_sample_range": 0.7}
    scheduler, peer = ours(**settings), DDIMScheduler(**settings)
    zt, noise = torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    logvar = logvar_of_v(zt)
    for each in (scheduler, peer):
        each.set_timesteps(10)
    for t in scheduler.timesteps[:-1]:
        asked = (net(zt, int(t)), int(t), zt)
        step = scheduler.step(*asked, eta, True, variance_noise=noise, eps_logvar=logvar, temperature=0.8)
        still = peer.step(*asked, eta, True, variance_noise=torch.zeros_like(zt))
        a, a_prev = peer.alphas_cumprod[torch.stack([t, t - 100])].double()
        own = eta**2 * (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        share = a_prev.sqrt() - (a * (1 - a_prev - own) / (1 - a)).sqrt()
        variance = ((1 - a) / a * logvar.double().exp()).clamp(max=1.0)
        sigma = (own + 0.64 * share**2 * variance).sqrt()
        torch.testing.assert_close(step.prev_sample, still.prev_sample + sigma.float() * noise, **CLOSE)
        assert torch.equal(step.pred_original_sample, still.pred_original_sample)


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 10), ("trailing", 15), ("linspace", 10)])
def test_last_step_draws_no_learned_noise_unless_told(spacing: str, steps: int) -> None:
    """At 15 steps of trailing, diffusers' last one ends at a timestep above 0.

    Red when only a step to the clean latent counts as the last.
    """
    zt = torch.zeros(1, *SHAPE)
    for draw_last in (False, True):
        scheduler = ours(timestep_spacing=spacing, draw_last=draw_last)
        scheduler.set_timesteps(steps)
        t = scheduler.timesteps[-1]
        step = scheduler.step(zt, t, zt, eps_logvar=zt, variance_noise=torch.ones_like(zt))
        assert (step.prev_sample > 0).all() == draw_last


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
    scheduler = ours(timestep_spacing="linspace", prediction_type="sample", exact=timesteps is None)
    scheduler.set_timesteps(10 if timesteps is None else None, timesteps=timesteps)
    bars = [*alpha_bars(scheduler)[scheduler.timesteps].tolist(), 1.0]
    if timesteps is None:
        assert scheduler.timesteps[:2].tolist() == [999, 888]
    point, eps = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), -1.3)
    zt = math.sqrt(bars[0]) * point + math.sqrt(1 - bars[0]) * eps
    for t, bar in zip(scheduler.timesteps, bars[1:], strict=True):
        zt = scheduler.step(point, t, zt).prev_sample
        torch.testing.assert_close(zt, math.sqrt(bar) * point + math.sqrt(1 - bar) * eps, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "visited", [[900, 500, 3], (900, 500, 3), np.array([900, 500, 3]), torch.tensor([900, 500, 3])]
)
def test_list_of_ones_own_is_any_sequence_of_whole_numbers(visited) -> None:
    """Red when the truth of an array is asked."""
    scheduler = ours()
    scheduler.set_timesteps(timesteps=visited)
    assert scheduler.timesteps.tolist() == [900, 500, 3]
    assert scheduler.num_inference_steps == 3
    assert [scheduler.previous_timestep(t) for t in (900, 500, 3)] == [500, 3, -1]
    scheduler.set_timesteps(np.int64(5))
    assert [scheduler.previous_timestep(t) for t in (900, 500, 3)] == [700, 300, -197]


def test_exact_noising_keeps_the_noise_of_the_first_timesteps_in_bfloat16() -> None:
    """Red when `exact` does not reach `add_noise` and `get_velocity`: diffusers rounds alpha_bar to 1 there."""
    zero, one, first = (
        torch.zeros(1, 1, dtype=torch.bfloat16),
        torch.ones(1, 1, dtype=torch.bfloat16),
        torch.tensor([0]),
    )
    for exact in (False, True):
        scheduler = ours(exact=exact)
        assert bool(scheduler.add_noise(zero, one, first) > 0) == exact
        assert bool(scheduler.get_velocity(one, zero, first) < 0) == exact


def test_log_variance_of_another_meaning_is_refused() -> None:
    """A net of DDPM's learned_range says where between two variances of the step it lies. Red without the check."""
    config = DDPMScheduler(variance_type="learned_range").config
    scheduler = HeteroscedasticDDIMScheduler.from_config(config)
    scheduler.set_timesteps(4)
    zt = torch.zeros(1, *SHAPE)
    with pytest.raises(ConfigError, match="a variance of type learned_range, which is no log-variance of its error"):
        scheduler.step(torch.cat([zt, zt], 1), 750, zt)


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
    exact = ours(exact=True)
    exact.set_timesteps(4)
    with pytest.raises(ConfigError, match="timestep is 998, which is not in the list of set_timesteps"):
        exact.step(zt, 998, zt)
    scheduler.set_timesteps(4)
    with pytest.raises(ConfigError, match=r"eta is 1\.5, but must lie in 0 to 1"):
        scheduler.step(zt, 999, zt, eta=1.5)
    with pytest.raises(ConfigError, match=r"temperature is -1\.0, but must be 0 or more"):
        scheduler.step(zt, 999, zt, temperature=-1.0)
    with pytest.raises(ConfigError, match=r"eps_logvar has shape \(1, 1, 4, 3\), but the sample \(1, 2, 4, 3\)"):
        scheduler.step(zt, 999, zt, eps_logvar=zt[:, :1])
    with pytest.raises(ConfigError, match="prediction is 'v', but must be one of v_prediction, epsilon, sample"):
        ours(prediction_type="v")
    with pytest.raises(ConfigError, match="eps_logvar is given, but the model output has a log-variance too"):
        scheduler.step(torch.cat([zt, zt], 1), 999, zt, eps_logvar=zt)
    with pytest.raises(ConfigError, match="generator and variance_noise are both given: leave one of them out"):
        scheduler.step(zt, 999, zt, eps_logvar=zt, generator=torch.Generator(), variance_noise=zt)
    for count in (7.5, 7.0, "7", torch.tensor(7.0)):
        with pytest.raises(ValueError, match=r"^num_inference_steps is .*7.*, but must be a whole number: round it$"):
            scheduler.set_timesteps(count)
    for listed in ([900.0, 3.0], np.array([900.0, 3.0]), torch.tensor([900.0, 3.0])):
        with pytest.raises(ConfigError, match=r"^a timestep is .*900.*, but must be a whole number: round it$"):
            scheduler.set_timesteps(timesteps=listed)
    for single in (900, np.array(900), torch.tensor(900)):
        with pytest.raises(ConfigError, match=r"^timesteps are .*900.*, but must be a list of whole numbers$"):
            scheduler.set_timesteps(timesteps=single)
