"""Training that starts from the VAE of others, and what it leaves alone."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from foreign_vaes import entries_of, latent_of, make_kl, make_vae, picture, save_vae
from PIL import Image

from jeppa.cli import run
from jeppa.cli.core import like_init
from jeppa.config import VAERun, parse
from jeppa.errors import ConfigError
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train

SMALL = ["--steps", "2", "--batch-size", "2", "--resolution", "32", "--sizes", "1", "--precision", "exact"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small pictures, one of which is held out."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        coarse = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((48, 40)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("kind", ["sd1", "sd3", "flux", "taesd"])
def test_adapt_leaves_the_vae_bit_for_bit(kind: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Red when a weight moves, an entry of config.json changes, or the calibrated head is not what is opened."""
    given, out = make_vae(kind), tmp_path / "out"
    save_vae(kind, tmp_path / "vae")
    assert run(["adapt", "--vae", str(tmp_path / "vae"), "--data", str(photos), "--out", str(out), *SMALL]) == 0
    assert "a curve fitted on 1 held-out images" in capsys.readouterr().out
    stock = (AutoencoderTiny if kind == "taesd" else AutoencoderKL).from_pretrained(out / "vae").eval()
    ours = load_model(out).codec.vae
    x = picture()
    with torch.no_grad():
        z = latent_of(given, x)
        assert torch.equal(latent_of(stock, x), z)
        assert torch.equal(ours.encode(x).mean, z)
        assert torch.equal(ours.decode(z).mean, given.decode(z).sample)
    assert {key: value for key, value in entries_of(stock).items() if key in entries_of(given)} == entries_of(given)
    curve = ours.sigma_head.curve
    assert not torch.equal(curve.values, curve.knots)
    assert run(["export", "--model", str(out), "--format", "diffusers", "--out", str(tmp_path / "exported")]) == 0
    exported = ours.from_pretrained(tmp_path / "exported")
    assert entries_of(exported.vae) == entries_of(ours.vae)
    with torch.no_grad():
        assert torch.equal(exported.decode(z).mean, ours.decode(z).mean)
        assert torch.equal(exported.decode(z).logvar, ours.decode(z).logvar)


def settings(init: Path, photos: Path, **values: object) -> VAERun:
    """A run of two steps that starts from `init`."""
    optim = {"steps": 2, "batch_size": 2, "precision": "exact", "learning_rate": 1e-3, "warmup_steps": 0}
    data = {"data": str(photos), "resolution": 32, "sizes": 1}
    return parse(VAERun, like_init({"data": data, "optim": optim, **values}, init), "test")


def test_a_frozen_encoder_keeps_latents_and_factors(photos: Path, tmp_path: Path):
    """Red when the statistics are measured anew, or the decoder does not learn."""
    init, out = save_vae("sdxl", tmp_path / "vae"), tmp_path / "out"
    objective = VAEObjective(settings(init, photos, frozen="encoder"), init)
    list(train(objective, out))
    tuned, given = AutoencoderKL.from_pretrained(out / "vae").eval(), make_vae("sdxl")
    assert entries_of(tuned) == entries_of(given)
    assert "denoisers of them still fit" in objective.describe_latents()
    x = picture()
    with torch.no_grad():
        z = latent_of(given, x)
        assert torch.equal(latent_of(tuned, x), z)
        assert not torch.equal(tuned.decode(z).sample, given.decode(z).sample)


def test_without_frozen_the_new_factors_stand_beside_the_old(photos: Path, tmp_path: Path):
    """Red when the old factors stay under new latents, or another entry is lost."""
    init, out = save_vae("flux", tmp_path / "vae"), tmp_path / "out"
    objective = VAEObjective(settings(init, photos), init)
    list(train(objective, out))
    after = entries_of(AutoencoderKL.from_pretrained(out / "vae"))
    before = entries_of(make_vae("flux"))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"scaling_factor", "shift_factor", "latents_mean", "latents_std"}
    line = objective.describe_latents()
    assert f"scaling_factor 0.3611 -> {after['scaling_factor']:.5g}" in line
    assert "fit no more" in line


def test_an_autoencoder_tiny_has_no_rate(photos: Path, tmp_path: Path):
    """Red when the missing variance of its latent is taken for a rate, or for a KL term that moves the encoder."""
    init = save_vae("taesd", tmp_path / "vae")
    records = list(train(VAEObjective(settings(init, photos), init), tmp_path / "out"))
    figures = records[-1].figures
    assert "rate_bpd" not in figures
    assert all(figures[key] == 0.0 for key in figures if key.startswith("kl_channel"))
    with pytest.raises(ConfigError, match="has no rate"):
        VAEObjective(settings(init, photos, rate=0.1), init)


def test_crops_that_the_factor_does_not_divide_are_one_line(photos: Path, tmp_path: Path):
    make_kl(6, latent_channels=4).save_pretrained(tmp_path)
    values = {"data": {"data": str(photos), "resolution": 40}}
    with pytest.raises(ConfigError, match="must be a multiple of 32"):
        VAEObjective(parse(VAERun, like_init(values, tmp_path), "test"), tmp_path)


@pytest.mark.parametrize("command", ["adapt", "train vae"])
def test_what_is_no_vae_writes_nothing(command: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Red when the run folder is made before the VAE is known to be one."""
    path, flag = tmp_path / "x.safetensors", "--vae" if command == "adapt" else "--init"
    path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    out = tmp_path / "out"
    assert run([*command.split(), flag, str(path), "--data", str(photos), "--out", str(out)]) == 2
    assert "holds no tensors" in capsys.readouterr().err
    assert not out.exists()
