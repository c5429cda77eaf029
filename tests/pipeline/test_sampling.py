"""Sampling through a model: what the learned variance, the mask and rejection do, and what may not depend on them."""

import dataclasses
import gc
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jeppa.data import read_pixels, read_settings, to_pixels, write_png
from jeppa.diffusion import DDIM, Denoiser, SamplerStep
from jeppa.errors import CheckpointError, ConfigError
from jeppa.outputs import LeastUncertain, count_candidates, generate_files, read_mask
from jeppa.pipeline import Model, SamplerSettings, Uncertainty, batch_size_for, load_model, uncertainty

LEARNED = SamplerSettings(steps=3, variance="learned")


@pytest.fixture(scope="module")
def model(diffusion_folder: Path) -> Model:
    return load_model(diffusion_folder)


@pytest.fixture(scope="module")
def headless(model: Model) -> Model:
    return dataclasses.replace(model, denoiser=Denoiser(model.denoiser.unet, model.denoiser.kind, None))


def last(steps: Iterator[SamplerStep]) -> Tensor:
    *_, step = steps
    return step.zt


def test_a_picture_does_not_depend_on_its_batch(model: Model):
    """Red when noise of the learned variance is drawn for the batch and not for each seed.

    Convolutions round by the shape of the batch, about 1e-6 here, so now and then a value falls to the next level.
    """
    for together in model.generate(range(3, 8), LEARNED):
        (alone,) = model.generate([together.seed], LEARNED)
        torch.testing.assert_close(alone.x, together.x, atol=1e-5, rtol=0.0)
        levels = [to_pixels(sample.x).astype(int) for sample in (alone, together)]
        assert (levels[0] != levels[1]).mean() < 0.001
        assert alone.uncertainty == pytest.approx(together.uncertainty, abs=1e-6)


def test_the_texture_of_a_picture_does_not_depend_on_its_batch(texture_folder: Path):
    """Red when texture noise is drawn for the batch and not for each seed, or depends on what the sampler drew."""
    model = load_model(texture_folder)
    for together in model.generate(range(3, 6), LEARNED, texture=1.5):
        (alone,) = model.generate([together.seed], LEARNED, texture=1.5)
        torch.testing.assert_close(alone.x, together.x, atol=1e-4, rtol=0.0)
        (mean,) = model.generate([together.seed], LEARNED)
        assert (alone.x - mean.x).abs().max() > 0.01


def test_the_learned_variance_changes_samples_and_temperature_0_is_plain_ddim(model: Model):
    plain = last(model.sample([0, 1], SamplerSettings(steps=3, variance="none")))
    cold = last(model.sample([0, 1], LEARNED.model_copy(update={"temperature": 0.0})))
    assert torch.equal(plain, cold)
    assert not torch.allclose(plain, last(model.sample([0, 1], LEARNED)), atol=1e-2)


def test_the_last_draw_adds_to_the_last_step_alone(model: Model):
    drawn = LEARNED.model_copy(update={"last_draw": True})
    for a, b in zip(model.sample([0], LEARNED), model.sample([0], drawn), strict=True):
        assert torch.equal(a.zt, b.zt) == (a.index < 2)


def test_a_mask_sets_the_temperature_of_each_latent_element(model: Model, monkeypatch: pytest.MonkeyPatch):
    """White is the temperature, black plain DDIM, and a cell of 8x8 pixels counts by its area."""
    given: list[DDIM] = []
    monkeypatch.setattr("jeppa.pipeline.model.sample_ddim", lambda *args: given.append(args[3]))
    mask = torch.zeros(32, 32)
    mask[:, 8:] = 1.0
    mask[:8, :2] = 1.0
    model.sample([0], LEARNED.model_copy(update={"temperature": 0.8}), mask)
    expected = torch.full((1, 1, 4, 4), 0.8)
    expected[..., 0] = torch.tensor([0.2, 0.0, 0.0, 0.0])
    assert isinstance(given[0].temperature, Tensor)
    torch.testing.assert_close(given[0].temperature, expected)
    model.sample([0], LEARNED, torch.zeros(32, 32))
    assert not given[1].draws


def test_a_black_mask_is_plain_ddim_and_a_white_one_no_mask(model: Model):
    plain = SamplerSettings(steps=3, variance="none")
    assert torch.equal(last(model.sample([0], LEARNED, torch.zeros(32, 32))), last(model.sample([0], plain)))
    torch.testing.assert_close(last(model.sample([0], LEARNED, torch.ones(32, 32))), last(model.sample([0], LEARNED)))


