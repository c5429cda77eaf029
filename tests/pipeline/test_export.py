"""What `jeppa export` writes opens in the programs that it is for, and in jeppa, with nothing changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DiffusionPipeline, EulerDiscreteScheduler
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from foreign_vaes import KINDS, entries_of, latent_of, make_vae, save_vae
from foreign_vaes import picture as foreign_picture
from safetensors import safe_open
from safetensors.torch import load_file

import jeppa
from jeppa.cli import run
from jeppa.config import SamplerSettings, VAEConfig
from jeppa.data import to_pixels
from jeppa.errors import ConfigError
from jeppa.pipeline import Model, load_model
from jeppa.pipeline import export as exporting
from jeppa.pipeline.export import export_model
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import LatentCodec, LatentStats

pytestmark = [pytest.mark.filterwarnings("ignore")]
SIDE = 64
CONFIG = VAEConfig(
    pixel_unshuffle=1, block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4,
    mid_block_attention=True, sigma_channels=8, sigma_blocks=1,
)  # fmt: skip
STATS = LatentStats(shift=(0.1, 0.0, -0.1, 0.2), scale=(2.0, 1.0, 1.0, 3.0))


def picture(side: int = SIDE) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A VAE of the kind that Stable Diffusion has, small and random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = HeteroscedasticVAE(CONFIG)
        assert vae.sigma_head is not None
        torch.nn.init.normal_(vae.sigma_head.out.weight, std=0.1)
        vae.sigma_head.curve.bend(torch.linspace(-9.0, 1.0, 8), torch.linspace(-8.03, 1.01, 8))
        vae.mean_square.fill_(0.0123)
    folder = tmp_path_factory.mktemp("plain")
    LatentCodec(vae, STATS).save(folder)
    return load_model(folder)


def exported(model: Model, format: str, out: Path, dtype: str = "fp32", **given) -> list[str]:
    return list(export_model(model, format, dtype, out, side=SIDE, **given))


def front_matter(card: Path) -> dict:
    _, front, _ = card.read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_a_folder_for_diffusers_opens_there_and_here_with_nothing_changed(plain: Model, tmp_path: Path):
    """Red when weights, statistics or the sigma head change, or stand where one of the two does not look."""
    out = tmp_path / "vae"
    exported(plain, "diffusers", out, licence="mit")
    theirs, x = AutoencoderKL.from_pretrained(out, local_files_only=True), picture()
    expected = plain.reconstruct(x)
    with torch.no_grad():
        assert torch.equal(theirs.decode(theirs.encode(x).latent_dist.mode()).sample, expected.mean)
    assert theirs.config.latents_std == list(STATS.scale)
    assert theirs.config.scaling_factor == pytest.approx(1.0 / (15.0 / 4.0) ** 0.5)
    again = load_model(out)
    found = again.reconstruct(x)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.logvar, expected.logvar)
    assert again.codec.stats == STATS
    assert front_matter(out / "README.md")["license"] == "mit"


def test_an_ldm_file_has_the_names_that_diffusers_converts_back(plain: Model, tmp_path: Path):
    """Tensor for tensor. Red when a name, a shape or a value changes, or the scaling factor is left out."""
    out = tmp_path / "vae.safetensors"
    lines = exported(plain, "ldm", out)
    assert any("build levels of 128, 256, 512 and 512 channels" in line for line in lines)
    back = convert_ldm_vae_checkpoint(load_file(out), plain.codec.vae.vae.config)
    own = plain.codec.vae.vae.state_dict()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name].reshape(own[name].shape), own[name]) for name in own)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["scaling_factor"]) == pytest.approx(1.0 / (15.0 / 4.0) ** 0.5)
    assert json.loads(metadata["latents_mean"]) == list(STATS.shift)
    assert front_matter(tmp_path / "vae.md")["library_name"] == "diffusers"
    assert {path.name for path in tmp_path.iterdir()} == {"vae.safetensors", "vae.sigma.safetensors", "vae.md"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_vae_of_others_comes_back_as_it_was(kind: str, tmp_path: Path):
    """As a folder and, of an AutoencoderKL, as an LDM file, opened by stock diffusers and by jeppa.

    Red when a weight, the latents or an entry of config.json changes on the way.
    """
    given, x = make_vae(kind), foreign_picture()
    model = load_model(save_vae(kind, tmp_path / "given"))
    exported(model, "diffusers", tmp_path / "folder")
    stock = type(given).from_pretrained(tmp_path / "folder", local_files_only=True).eval()
    assert {key: value for key, value in entries_of(stock).items() if key in entries_of(given)} == entries_of(given)
    opened = [tmp_path / "folder"]
    if isinstance(given, AutoencoderKL):
        exported(model, "ldm", tmp_path / "file.safetensors")
        # Names and shapes do not show the groups of the norms, so the configuration goes with the file.
        (tmp_path / "config.json").write_bytes((tmp_path / "folder" / "config.json").read_bytes())
        opened.append(tmp_path / "file.safetensors")
    with torch.no_grad():
        z = latent_of(given, x)
        expected = given.decode(z).sample
        assert torch.equal(stock.decode(latent_of(stock, x)).sample, expected)
        for path in opened:
            again = load_model(path).codec.vae
            assert torch.equal(again.encode(x).mean, z)
            assert torch.equal(again.decode(z).mean, expected)
            assert again.config.scaling_factor == given.config.scaling_factor


def generated(model: Model, **settings) -> list:
    asked = SamplerSettings(steps=4, label=model.labels[0], guidance=2.0, variance="learned", **settings)
    return [to_pixels(sample.x) for sample in model.generate([3, 4], asked, texture=0.7)]


def asked(pipe, **given):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "variance": "learned", "texture": 0.7}
    return pipe(pipe.labels[0], generator=generators, **{**settings, **given})


@pytest.fixture(scope="module")
def pipeline_folder(texture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline") / "out"
    exported(load_model(texture_folder), "pipeline", out)
    return out


def test_a_pipeline_opens_by_its_own_class_and_by_that_of_diffusers(pipeline_folder, texture_folder, tmp_path: Path):
    """It draws the pictures of `jeppa generate`, saves itself, and is a model for jeppa.

    Red when a part, a label, the guidance, the variance or the texture is lost.
    """
    expected = generated(load_model(texture_folder))
    own = jeppa.HeteroscedasticPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    own.save_pretrained(tmp_path / "again")
    for folder in (pipeline_folder, tmp_path / "again"):
        theirs = DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
        assert type(theirs) is jeppa.HeteroscedasticPipeline
        assert all((generated(load_model(folder))[i] == expected[i]).all() for i in range(2))
        for pipe in (own, theirs):
            found = asked(pipe)
            assert all((torch.as_tensor(list(image.getdata())) == torch.as_tensor(wanted).flatten(0, 1)).all()
                       for image, wanted in zip(found.images, expected, strict=True))  # fmt: skip
            assert [levels.shape for levels in found.sigma] == [(32, 32)] * 2


def test_the_own_class_runs_no_code_of_the_folder(pipeline_folder: Path, tmp_path: Path):
    """Red when `pipeline.py` of a stranger's folder is imported without being trusted."""
    for path in pipeline_folder.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(pipeline_folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('code of the folder')\n")
    pipe = jeppa.HeteroscedasticPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert asked(pipe, output_type="np").images.shape == (2, 32, 32, 3)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)


