"""The live view: its sigma is the law of total variance, and looking changes nothing."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jeppa.config import PRESETS
from jeppa.data import read_pixels, read_settings
from jeppa.diffusion import Denoiser, SamplerStep
from jeppa.distributions import DiagonalGaussian
from jeppa.outputs import generate_files
from jeppa.pipeline import Model, SamplerSettings, load_model
from jeppa.pipeline.model import preview, variance_through

LEARNED = SamplerSettings(steps=3, variance="learned")


@pytest.fixture(scope="module")
def model(diffusion_folder: Path) -> Model:
    return load_model(diffusion_folder)


@dataclass
class LinearCodec:
    """A decoder whose variance through is known: a matrix over channels, each element a cell of 8x8 pixels."""

    matrix: Tensor
    var: float
    vae: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(settings=PRESETS["tiny"]))

    def decode(self, z0: Tensor) -> DiagonalGaussian:
        mean = functional.interpolate(torch.einsum("dc,bchw->bdhw", self.matrix, z0), scale_factor=8.0)
        return DiagonalGaussian(mean, torch.full_like(mean, self.var).log())


def test_sigma_adds_the_decoders_variance_to_what_comes_through_it():
    codec = LinearCodec(torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, -1.0]]), 0.25)
    variance = torch.tensor([0.5, 0.1])[None, :, None, None].expand(1, 2, 64, 64)
    step = SamplerStep(0, 0, torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64), variance)
    seen = preview(codec, step)
    expected = codec.matrix.square() @ torch.tensor([0.5, 0.1]) + 0.25
    assert seen.sigma is not None
    torch.testing.assert_close(seen.sigma.square().mean((0, 2, 3)), expected, rtol=0.05, atol=0.0)


def test_variance_comes_through_where_it_is_and_a_cell_is_even(model: Model):
    x0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not variance_through(model.codec, x0, torch.zeros_like(x0)).any()
    found = variance_through(model.codec, x0, torch.ones_like(x0))
    assert found.shape == (2, 3, 32, 32)
    cells = found.unfold(2, 8, 8).unfold(3, 8, 8)
    assert torch.equal(cells, cells[..., :1, :1].expand_as(cells))
    assert (found > 0.0).all()


def test_a_sigma_map_does_not_depend_on_its_batch(model: Model):
    x0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = variance_through(model.codec, x0[1:], torch.ones_like(x0[1:]))
    torch.testing.assert_close(variance_through(model.codec, x0, torch.ones_like(x0))[1:], alone)


def test_looking_does_not_change_the_samples(model: Model):
    """Red when a preview draws from the sampler's generators, or from torch's global one."""
    state = torch.get_rng_state()
    seen = [one.step.zt for one in model.previews([0, 1], LEARNED)]
    unseen = [step.zt for step in model.sample([0, 1], LEARNED)]
    assert all(torch.equal(a, b) for a, b in zip(seen, unseen, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_a_net_without_a_variance_has_previews_without_sigma(model: Model):
    headless = dataclasses.replace(model, denoiser=Denoiser(model.denoiser.unet, model.denoiser.kind, None))
    (seen,) = headless.previews([0], SamplerSettings(steps=1, variance="none"))
    assert seen.estimate.shape == (1, 3, 32, 32)
    assert seen.sigma is None


def test_preview_files_show_every_step_and_leave_the_pictures_as_they_are(model: Model, tmp_path: Path):
    for name, previews in (("with", True), ("without", False)):
        generate_files(model, tmp_path / name, 10, 0, LEARNED, previews=previews)
    for path in (tmp_path / "without").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "with" / path.name).read_bytes()
    sheets = sorted((tmp_path / "with" / "steps").iterdir())
    assert [path.name for path in sheets] == [f"step-0{index}.png" for index in range(3)]
    assert read_pixels(sheets[0]).shape == (4 * 34 - 2, 8 * 34 - 2, 3)
    assert read_settings(sheets[1])["step"] == "1"
    assert not (tmp_path / "without" / "steps").exists()
