"""A denoiser as a folder: it comes back as it was, opens in diffusers, and what a stranger made is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from jeppa.config import DenoiserConfig
from jeppa.diffusion import DenoiserAbout, load_denoiser, make_denoiser, make_scheduler, save_denoiser
from jeppa.errors import CheckpointError, ConfigError
from jeppa.vae import FACTOR

LABELS = ("cat", "dog")
ABOUT = DenoiserAbout(
    config=DenoiserConfig(block_out_channels=(16, 16), attention=(False, True), num_classes=2, variance_channels=8),
    prediction="v_prediction", variance=True, latent_channels=4, resolution=64, labels=LABELS,
)  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    denoiser = make_denoiser(ABOUT, 8)
    torch.nn.init.normal_(denoiser.head.out.weight, std=0.1)
    save_denoiser(denoiser, make_scheduler(kind="v_prediction"), ABOUT, tmp_path)
    zt, t, label = torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), torch.tensor([0, 1])
    expected = denoiser.eval()(zt, t, label)
    torch.save((zt, t, label, expected.mean, expected.logvar), tmp_path / "expected.tensors")
    return tmp_path


def test_a_denoiser_comes_back_as_it_was(saved: Path):
    """Red when the weights of the head, the prediction or the labels are not restored."""
    zt, t, label, mean, logvar = torch.load(saved / "expected.tensors")
    denoiser, about = load_denoiser(saved, FACTOR)
    found = denoiser(zt, t, label)
    assert about == ABOUT
    assert torch.equal(found.mean, mean)
    assert torch.equal(found.logvar, logvar)
    assert found.kind == "v_prediction"


def test_diffusers_opens_net_and_schedule(saved: Path):
    zt, t, label, mean, _ = torch.load(saved / "expected.tensors")
    net = UNet2DModel.from_pretrained(saved / "unet")
    assert torch.equal(net(zt, t, class_labels=label).sample, mean)
    assert DDIMScheduler.from_pretrained(saved / "scheduler").config.prediction_type == "v_prediction"


def test_a_part_of_another_class_is_refused(saved: Path):
    """Red when the class that a part's configuration names is not looked at."""
    path = saved / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "Evil"}))
    with pytest.raises(CheckpointError, match="class 'Evil'"):
        load_denoiser(saved, FACTOR)


@pytest.mark.parametrize(
    ("key", "value", "error"), [("latent_channels", 8, CheckpointError), ("prediction", "x", ConfigError)]
)
def test_a_description_that_does_not_fit_is_refused(saved: Path, key: str, value: object, error: type[Exception]):
    """Red when weights are loaded without comparing shapes, or the description is taken as it is."""
    path = saved / "denoiser.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(error):
        load_denoiser(saved, FACTOR)