def test_a_mask_is_read_as_shares_of_white(tmp_path: Path):
    write_png(np.array([[[0] * 3, [51] * 3, [255] * 3]], np.uint8), tmp_path / "mask.png")
    torch.testing.assert_close(read_mask(tmp_path / "mask.png"), torch.tensor([[0.0, 0.2, 1.0]]))


def test_uncertainty_is_the_mean_variance_over_elements_and_steps():
    """Red when steps are added up instead of averaged, or the variance of one step alone counts."""
    variances = [torch.tensor([[0.01, 0.04], [1.0, 1.0]]), torch.tensor([[0.09, 0.16], [1.0, 0.25]])]
    steps = [SamplerStep(i, 0, v, v, v.reshape(2, 1, 1, 2)) for i, v in enumerate(variances)]
    expected = torch.stack(variances).double().mean((0, 2))
    torch.testing.assert_close(uncertainty(steps), expected)
    with pytest.raises(CheckpointError, match="no variance"):
        Uncertainty().add(SamplerStep(0, 0, variances[0], variances[0], None))


def test_every_sample_has_the_score_of_its_own_steps(model: Model, headless: Model):
    expected = uncertainty(model.sample([4, 5], LEARNED)).tolist()
    assert [sample.uncertainty for sample in model.generate([4, 5], LEARNED)] == pytest.approx(expected)
    (plain,) = headless.generate([4], SamplerSettings(steps=1))
    assert plain.uncertainty is None


def test_selection_keeps_the_least_uncertain_whatever_the_order():
    scores = np.random.default_rng(0).normal(size=50).round(1)
    chosen = LeastUncertain(20)
    dropped = [seed for seed in range(50) if (out := chosen.offer(seed, scores[seed])) is not None for seed in [out]]
    assert chosen.seeds() == np.argsort(scores, kind="stable")[:20].tolist()
    assert sorted(dropped + chosen.seeds()) == list(range(50))


@pytest.mark.parametrize(("number", "keep", "drawn"), [(21, 0.35, 60), (3, 0.1, 30), (5, 0.4, 13), (4, 1.0, 4)])
def test_enough_candidates_are_drawn(number: int, keep: float, drawn: int):
    assert count_candidates(number, keep) == drawn


def test_rejection_keeps_n_files_and_loses_none(model: Model, tmp_path: Path):
    generate_files(model, tmp_path, 4, 10, LEARNED, keep=0.4)
    kept = {path.name: read_settings(path) for path in tmp_path.glob("0*.png")}
    rejected = {path.name: read_settings(path) for path in (tmp_path / "rejected").glob("*.png")}
    assert sorted([*kept, *rejected]) == [f"0000{seed}.png" for seed in range(10, 20)]
    assert len(kept) == 4
    scores = [[float(one["uncertainty"]) for one in group.values()] for group in (kept, rejected)]
    assert max(scores[0]) <= min(scores[1])
    generate_files(model, tmp_path, 4, 10, LEARNED, keep=0.8)
    assert len(list(tmp_path.glob("0*.png"))) + len(list((tmp_path / "rejected").glob("*.png"))) == 10


def test_a_picture_carries_what_made_it(model: Model, tmp_path: Path):
    write_png(np.full((32, 32, 3), 128, np.uint8), tmp_path / "mask.png")
    settings = SamplerSettings(steps=2, eta=0.5, variance="learned", temperature=0.5, label="flower", guidance=2.0)
    generate_files(model, tmp_path / "out", 1, 7, settings, mask=tmp_path / "mask.png")
    found = {key: json.loads(value) for key, value in read_settings(tmp_path / "out" / "000007.png").items()}
    assert SamplerSettings.model_validate({key: found[key] for key in SamplerSettings.model_fields}) == settings
    assert (found["seed"], found["mask"], found["keep"]) == (7, str(tmp_path / "mask.png"), 1.0)
    assert found["model"] == str(model.path)
    assert isinstance(found["uncertainty"], float)


def test_a_learned_variance_needs_a_head(headless: Model, tmp_path: Path):
    with pytest.raises(ConfigError, match="--variance learned needs: add one with jeppa train diffusion --denoiser"):
        generate_files(headless, tmp_path / "out", 1, 0, LEARNED)
    with pytest.raises(ConfigError, match="--keep needs"):
        generate_files(headless, tmp_path / "out", 1, 0, SamplerSettings(variance="none"), keep=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "seed"), [(10**20, 0), (2, 2**32 - 1), (1, -1)])