def test_another_scheduler_draws_and_is_refused_the_learned_variance(pipeline_folder: Path):
    pipe = jeppa.HeteroscedasticPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    found = asked(pipe, variance="none", output_type="pt")
    assert found.images.isfinite().all()
    with pytest.raises(ConfigError, match="EulerDiscreteScheduler does not take"):
        asked(pipe)
    with pytest.raises(ConfigError, match="label is 'cat', which this model does not know: choose one of"):
        pipe("cat")
    with pytest.raises(ConfigError, match="height or width is 33, but must be a multiple of 8"):
        pipe(height=33)


@pytest.mark.parametrize(("dtype", "least"), [("fp16", 40.0), ("bf16", 25.0)])
def test_half_precision_is_compared_and_reads_back(plain: Model, tmp_path: Path, dtype: str, least: float):
    """Red when the weights stay float32, the curve of sigma is rounded, or the comparison compares nothing."""
    out = tmp_path / "vae"
    (line, _) = exported(plain, "diffusers", out, dtype)
    assert f"{dtype}: finite at {SIDE}x{SIDE} pixels" in line
    assert least < float(line.split()[-2]) < 90.0
    assert line in (out / "README.md").read_text()
    stored = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {exporting.DTYPES[dtype]}
    again, kept = load_model(out), plain.codec.vae.sigma_head
    assert torch.equal(again.codec.vae.sigma_head.curve.values, kept.curve.values)
    expected = plain.reconstruct(picture())
    assert (again.reconstruct(picture()).mean - expected.mean).abs().max() < 0.1


