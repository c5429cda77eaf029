"""Pictures between two pictures: the maths of each way, its ends, and the files."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jeppa.cli import run
from jeppa.data import read_pixels, read_settings, write_png
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import CheckpointError, ConfigError
from jeppa.pipeline import DDIMSettings, Model, between, even_shares, fuse, load_model, slerp


@pytest.fixture(scope="module")
def model(diffusion_folder: Path) -> Model:
    return load_model(diffusion_folder)


@pytest.fixture
def ends(tmp_path: Path) -> list[str]:
    """Flags --a and --b with two pictures of different sizes."""
    rng = np.random.default_rng(0)
    for name, shape in (("a", (40, 33, 3)), ("b", (50, 70, 3))):
        write_png(rng.integers(0, 256, shape, dtype=np.uint8), tmp_path / f"{name}.png")
    return ["--a", str(tmp_path / "a.png"), "--b", str(tmp_path / "b.png")]


def noise(seed: int) -> Tensor:
    return torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_slerp_has_exact_ends_and_keeps_the_norm():
    a, b = noise(0), noise(1)
    b = b * (a.norm() / b.norm())
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    for share in (0.1, 0.5, 0.9):
        torch.testing.assert_close(slerp(a, b, share).norm(), a.norm())


def test_slerp_walks_evenly_and_mirrors():
    a, b = noise(0), noise(1)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))
    b = b * (a.norm() / b.norm())
    path = [slerp(a, b, share) for share in even_shares(5)]
    steps = torch.stack([(p * q).sum() for p, q in pairwise(path)])
    torch.testing.assert_close(steps, steps[:1].expand(4))


def test_slerp_between_equal_noises_stays():
    a = noise(0)
    torch.testing.assert_close(slerp(a, a.clone(), 0.4), a)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_a_fusion_is_the_product_of_the_posteriors_with_powers(share: float):
    """log of the product less log of the fusion is the same for all x; red for swapped shares or variances."""
    a, b = (DiagonalGaussian(noise(i)[None], noise(i + 2)[None]) for i in (0, 1))
    fused = fuse(a, b, share)
    differences = [
        (1.0 - share) * a.log_prob(x) + share * b.log_prob(x) - fused.log_prob(x)
        for x in (noise(i)[None] for i in (5, 6, 7))
    ]
    torch.testing.assert_close(differences[1], differences[0], rtol=1e-4, atol=0.0)
    torch.testing.assert_close(differences[2], differences[0], rtol=1e-4, atol=0.0)


def test_a_fusion_ends_at_either_posterior_and_follows_the_surer_one():
    a, b = (DiagonalGaussian(noise(i), noise(i + 2)) for i in (0, 1))
    for share, end in ((0.0, a), (1.0, b)):
        fused = fuse(a, b, share)
        assert torch.equal(fused.mean, end.mean)
        assert torch.equal(fused.logvar, end.logvar)
    sure = DiagonalGaussian(torch.zeros(1), torch.tensor([-20.0]))
    unsure = DiagonalGaussian(torch.ones(1), torch.tensor([0.0]))
    assert float(fuse(sure, unsure, 0.5).mean) < 1e-6
    assert float(fuse(unsure, unsure, 0.5).logvar) == pytest.approx(0.0)


@pytest.mark.parametrize("method", ["fade", "fuse", "morph"])
def test_every_way_ends_at_the_reconstructions(method: str, model: Model):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 32, 32, generator=generator) * 2.0 - 1.0
    first, middle, second = between(model, a, b, [0.0, 0.5, 1.0], method, DDIMSettings(steps=10))
    recon = model.reconstruct(torch.stack([a, b])).mean
    torch.testing.assert_close(first.mean[0], recon[0], atol=0.05, rtol=0.0)
    torch.testing.assert_close(second.mean[0], recon[1], atol=0.05, rtol=0.0)
    assert not torch.allclose(middle.mean[0], recon[0], atol=0.05)


def test_a_morph_of_one_noise_does_not_depend_on_the_other_points(model: Model):
    """Red when points share anything but the ends."""
    a, b = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    settings = DDIMSettings(steps=3, label="flower")
    many = [point.mean for point in between(model, a, b, even_shares(5), "morph", settings)]
    (alone,) = between(model, a, b, [0.5], "morph", settings)
    torch.testing.assert_close(many[2], alone.mean)


def test_bad_ways_are_refused(model: Model, vae_folder: Path):
    a = torch.zeros(3, 32, 32)
    with pytest.raises(ConfigError, match=r"share is 1\.5"):
        between(model, a, a, [1.5], "fade", DDIMSettings())
    with pytest.raises(ConfigError, match="fade, fuse, morph"):
        between(model, a, a, [0.5], "melt", DDIMSettings())
    with pytest.raises(CheckpointError, match="without a denoiser"):
        list(between(load_model(vae_folder), a, a, [0.5], "morph", DDIMSettings()))


@pytest.mark.parametrize("method", ["fade", "morph"])
def test_interpolate_writes_frames_a_sheet_and_an_animation(
    method: str, diffusion_folder: Path, ends: list[str], tmp_path: Path
):
    out = tmp_path / "out"
    flags = ["--model", str(diffusion_folder), "--frames", "4", "--method", method, "--steps", "2", "--out", str(out)]
    assert run(["interpolate", *ends, *flags]) == 0
    frames = sorted(out.glob("frame-*.png"))
    assert [path.name for path in frames] == [f"frame-{i:03d}.png" for i in range(4)]
    assert read_pixels(frames[0]).shape == (32, 32, 3)
    assert read_pixels(out / "sheet.png").shape == (32, 4 * 34 - 2, 3)
    settings = read_settings(frames[1])
    assert (json.loads(settings["method"]), float(settings["share"])) == (method, pytest.approx(1 / 3))
    assert read_settings(out / "animation.png")["frames"] == "4"
    with Image.open(out / "animation.png") as animation:
        assert animation.n_frames == 6


def test_mix_writes_what_the_model_can_do_with_the_settings_inside(
    vae_folder: Path, diffusion_folder: Path, ends: list[str], tmp_path: Path
):
    common = ["mix", *ends, "--share", "0.25", "--steps", "2", "--resolution", "32"]
    assert run([*common, "--model", str(vae_folder), "--out", str(tmp_path / "vae")]) == 0
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["fade.png", "fuse.png", "sheet.png"]
    assert run([*common, "--model", str(diffusion_folder), "--out", str(tmp_path / "all"), "--label", "cats"]) == 2
    assert run([*common, "--model", str(diffusion_folder), "--out", str(tmp_path / "all"), "--label", "flower"]) == 0
    written = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert written == ["fade.png", "fuse.png", "morph.png", "sheet.png"]
    assert read_pixels(tmp_path / "all" / "sheet.png").shape == (32, 5 * 34 - 2, 3)
    settings = {key: json.loads(value) for key, value in read_settings(tmp_path / "all" / "morph.png").items()}
    assert (settings["method"], settings["share"], settings["label"]) == ("morph", 0.25, "flower")
    assert run([*common, "--model", str(vae_folder), "--out", str(tmp_path / "one"), "--method", "fuse"]) == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["fuse.png", "sheet.png"]


def test_mix_at_share_0_is_the_first_picture(diffusion_folder: Path, ends: list[str], tmp_path: Path):
    for share in ("0", "1"):
        flags = ["--share", share, "--out", str(tmp_path / share), "--method", "fuse"]
        assert run(["mix", "--model", str(diffusion_folder), *ends, *flags]) == 0
    assert run(["interpolate", "--model", str(diffusion_folder), *ends, "--frames", "2", "--out", str(tmp_path)]) == 0
    assert (read_pixels(tmp_path / "0" / "fuse.png") == read_pixels(tmp_path / "frame-000.png")).all()
    assert (read_pixels(tmp_path / "1" / "fuse.png") == read_pixels(tmp_path / "frame-001.png")).all()
