"""What a user can get wrong ends with exit code 2 and one line, and nothing already written is lost."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from jeppa.cli import run
from jeppa.config import VAERun, dump_yaml
from jeppa.data import read_pixels, read_settings, to_x, write_png
from jeppa.pipeline import load_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        write_png(rng.integers(0, 256, (20 + 9 * index, 31, 3), dtype=np.uint8), folder / f"{index}.png")
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = run(arguments)
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code == 2, captured
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    return lines[0]


COMMANDS = [
    "demo",
    "train vae",
    "train diffusion",
    "train texture",
    "reconstruct",
    "generate",
    "interpolate",
    "mix",
    "evaluate",
    "calibrate",
    "compare",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Red when a docstring is written in a way that the parser of the command line does not read."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run([*command.split(), "--help"]) == 0
    flags = [line for line in capsys.readouterr().out.splitlines() if " --" in line[:12]]
    assert flags
    for line in flags:
        explained = re.sub(r"^[│* ]*(-\S+ )+([A-Z]+ )?|\[(default|required|choices).*", "", line).strip(" │")
        assert len(explained) > 3, line


def test_a_missing_data_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = refused(["train", "vae", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")], capsys)
    assert "nowhere" in line
    assert "does not exist" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = tmp_path / "data"
    data.mkdir()
    (data / "notes.txt").write_text("no picture")
    assert "no images" in refused(["train", "vae", "--data", str(data), "--out", str(tmp_path / "run")], capsys)


def test_a_text_file_named_png_is_one_line(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    (photos / "broken.png").write_text("this is no picture")
    line = refused(["train", "vae", "--data", str(photos), "--out", str(tmp_path / "run")], capsys)
    assert "broken.png" in line
    assert "1 of 4" in line


def test_few_unreadable_files_are_skipped_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Red when the list is not printed."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(120):
        write_png(np.full((16, 16, 3), 2 * index, np.uint8), photos / f"{index}.png")
    (photos / "broken.png").write_text("this is no picture")
    common = ["--resolution", "8", "--steps", "1", "--batch-size", "1"]
    assert (
        run(["train", "vae", "--preset", "tiny", "--data", str(photos), "--out", str(tmp_path / "run"), *common]) == 0
    )
    printed = capsys.readouterr().out
    assert "skipped 1 files beside 116 images" in printed
    assert "broken.png: " in printed


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("likelyhood: shared\n", "did you mean 'likelihood'"),
        ("optim: {steps: many}\n", "optim.steps"),
        ("preset: huge\n", "preset"),
    ],
)
def test_a_wrong_config_key_or_value_is_one_line(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run.yaml").write_text(text)
    line = refused(["train", "vae", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")], capsys)
    assert part in line
    assert "run.yaml" in line


@pytest.mark.parametrize(
    ("flag", "value", "part"),
    [
        ("--stepz", "5", "--steps"),
        ("--steps", "five", "--steps"),
        ("--steps", "0", "steps"),
        ("--learning-rate", "nan", "learning_rate"),
        ("--resolution", "60", "multiple of 8"),
        ("--likelihood", "magic", "--likelihood"),
    ],
)
def test_a_wrong_flag_is_one_line(flag: str, value: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert part in refused(["train", "vae", "--out", str(tmp_path / "run"), flag, value], capsys)


def test_a_checkpoint_of_another_preset_is_one_line_and_survives(
    vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_folder = tmp_path / "run"
    shutil.copytree(vae_folder, run_folder)
    before = {path: path.read_bytes() for path in run_folder.rglob("*.safetensors")}
    resumed = ["train", "vae", "--out", str(run_folder), "--resume", "--preset", "small"]
    assert "preset was 'tiny' and is 'small'" in refused(resumed, capsys)
    (run_folder / "config.yaml").write_text(dump_yaml(VAERun()))
    assert "preset was 'tiny' and is 'small'" in refused(resumed, capsys)
    assert "another architecture" in refused(
        ["evaluate", "--model", str(run_folder), "--data", "builtin:photos", "--out", str(tmp_path / "m.json")], capsys
    )
    new = ["train", "vae", "--out", str(tmp_path / "new"), "--init", str(vae_folder), "--preset", "small"]
    assert "another architecture" in refused(new, capsys)
    assert before == {path: path.read_bytes() for path in run_folder.rglob("*.safetensors")}


def test_a_run_folder_is_not_overwritten(vae_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert "--resume" in refused(["train", "vae", "--preset", "tiny", "--out", str(vae_folder)], capsys)


def test_a_model_that_is_none_is_one_line(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    command = ["reconstruct", "--input", str(photos), "--out", str(tmp_path / "out"), "--model"]
    assert "no such folder" in refused([*command, str(tmp_path / "nowhere")], capsys)
    assert "neither config.yaml nor model.json" in refused([*command, str(photos)], capsys)


def test_a_vae_cannot_generate(vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = refused(["generate", "--model", str(vae_folder), "--out", str(tmp_path / "out")], capsys)
    assert "jeppa train diffusion" in line


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--steps", "0"], "1 to 1000"),
        (["--steps", "1001"], "1 to 1000"),
        (["--eta", "1.5"], "0 to 1"),
        (["--label", "unicorn"], "unicorn"),
        (["--guidance", "3"], "no labels"),
        (["--resolution", "63"], "multiple of 8"),
        (["-n", "0"], "at least 1"),
        (["--seed", "-1"], "seed"),
        (["--seed", "4294967295", "-n", "2"], "4294967296"),
        (["--variance", "some"], "--variance"),
        (["--variance", "learned", "--temperature", "-1"], "temperature is -1.0"),
        (["--variance", "learned", "--temperature", "nan"], "temperature"),
        (["--variance", "none", "--temperature", "0.5"], "--variance learned"),
        (["--variance", "none", "--last-draw"], "--variance learned"),
        (["--keep", "0"], "keep is 0.0"),
        (["--keep", "1.5"], "keep is 1.5"),
    ],
)
def test_a_wrong_sampler_setting_is_one_line(
    flags: list[str], part: str, diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert part in refused(["generate", "--model", str(diffusion_folder), "--out", str(out), *flags], capsys)
    assert not out.exists()


def test_a_mask_that_does_not_fit_is_one_line(
    diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_png(np.zeros((48, 40, 3), np.uint8), tmp_path / "mask.png")
    out = tmp_path / "out"
    masked = ["generate", "--model", str(diffusion_folder), "--out", str(out), "--mask", str(tmp_path / "mask.png")]
    line = refused([*masked, "--variance", "learned"], capsys)
    assert "40x48" in line
    assert "32x32" in line
    assert "--variance learned" in refused([*masked, "--variance", "none"], capsys)
    assert "nowhere.png" in refused([*masked[:-1], str(tmp_path / "nowhere.png"), "--variance", "learned"], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["mix", "--share", "1.5"], "0 (the first picture) to 1"),
        (["mix", "--method", "morph"], "jeppa train diffusion"),
        (["mix", "--label", "flower"], "leave --label out"),
        (["interpolate", "--method", "morph"], "jeppa train diffusion"),
        (["interpolate", "--frames", "1"], "at least its 2 ends"),
        (["interpolate", "--resolution", "0"], "multiple of 8"),
    ],
)
def test_a_wrong_way_to_mix_is_one_line(
    flags: list[str], part: str, vae_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ends = ["--a", str(photos / "0.png"), "--b", str(photos / "1.png")]
    assert part in refused([*flags, "--model", str(vae_folder), *ends, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_reconstruct_writes_pictures_of_the_input_size(vae_folder: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert run(["reconstruct", "--model", str(vae_folder), "--input", str(photos), "--out", str(out)]) == 0
    for index in range(3):
        size = (20 + 9 * index, 31)
        assert read_pixels(out / f"{index}.recon.png").shape == (*size, 3)
        assert read_pixels(out / f"{index}.sigma.png").shape == (*size, 3)
        levels = np.load(out / f"{index}.sigma.npy")
        assert levels.shape == size
        assert levels.dtype == np.float32
        assert (levels > 0.0).all()


def test_a_drawn_residual_depends_on_its_seed_and_size_alone(vae_folder: Path, photos: Path, tmp_path: Path):
    """Red when the temperature or the seed is not passed on, or a draw is written that nobody asked for."""
    base = ["reconstruct", "--model", str(vae_folder), "--input", str(photos / "1.png"), "--out"]
    asked = {"a": ["1"], "again": ["1"], "b": ["1", "--seed", "1"], "half": ["0.5"]}
    for name, flags in asked.items():
        assert run([*base, str(tmp_path / name), "--temperature", *flags]) == 0
    assert run([*base, str(tmp_path / "none")]) == 0
    draws = {name: read_pixels(tmp_path / name / "1.draw.png").astype(int) for name in asked}
    mean = read_pixels(tmp_path / "a" / "1.recon.png").astype(int)
    assert (draws["a"] == draws["again"]).all()
    assert (draws["a"] != draws["b"]).mean() > 0.5
    assert abs(draws["half"] - mean).mean() < 0.75 * abs(draws["a"] - mean).mean()
    assert not (tmp_path / "none" / "1.draw.png").exists()


def test_texture_keeps_within_k_sigma_and_depends_on_its_seed(texture_folder: Path, photos: Path, tmp_path: Path):
    """Red when k or the seed is not passed on, or a texture is written that nobody asked for."""
    base = ["reconstruct", "--model", str(texture_folder), "--input", str(photos / "1.png"), "--precision", "exact"]
    asked = {"a": ["0.5"], "again": ["0.5"], "b": ["0.5", "--seed", "1"], "more": ["1"]}
    for name, flags in asked.items():
        assert run([*base, "--out", str(tmp_path / name), "--texture", *flags]) == 0
    assert run([*base, "--out", str(tmp_path / "none")]) == 0
    textured = {name: read_pixels(tmp_path / name / "1.texture.png").astype(int) for name in asked}
    mean = read_pixels(tmp_path / "none" / "1.recon.png").astype(int)
    # The sigma map is the root mean square over the three colours, so that of one is at most sqrt(3) times as large.
    most = 0.5 * 3**0.5 * np.load(tmp_path / "none" / "1.sigma.npy").max() + 1.0
    assert 1 < abs(textured["a"] - mean).max() <= most
    assert (textured["a"] == textured["again"]).all()
    assert (textured["a"] != textured["b"]).any()
    assert abs(textured["more"] - mean).sum() > abs(textured["a"] - mean).sum()
    assert read_settings(tmp_path / "b" / "1.texture.png") == {
        "model": str(texture_folder),
        "texture": "0.5",
        "seed": "1",
    }
    assert not (tmp_path / "none" / "1.texture.png").exists()


def test_generate_with_texture_says_so_and_without_is_the_mean(
    texture_folder: Path, diffusion_folder: Path, tmp_path: Path
):
    """Red when k is lost on its way, or 0 is not the mean that the VAE without a texture head decodes."""
    common = ["generate", "-n", "1", "--steps", "2", "--precision", "exact", "--label", "flower"]
    textured = [*common, "--model", str(texture_folder)]
    assert run([*common, "--model", str(diffusion_folder), "--out", str(tmp_path / "mean")]) == 0
    assert run([*textured, "--texture", "0", "--out", str(tmp_path / "zero")]) == 0
    assert run([*textured, "--texture", "1.5", "--out", str(tmp_path / "one")]) == 0
    mean, zero, one = (read_pixels(tmp_path / name / "000000.png") for name in ("mean", "zero", "one"))
    assert (mean == zero).all()
    assert (mean != one).any()
    assert read_settings(tmp_path / "zero" / "000000.png")["texture"] == "0.0"
    assert read_settings(tmp_path / "one" / "000000.png")["texture"] == "1.5"


@pytest.mark.parametrize(
    ("texture", "part"),
    [
        ("1", "jeppa train texture --vae"),
        ("-1", "texture is -1.0"),
        ("nan", "texture is nan"),
        ("inf", "texture is inf"),
    ],
)
def test_a_texture_that_cannot_be_made_is_one_line(
    texture: str,
    part: str,
    diffusion_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """Neither command writes anything before it."""
    common = ["--model", str(diffusion_folder), "--out", str(tmp_path / "out"), "--texture", texture]
    assert part in refused(["generate", *common], capsys)
    assert part in refused(["reconstruct", "--input", str(photos), *common], capsys)
    assert not (tmp_path / "out").exists()


def test_generate_repeats_itself_and_a_picture_carries_its_settings(diffusion_folder: Path, tmp_path: Path):
    common = ["generate", "--model", str(diffusion_folder), "--steps", "3", "--label", "flower"]
    assert run([*common, "-n", "3", "--seed", "5", "--out", str(tmp_path / "a")]) == 0
    assert run([*common, "-n", "3", "--seed", "5", "--out", str(tmp_path / "b")]) == 0
    for name in ("000005.png", "000006.png", "000007.png", "sheet.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    settings = read_settings(tmp_path / "a" / "000006.png")
    assert (settings["seed"], settings["steps"], json.loads(settings["label"])) == ("6", "3", "flower")


def test_interpolate_starts_and_ends_at_the_reconstructions(vae_folder: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    ends = ["--a", str(photos / "0.png"), "--b", str(photos / "1.png")]
    flags = ["--frames", "4", "--resolution", "32", "--out", str(out)]
    assert run(["interpolate", "--model", str(vae_folder), *ends, *flags]) == 0
    assert sorted(path.name for path in out.glob("frame-*.png")) == [f"frame-{i:03d}.png" for i in range(4)]
    assert (out / "animation.png").exists()
    assert read_pixels(out / "sheet.png").shape[0] == 32


def test_evaluate_writes_every_key_with_its_interval_or_a_reason(vae_folder: Path, tmp_path: Path):
    out = tmp_path / "metrics.json"
    common = ["evaluate", "--model", str(vae_folder), "--data", "builtin:photos", "--resolution", "64"]
    assert run([*common, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    errors = ["psnr", "ssim", "delta_e2000", "gradient_energy_ratio", "lpips_alex", "lpips_vgg"]
    codes = ["fd_efficientnet_lite0", "fd_floor", "distortion_bpd", "rate_bpd", "elbo_bpd"]
    sigma = ["ence", "chi2", "crps", "ause", "ause_sobel", "sigma_error_spearman"]
    shares = [f"coverage_{level}" for level in (50, 68, 90, 95)]
    keys = [*errors, *codes, *sigma, *shares]
    for key in keys:
        assert (found[key] is not None and len(found[f"{key}_ci95"]) == 2) or found["reasons"][key]
    assert (found["n_images"], found["resolution"]) == (5, 64)
    assert found["elbo_bpd"] == pytest.approx(found["distortion_bpd"] + found["rate_bpd"], rel=1e-4)


def test_calibrate_changes_sigma_and_not_the_picture(vae_folder: Path, photos: Path, tmp_path: Path):
    """Red when the curve is not saved with the head."""
    out = tmp_path / "calibrated"
    arguments = ["--model", str(vae_folder), "--data", str(photos), "--split", "all", "--out", str(out)]
    assert run(["calibrate", *arguments]) == 0
    x = to_x(read_pixels(photos / "0.png"))[None]
    before, after = load_model(vae_folder).reconstruct(x), load_model(out).reconstruct(x)
    assert (before.mean == after.mean).all()
    chi2 = {"before": before, "after": after}
    chi2 = {key: float(((x - one.mean).square() / one.var).mean()) for key, one in chi2.items()}
    assert abs(chi2["after"] - 1.0) < abs(chi2["before"] - 1.0)


def test_a_model_without_a_head_cannot_be_calibrated(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--preset", "tiny", "--steps", "1", "--batch-size", "1", "--resolution", "16", "--likelihood", "shared"]
    assert run(["train", "vae", "--data", "builtin:photos", "--out", str(tmp_path / "run"), *flags]) == 0
    capsys.readouterr()
    base = ["calibrate", "--model", str(tmp_path / "run"), "--data", str(photos), "--split", "all"]
    assert "'shared'" in refused([*base, "--out", str(tmp_path / "out")], capsys)


def test_train_evaluate_generate_from_the_command_line(tmp_path: Path, photos: Path):
    vae, diffusion = tmp_path / "vae", tmp_path / "diffusion"
    common = ["--data", str(photos), "--resolution", "16", "--steps", "2", "--batch-size", "2"]
    assert run(["train", "vae", "--preset", "tiny", "--out", str(vae), *common]) == 0
    assert run(["train", "vae", "--out", str(vae), "--resume"]) == 0
    assert run(["train", "diffusion", "--vae", str(vae), "--out", str(diffusion), "--views", "4", *common]) == 0
    assert run(["generate", "--model", str(diffusion), "-n", "1", "--steps", "2", "--out", str(tmp_path / "g")]) == 0
    assert read_pixels(tmp_path / "g" / "000000.png").shape == (16, 16, 3)
    for name in ("vae", "sigma_head", "unet", "scheduler", "config.yaml", "log.jsonl", "latest"):
        assert (diffusion / name).exists()


def test_train_texture_and_use_it_from_the_command_line(vae_folder: Path, photos: Path, tmp_path: Path):
    """Red when a flag does not reach the run, or the run's model has no texture or another mean."""
    config = tmp_path / "texture.yaml"
    config.write_text("discriminator_channels: 8\nmodel: {channels: 8, blocks: 1}\noptim: {warmup_steps: 0}\n")
    train = ["train", "texture", "--vae", str(vae_folder), "--config", str(config), "--data", str(photos)]
    common = ["--steps", "2", "--batch-size", "2", "--resolution", "32", "--replay", "2", "--perceptual", "0"]
    out = tmp_path / "texture"
    assert run([*train, "--out", str(out), *common, "--learning-rate", "0.1", "--precision", "exact"]) == 0
    assert run(["train", "texture", "--out", str(out), "--resume"]) == 0
    base = ["reconstruct", "--input", str(photos / "2.png"), "--precision", "exact"]
    assert run([*base, "--model", str(vae_folder), "--out", str(tmp_path / "vae")]) == 0
    assert run([*base, "--model", str(out), "--out", str(tmp_path / "out"), "--texture", "1.5"]) == 0
    mean = read_pixels(tmp_path / "out" / "2.recon.png")
    assert (mean == read_pixels(tmp_path / "vae" / "2.recon.png")).all()
    assert (mean != read_pixels(tmp_path / "out" / "2.texture.png")).any()


def test_a_texture_run_without_a_vae_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = refused(["train", "texture", "--data", "builtin:photos", "--out", str(tmp_path / "out")], capsys)
    assert "vae: Field required" in line
    assert not (tmp_path / "out").exists()