def test_what_overflows_in_half_precision_is_refused_and_nothing_is_written(plain: Model, tmp_path: Path):
    vae = HeteroscedasticVAE(CONFIG)
    vae.load_state_dict(plain.codec.vae.state_dict())
    with torch.no_grad():
        vae.vae.decoder.conv_in.weight.mul_(1e6)
    broken = replace(plain, codec=LatentCodec(vae, STATS))
    with pytest.raises(ConfigError, match=r"in fp16 the decoder .*overflows at 64x64 pixels; use --dtype bf16 or fp32"):
        exported(broken, "diffusers", tmp_path / "out", "fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "name", "said"),
    [
        ("ldm", "vae", "ldm is one file: give --out a name that ends in .safetensors"),
        ("ldm", "vae.safetensors", "8x8 pixels taken as one, which programs for LDM files cannot build"),
        ("pipeline", "out", "a VAE without a denoiser is no pipeline"),
    ],
)
def test_a_format_that_does_not_fit_is_refused_in_one_line(
    vae_folder: Path, tmp_path: Path, capsys, format, name, said
):
    flags = ["--model", str(vae_folder), "--format", format, "--out", str(tmp_path / name)]
    assert run(["export", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_and_nothing_is_left_half_written(plain: Model, tmp_path: Path, monkeypatch):
    """Red when an export goes over a file or a folder, or a failure leaves a part of one."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "vae.sigma.safetensors").write_text("mine")
    for format, name in (("diffusers", "full"), ("ldm", "vae.safetensors")):
        with pytest.raises(ConfigError, match="is there already and is not replaced"):
            exported(plain, format, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_card", fail)
    for format, name in (("diffusers", "new"), ("ldm", "new.safetensors")):
        with pytest.raises(OSError, match="No space left"):
            exported(plain, format, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_card_of_a_run_says_what_is_known_and_no_path_of_the_machine(vae_folder: Path, tmp_path: Path):
    model = load_model(vae_folder)
    note, _ = exported(model, "diffusers", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "takes blocks of 8x8 pixels as 192 channels" in note
    assert note in card
    assert front_matter(tmp_path / "out" / "README.md") == {
        "license": "unknown",
        "library_name": "diffusers",
        "tags": ["vae", "latent-diffusion", "heteroscedastic", "uncertainty", "jeppa"],
    }
    assert "`builtin:photos`" in card
    assert "6 steps of 2, seed 0" in card
    assert "not measured" in card
    assert str(vae_folder) not in card


def test_the_card_of_a_shipped_model_has_its_figures_and_notices(tmp_path: Path):
    exported(load_model("emoji"), "pipeline", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(tmp_path / "out" / "README.md")["license"] == "mit"
    assert "FD to held-out pictures: 264.473" in card
    assert "Copyright" in card
