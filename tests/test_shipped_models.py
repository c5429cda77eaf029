"""The shipped models: every file is the one that was shipped, small enough, explained, and used by its name."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jeppa import shipped
from jeppa.cli import run
from jeppa.config import load_run
from jeppa.errors import CheckpointError
from jeppa.pipeline import SamplerSettings, load_model
from jeppa.shipped import SHIPPED, find_shipped

MOST_BYTES = 20_000_000
ROOT = Path(__file__).parents[1]
NAMES = [model.name for model in SHIPPED]
DENOISERS = [model.name for model in SHIPPED if model.kind == "denoiser"]


@pytest.fixture(params=SHIPPED, ids=NAMES)
def model(request: pytest.FixtureRequest) -> shipped.ShippedModel:
    return request.param


def test_each_is_whole_small_and_explained(model: shipped.ShippedModel):
    """Red when a file is not listed, when one is too large for the repository, and when a card or notice is missing."""
    listed = {model.folder / name for name in model.files}
    found = {path for path in model.folder.rglob("*") if path.is_file()}
    assert listed == found
    assert sum(path.stat().st_size for path in found) <= MOST_BYTES
    card = (model.folder / "README.md").read_text()
    assert "jeppa train" in card
    assert "MIT" in (model.folder / "NOTICE").read_text()


def test_figures_are_those_of_the_committed_record(model: shipped.ShippedModel):
    """Red when a figure of the catalogue was not measured, or by another run."""
    shown = json.loads((ROOT / "recipes" / f"{model.name}.json").read_text())["shown"]
    record = json.loads((ROOT / "results" / "shipped" / f"{model.name}.json").read_text())
    assert set(shown) == set(model.figures)
    for title, path in shown.items():
        value = record
        for key in path.split("/"):
            value = value[key]
        assert model.figures[title] == pytest.approx(value, abs=1e-4)


def test_each_opens_by_name_and_answers(model: shipped.ShippedModel):
    opened = load_model(model.name)
    x = torch.linspace(-1.0, 1.0, 3 * 64 * 64).view(1, 3, 64, 64)
    decoded = opened.reconstruct(x)
    assert (decoded.mean - x).abs().mean() < 0.15
    assert sum(p.numel() for p in (opened.denoiser or opened.codec.vae).parameters()) == model.parameters


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_draws_of_each_class(name: str):
    """Red when labels or the variance head are lost on the way into the package."""
    opened = load_model(name)
    assert opened.labels
    settings = SamplerSettings(steps=2, label=opened.labels[-1], variance="learned")
    (sample,) = opened.generate([0], settings)
    assert sample.x.shape == (3, opened.resolution, opened.resolution)
    assert sample.uncertainty is not None


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str):
    """Red when a file is used without its hash being looked at."""
    shutil.copytree(shipped.ROOT / NAMES[0], tmp_path / NAMES[0])
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    assert find_shipped(NAMES[0]) is not None
    weights = tmp_path / NAMES[0] / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content) if damage == "changed" else weights.unlink()
    with pytest.raises(CheckpointError, match="pip install --force-reinstall jeppa"):
        load_model(NAMES[0])


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Red when a user's own run called small is passed over in silence."""
    (tmp_path / NAMES[0]).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither config\.yaml nor model\.json"):
        load_model(NAMES[0])


def test_an_unknown_name_is_told_the_known_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["generate", "--model", "nosuchmodel", "--out", str(tmp_path / "out")]
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in NAMES)
    assert len(said.strip().splitlines()) == 1


def test_models_lists_them(capsys: pytest.CaptureFixture[str]):
    assert run(["models"]) == 0
    said = capsys.readouterr().out
    for model in SHIPPED:
        assert f"{model.name}: {model.about}" in said
        assert model.licence in said


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_configuration(path: Path):
    """Red when a setting is renamed and a recipe is left behind."""
    load_run(path)
