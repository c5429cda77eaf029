"""Without a variance the scheduler is diffusers' DDIMScheduler to the last bit; see also tests/interop."""

import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from jeppa.diffusion import HeteroscedasticDDIMScheduler, generators_for, initial_noise
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


def sampled(scheduler, steps: int, eta: float = 0.0, **step) -> Tensor:
    generators = generators_for(SEEDS)
    zt = initial_noise(SHAPE, generators)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        zt = scheduler.step(net(zt, int(t)), t, zt, eta=eta, generator=generators, **step).prev_sample
    return zt


def ours(**settings) -> HeteroscedasticDDIMScheduler:
    return HeteroscedasticDDIMScheduler(**settings)


def settings_of(scheduler) -> dict:
    """Those that are DDIMScheduler's."""
    return {key: scheduler.config[key] for key in inspect.signature(DDIMScheduler).parameters}


@pytest.mark.parametrize("method", ["__init__", "step"])
def test_arguments_of_diffusers_come_first_in_its_order_with_its_defaults(method: str) -> None:
    """Red when one is missing (also one of a newer diffusers), moved or of another default, or ours are positional."""
    theirs = list(inspect.signature(getattr(DDIMScheduler, method)).parameters.values())
    found = list(inspect.signature(getattr(HeteroscedasticDDIMScheduler, method)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in found[: len(theirs)]] == [(p.name, p.default, p.kind) for p in theirs]
    assert len(found) > len(theirs)
    assert all(p.kind is p.KEYWORD_ONLY for p in found[len(theirs) :])


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 10),
        (STABLE_DIFFUSION, 7),
        ({"timestep_spacing": "trailing"}, 15),
        ({"timestep_spacing": "trailing"}, 61),
        ({"timestep_spacing": "linspace"}, 10),
        ({"clip_sample_range": 0.5}, 10),
        ({"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}, 10),
        ({"trained_betas": [0.001 + 0.0001 * t for t in range(100)], "num_train_timesteps": 100}, 10),
        (
            {
                **BETAS,
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
            },
            10,
        ),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, 10),
    ],
)
def test_steps_are_those_of_diffusers_to_the_last_bit(settings, steps: int, clipped: bool, eta: float) -> None:
    """Also where diffusers misses its own list: at 15 and 61 of trailing, and 10 of linspace.

    Red when a setting is not passed on, or the arithmetic is ours.
    """
    peer = sampled(DDIMScheduler(**settings), steps, eta, use_clipped_model_output=clipped)
    found = sampled(ours(**settings), steps, eta, use_clipped_model_output=clipped)
    torch.testing.assert_close(found, peer, atol=0.0, rtol=0.0, equal_nan=True)


def test_positional_arguments_mean_what_they_mean_in_diffusers() -> None:
    """Red when an argument of ours stands among them."""
    scheduler, peer = ours(clip_sample_range=0.3), DDIMScheduler(clip_sample_range=0.3)
    zt, noise = torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    asked = (net(zt, 500), 500, zt, 0.7, True, None, noise, False)
    for each in (scheduler, peer):
        each.set_timesteps(10)
    for found, expected in zip(scheduler.step(*asked), peer.step(*asked), strict=True):
        assert torch.equal(found, expected)
    drawn = (*asked[:5], torch.Generator().manual_seed(3))
    again = (*asked[:5], torch.Generator().manual_seed(3))
    assert torch.equal(scheduler.step(*drawn).prev_sample, peer.step(*again).prev_sample)
    with pytest.raises(ValueError, match="Cannot pass both generator and variance_noise"):
        scheduler.step(*asked[:5], torch.Generator(), noise)


@pytest.mark.parametrize("t", [0, 1, 49, 437, 999])
def test_timesteps_outside_the_list_step_as_in_diffusers(t: int) -> None:
    """Red when the timestep is looked for in the list."""
    scheduler, peer = ours(), DDIMScheduler()
    zt = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    for each in (scheduler, peer):
        each.set_timesteps(9)
    assert torch.equal(scheduler.step(net(zt, t), t, zt).prev_sample, peer.step(net(zt, t), t, zt).prev_sample)
    assert scheduler.previous_timestep(t) == t - 111


SOURCES = [
    DDIMScheduler(),
    DDIMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction"),
    DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0, clip_sample_range=3.0),
    DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", trained_betas=[0.1, 0.3, 0.5]),
    PNDMScheduler(),
    PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, timestep_spacing="trailing"),
    EulerDiscreteScheduler(),
    EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="linspace", steps_offset=1),
    EulerDiscreteScheduler(rescale_betas_zero_snr=True, trained_betas=[0.1, 0.3, 0.5]),
    DDPMScheduler(clip_sample=False, thresholding=True),
    LCMScheduler(),
    UniPCMultistepScheduler(sample_max_value=2.0, steps_offset=1),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
@pytest.mark.parametrize("saved", [False, True])
def test_settings_from_any_scheduler_are_those_that_diffusers_takes_from_it(source, saved: bool, tmp_path) -> None:
    """What a config does not say, or left at another scheduler's default, is DDIMScheduler's. Red when it is ours."""
    if saved:
        source.save_pretrained(tmp_path)
        found, peer = (each.from_pretrained(tmp_path) for each in (HeteroscedasticDDIMScheduler, DDIMScheduler))
    else:
        found, peer = (each.from_config(source.config) for each in (HeteroscedasticDDIMScheduler, DDIMScheduler))
    assert settings_of(found) == settings_of(peer)
    assert torch.equal(found.alphas_cumprod, peer.alphas_cumprod)
    assert torch.equal(found.final_alpha_cumprod, peer.final_alpha_cumprod)
    assert (found.config.exact, found.config.draw_last, found.config.data_variance) == (False, False, 1.0)
    assert (found.init_noise_sigma, found.order, len(found)) == (peer.init_noise_sigma, peer.order, len(peer))
    # And on to a third scheduler.
    onward, expected = (EulerDiscreteScheduler.from_config(each.config).config for each in (found, peer))
    for key in inspect.signature(EulerDiscreteScheduler).parameters:
        assert onward[key] == expected[key], key


