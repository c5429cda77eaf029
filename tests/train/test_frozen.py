"""A sigma head for a VAE that stays as it is, and a decoder for latents that stay as they are."""

from pathlib import Path

import pytest
import torch

from jeppa.config import VAERun, parse
from jeppa.errors import ConfigError
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train


def test_only_the_head_learns(vae_folder: Path, tiny_run: VAERun, tmp_path: Path):
    """Red when the autoencoder is among the trained parameters, or the head of another family is not made anew."""
    given = load_model(vae_folder).codec.vae
    assert given.likelihood == "faithful"
    optim = tiny_run.optim.model_copy(update={"steps": 30, "learning_rate": 3e-3, "warmup_steps": 0, "log_every": 10})
    config = tiny_run.model_copy(update={"likelihood": "band-faithful", "frozen": "mean", "optim": optim})
    records = list(train(VAEObjective(config, vae_folder), tmp_path / "run"))
    found = load_model(tmp_path / "run").codec.vae
    before, after = given.vae.state_dict(), found.vae.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    logged = [record.figures["distortion_bpd"] for record in records if record.figures]
    assert logged[-1] < logged[0]


def test_latents_stay_while_the_decoder_learns(vae_folder: Path, tiny_run: VAERun, tmp_path: Path):
    """Red when a part of the encoder learns, so that a denoiser of its latents fits no more, or when nothing does."""
    optim = tiny_run.optim.model_copy(update={"steps": 5, "learning_rate": 3e-3, "warmup_steps": 0})
    config = tiny_run.model_copy(update={"frozen": "encoder", "optim": optim})
    list(train(VAEObjective(config, vae_folder), tmp_path / "run"))
    given, found = (load_model(folder).codec.vae for folder in (vae_folder, tmp_path / "run"))
    x = torch.linspace(-1.0, 1.0, 3 * 32 * 32).view(1, 3, 32, 32)
    before, after = given.encode(x), found.encode(x)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.logvar, after.logvar)
    assert not torch.equal(given.decode(before.mean).mean, found.decode(before.mean).mean)


def test_a_head_of_the_same_family_goes_on(vae_folder: Path, tiny_run: VAERun):
    config = tiny_run.model_copy(update={"frozen": "mean"})
    head = load_model(vae_folder).codec.vae.sigma_head.state_dict()
    started = VAEObjective(config, vae_folder).model.sigma_head.state_dict()
    assert [key for key in head if not torch.equal(head[key], started[key])] == []


@pytest.mark.parametrize("values", [{"likelihood": "shared"}, {"likelihood": "fixed"}, {"perceptual": 0.5}])
def test_nothing_to_learn_is_one_line(values: dict[str, object]):
    with pytest.raises(ConfigError, match="nothing but the sigma head to learn"):
        VAEObjective(parse(VAERun, {"preset": "tiny", "frozen": "mean", **values}, "test"))


def test_nothing_to_keep_is_one_line(tiny_run: VAERun):
    with pytest.raises(ConfigError, match="name it with --init"):
        VAEObjective(tiny_run.model_copy(update={"frozen": "mean"}))
