"""Samples that are watched are the samples that are not: `jeppa.pipeline.drawing`."""

import time
from pathlib import Path

import pytest
import torch

from jeppa.config import SamplerSettings
from jeppa.errors import ConfigError
from jeppa.pipeline import draw_grid, draw_live, load_model

SETTINGS = SamplerSettings(steps=4, variance="learned")


@pytest.mark.parametrize("share", [0.0, 0.15, None])
def test_the_pictures_are_those_of_generate(diffusion_folder: Path, share: float | None):
    """Red when previews use the sampler's noise, or the last estimate is taken for the sample."""
    model = load_model(diffusion_folder)
    moments = list(draw_live(model, range(3, 6), SETTINGS, share))
    plain = list(model.generate(range(3, 6), SETTINGS))
    assert [one.seed for one in moments[-1].samples] == [3, 4, 5]
    for watched, one in zip(moments[-1].samples, plain, strict=True):
        assert torch.equal(watched.x, one.x)
        assert watched.uncertainty == one.uncertainty
    shown = [len(moment.estimates) for moment in moments[:-1]]
    assert len(shown) == 4
    if share is None:
        assert shown == [3, 3, 3, 3]
    if share == 0.0:
        assert shown[1:] == [0, 0, 0]


def test_a_stop_keeps_the_estimate_of_its_step(diffusion_folder: Path):
    model = load_model(diffusion_folder)
    answers = iter([False, True])
    *_, last = draw_live(model, [7], SETTINGS, None, lambda: next(answers))
    assert last.stopped
    assert last.step == 2
    steps = list(model.sample([7], SETTINGS))
    assert torch.equal(last.samples[0].x, model.codec.decode(steps[1].x0).mean[0])


def test_a_grid_varies_one_setting(diffusion_folder: Path):
    model = load_model(diffusion_folder)
    rows = list(draw_grid(model, [0, 1], "steps", [2, 4], SETTINGS))
    assert [value for value, _ in rows] == [2, 4]
    (same,) = model.generate([1], SamplerSettings(steps=2, variance="learned"))
    assert torch.allclose(rows[0][1][1].x, same.x, atol=1e-5)
    with pytest.raises(ConfigError, match="steps"):
        draw_grid(model, [0], "steps", [2, 0], SETTINGS)
    with pytest.raises(ConfigError, match="axis"):
        draw_grid(model, [0], "label", [1.0], SETTINGS)  # type: ignore[arg-type]


def test_what_the_caller_takes_to_show_a_preview_counts(diffusion_folder: Path):
    """Red when only the decoding is counted: then a slow page would slow the sampling down without a limit."""
    model = load_model(diffusion_folder)
    shown = 0
    for moment in draw_live(model, [0], SamplerSettings(steps=30, variance="learned"), 0.15):
        if moment.estimates:
            shown += 1
            time.sleep(0.3)
    assert 1 <= shown <= 3