def test_correction_of_a_pipeline_survives_the_exchange() -> None:
    """Stable Diffusion's pipelines correct the config of a DDIM without noting it, and `from_config` of diffusers goes
    back to its default: the picture changes. Red without `extract_init_dict`.
    """
    source = DDIMScheduler(**BETAS)
    corrected = {**source.config, "_class_name": "DDIMScheduler", "steps_offset": 1, "clip_sample": False}
    source._internal_dict = type(source.config)(corrected)
    assert DDIMScheduler.from_config(source.config).config.steps_offset == 0
    found = HeteroscedasticDDIMScheduler.from_config(source.config)
    assert settings_of(found) == settings_of(source)
    again = HeteroscedasticDDIMScheduler.from_config(found.config)
    assert settings_of(again) == settings_of(source)


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
def test_exact_steps_equal_diffusers_where_its_stride_meets_the_list(settings, steps: int, kind, eta: float) -> None:
    """Red when a setting is not passed on, eps follows the clipped x0, or the last step draws no noise."""
    settings = {**settings, "prediction_type": kind}
    peer = sampled(DDIMScheduler(**settings), steps, eta)
    torch.testing.assert_close(sampled(ours(**settings, exact=True), steps, eta), peer, **CLOSE)


@pytest.mark.parametrize("settings", [{"clip_sample_range": 0.5}, {"thresholding": True, "sample_max_value": 1.5}])
@pytest.mark.parametrize("clipped", [False, True])
def test_exact_steps_clip_as_diffusers_does(settings, clipped: bool) -> None:
    """Red when one of the two ways to clip is left out, or eps follows x0 without being asked to."""
    peer = sampled(DDIMScheduler(**BETAS, **settings), 10, use_clipped_model_output=clipped)
    found = sampled(ours(**BETAS, **settings, exact=True), 10, use_clipped_model_output=clipped)
    torch.testing.assert_close(found, peer, **CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 999, 1000])
@pytest.mark.parametrize("exact", [False, True])
def test_stable_diffusion_visits_the_timesteps_of_diffusers(steps: int, exact: bool) -> None:
    """At 1000 diffusers' offset list starts past the schedule. Red without the offset, or when it makes one twice."""
    scheduler, peer = ours(**STABLE_DIFFUSION, exact=exact), DDIMScheduler(**STABLE_DIFFUSION)
    scheduler.set_timesteps(steps)
    peer.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()
    assert visited == [t - (steps == 1000) for t in peer.timesteps.tolist()]
    assert len(set(visited)) == steps


def test_noising_equals_diffusers() -> None:
    """For pipelines that start from a picture. Red when rates are exchanged."""
    z0, noise = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    peer = DDIMScheduler(**STABLE_DIFFUSION)
    plain, exact = (ours(**STABLE_DIFFUSION, exact=each) for each in (False, True))
    assert torch.equal(plain.add_noise(z0, noise, t), peer.add_noise(z0, noise, t))
    assert torch.equal(plain.get_velocity(z0, noise, t), peer.get_velocity(z0, noise, t))
    torch.testing.assert_close(exact.add_noise(z0, noise, t), peer.add_noise(z0, noise, t))
    torch.testing.assert_close(exact.get_velocity(z0, noise, t), peer.get_velocity(z0, noise, t))


def test_settings_come_from_diffusers_and_survive_a_folder(tmp_path) -> None:
    """Red when a shared setting is renamed, or one of ours is not registered."""
    peer = DDIMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction")
    scheduler = HeteroscedasticDDIMScheduler.from_config(peer.config, data_variance=0.7, draw_last=True)
    assert settings_of(scheduler) == settings_of(peer)
    scheduler.save_pretrained(tmp_path)
    again = HeteroscedasticDDIMScheduler.from_pretrained(tmp_path)
    assert (again.config.data_variance, again.config.draw_last) == (0.7, True)
    torch.testing.assert_close(sampled(again, 10), sampled(peer, 10), **CLOSE)
    back = DDIMScheduler.from_config(again.config)
    torch.testing.assert_close(sampled(back, 10), sampled(peer, 10), **CLOSE)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 15, 25, 61, 103, 333, 999, 1000])
def test_every_spacing_visits_the_timesteps_of_diffusers(spacing: str, steps: int) -> None:
    """Its trailing list of 61 and 103 ends with -1. Red when the list is ours; `exact` leaves the -1 out."""
    scheduler, peer, exact = (
        ours(timestep_spacing=spacing),
        DDIMScheduler(timestep_spacing=spacing),
        ours(timestep_spacing=spacing, exact=True),
    )
    for each in (scheduler, peer, exact):
        each.set_timesteps(steps)
    assert torch.equal(scheduler.timesteps, peer.timesteps)
    assert exact.timesteps.tolist() == [t for t in peer.timesteps.tolist() if t >= 0]


def test_unknown_settings_are_one_line() -> None:
    """Red when the check of the prediction type is left to the first step."""
    with pytest.raises(ConfigError, match="prediction is 'flow_prediction', but must be one of v_prediction, epsilon"):
        HeteroscedasticDDIMScheduler.from_config({"prediction_type": "flow_prediction"})
    with pytest.raises(ValueError, match=r"^steps is 0, but the schedule has 1000 timesteps: choose 1 to 1000$"):
        ours().set_timesteps(0)
