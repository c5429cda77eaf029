"""A denoiser and the VAE behind it: a tuned decoder keeps colours, and other latents are refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jeppa.cli import run
from jeppa.config import DiffusionRun, SamplerSettings, VAERun, parse
from jeppa.data import read_pixels
from jeppa.data.images import to_x
from jeppa.errors import CheckpointError
from jeppa.pipeline import load_model
from jeppa.train import DiffusionObjective, VAEObjective, train
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import LatentCodec, LatentStats

WHITE = 0.85
"""Least mean of the corners of an emoji; they are white, 1."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` with a decoder that was tuned for two steps on photographs, and its encoder as it was."""
    optim = {"steps": 2, "batch_size": 4, "precision": "exact", "learning_rate": 1e-4, "warmup_steps": 0}
    values = {"frozen": "encoder", "data": {"resolution": 64, "sizes": 1}, "optim": optim}
    out = tmp_path_factory.mktemp("tuned") / "run"
    for _ in train(VAEObjective(parse(VAERun, values, "test"), Path("small")), out):
        pass
    return out


@pytest.fixture(scope="module")
def rescaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very same VAE with statistics that were measured on other pictures."""
    codec = load_model("small").codec
    stats = LatentStats(shift=codec.stats.shift, scale=tuple(0.5 * scale for scale in codec.stats.scale))
    out = tmp_path_factory.mktemp("rescaled")
    LatentCodec(codec.vae, stats).save(out)
    return out


def test_emoji_stay_white_under_a_tuned_decoder(tuned: Path):
    """Red when the statistics of the latent are measured anew: white turns grey, and pictures are 18 dB apart."""
    settings = SamplerSettings(steps=4, label="smileys-and-emotion", resolution=64)
    own, other = (load_model("emoji", vae=vae) for vae in (None, tuned))
    assert not torch.equal(own.codec.vae.vae.decoder.conv_out.weight, other.codec.vae.vae.decoder.conv_out.weight)
    assert own.codec.stats == other.codec.stats
    before, after = (torch.stack([one.x for one in model.generate(range(2), settings)]) for model in (own, other))
    psnr = -10.0 * ((before - after).clamp(-1.0, 1.0).square().mean() / 4.0).log10()
    assert psnr > 30.0
    corner = (..., slice(0, 6), slice(0, 6))
    assert before[corner].mean() > WHITE
    assert after[corner].mean() > WHITE


def test_generate_takes_the_vae_and_refuses_another(
    tuned: Path, rescaled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Red when --vae is not passed on, or the mismatch goes through in silence."""
    words = ["generate", "--model", "emoji", "-n", "1", "--steps", "1", "--resolution", "32", "--precision", "exact"]
    assert run([*words, "--vae", str(tuned), "--out", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert run([*words, "--vae", str(rescaled), "--out", str(tmp_path / "two")]) == 2
    told = capsys.readouterr().err
    assert "its latents are not those that the denoiser of emoji was trained on" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "two").exists()


def test_a_denoiser_does_not_go_on_with_other_latents(tuned: Path, rescaled: Path):
    """Red when `train diffusion --init emoji --vae OTHER` starts."""
    config = DiffusionRun(vae=str(rescaled), model=load_config())
    with pytest.raises(CheckpointError, match="--frozen encoder"):
        DiffusionObjective(config, load_model(rescaled).codec, Path("emoji"))
    DiffusionObjective(config, load_model(tuned).codec, Path("emoji"))


def load_config():
    """The architecture of `emoji`, without its classes."""
    from jeppa.pipeline import describe_denoiser

    return describe_denoiser("emoji").config.model_copy(update={"num_classes": None})


def test_a_vae_exchanged_in_a_folder_is_noticed(diffusion_folder: Path, tmp_path: Path):
    """Red when what the denoiser knows of its latents is not saved, or not looked at."""
    folder = shutil.copytree(diffusion_folder, tmp_path / "run")
    load_model(folder)
    torch.manual_seed(1)
    LatentCodec(HeteroscedasticVAE("tiny"), load_model(folder).codec.stats).save(folder)
    with pytest.raises(CheckpointError, match="was trained on"):
        load_model(folder)
    about = json.loads((folder / "denoiser.json").read_text())
    (folder / "denoiser.json").write_text(json.dumps({**about, "latents": None}))
    load_model(folder)  # a folder from before this was noted


def test_half_precision_does_not_count_as_other_latents(tmp_path: Path):
    codec = load_model("small").codec
    known = codec.probe()
    codec.vae.vae.to(torch.bfloat16).to(torch.float32)
    found = codec.probe()
    assert found != known
    assert max(abs(one - other) for one, other in zip(found, known, strict=True)) < 0.02


def test_a_vae_without_a_head_reconstructs_and_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Red when a constant is shown as a sigma map."""
    from foreign_vaes import save_vae
    from PIL import Image

    save_vae("sd1", tmp_path / "vae")
    Image.new("RGB", (20, 12), "red").save(tmp_path / "a.png")
    words = ["reconstruct", "--model", str(tmp_path / "vae"), "--input", str(tmp_path / "a.png")]
    assert run([*words, "--out", str(tmp_path / "out"), "--precision", "exact"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.recon.png"]
    assert f"jeppa adapt --vae {tmp_path / 'vae'}" in capsys.readouterr().out
    assert to_x(read_pixels(tmp_path / "out" / "a.recon.png")).shape == (3, 12, 20)
    assert run([*words, "--temperature", "1", "--out", str(tmp_path / "drawn")]) == 2