def test_seeds_out_of_range_are_refused(model: Model, tmp_path: Path, number: int, seed: int):
    """Red when the number of pictures is asked for first, which Python cannot count beyond 2^63."""
    with pytest.raises(ConfigError, match="must lie in 0 to 4294967295"):
        generate_files(model, tmp_path / "out", number, seed, LEARNED)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("old_objects_hidden")
def test_memory_does_not_grow_with_the_number(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when pictures are gathered before they are written, or after."""
    monkeypatch.setattr("jeppa.pipeline.model.BATCH", 2)
    monkeypatch.setattr("jeppa.outputs.SHEET_PICTURES", 4)
    most = 0

    def counting(x: Tensor, path: Path, settings: dict[str, str]) -> None:
        nonlocal most
        most = max(most, alive_pixels())
        write_png(x, path, settings)

    monkeypatch.setattr("jeppa.outputs.write_png", counting)
    peaks = []
    for number in (4, 12):
        most = 0
        tracemalloc.start()
        generate_files(model, tmp_path / str(number), number, 0, SamplerSettings(steps=1))
        peaks.append((most, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    assert 0 < peaks[1][0] == peaks[0][0]
    assert peaks[1][1] < peaks[0][1] + 12 * 32 * 32 * 3


@pytest.fixture
def old_objects_hidden() -> Iterator[None]:
    """`gc.get_objects` lists what is made from here on, which takes milliseconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive_pixels() -> int:
    """Bytes of all tensors of the size of pictures."""
    tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.shape[-2:] == (32, 32)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def test_read_pixels_of_the_sheet_are_those_of_the_files(model: Model, tmp_path: Path):
    sheet = read_pixels(generate_files(model, tmp_path, 2, 0, LEARNED))
    assert (sheet[:, :32] == read_pixels(tmp_path / "000000.png")).all()
    assert (sheet[:, 34:] == read_pixels(tmp_path / "000001.png")).all()


@pytest.mark.parametrize(("side", "count"), [(32, 16), (512, 16), (1024, 4), (2048, 1), (8192, 1)])
def test_so_many_are_made_at_once_that_they_have_the_pixels_of_sixteen_of_512(side: int, count: int):
    """Red when the number stays 16: decoded, sixteen pictures of 8192 pixels take 24 GiB."""
    assert batch_size_for(side) == count


@torch.no_grad()
def test_a_picture_above_a_tile_is_decoded_in_tiles_and_as_good_as_whole(
    diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Within 2 levels, as in the tests of tiles. Red when it is decoded in one piece, or tiles lie a cell off."""
    model = load_model(diffusion_folder)
    settings = SamplerSettings(steps=1, resolution=480)
    model.codec.vae.disable_tiling()
    (whole,) = model.generate([0], settings)
    model.codec.vae.enable_tiling(240)
    sides: list[int] = []
    decode = model.codec.vae._decode
    monkeypatch.setattr(model.codec.vae, "_decode", lambda z: sides.append(max(z.shape[2:])) or decode(z))
    (tiled,) = model.generate([0], settings)
    assert max(sides) * 8 <= 240
    assert (tiled.x - whole.x).abs().mean().item() * 127.5 < 2.0


def test_pictures_as_large_as_tiles_promise_may_be_asked_for(model: Model):
    """Red with another limit than that of pictures elsewhere."""
    assert model.side(8192) == 8192
    with pytest.raises(ConfigError, match="from 8 to 8192"):
        model.side(8200)


def test_previews_of_large_pictures_show_the_first_batch(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when later batches are written over it."""
    monkeypatch.setattr("jeppa.pipeline.model.PIXELS", 2 * 32**2)
    generate_files(model, tmp_path, 3, 0, SamplerSettings(steps=1), previews=True)
    assert read_pixels(tmp_path / "steps" / "step-00.png").shape[1] == 32 + 2 + 32


def test_large_pictures_are_reduced_in_the_sheet_alone(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when a sheet of 64 pictures has 64 times their pixels, whatever their size."""
    monkeypatch.setattr("jeppa.outputs.SHEET_SIDE", 16)
    sheet = read_pixels(generate_files(model, tmp_path, 2, 0, SamplerSettings(steps=1)))
    assert sheet.shape == (16, 16 + 2 + 16, 3)
    assert read_pixels(tmp_path / "000000.png").shape == (32, 32, 3)
