"""VAEs of others are opened from folders, pipelines and files, bit for bit, and what is none is named in one line."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from foreign_vaes import KINDS, entries_of, latent_of, make_kl, make_vae, picture, save_vae
from safetensors.torch import load_file, save_file

from jeppa.errors import JeppaError
from jeppa.vae import load_vae
from jeppa.vae.ldm_keys import to_ldm

WEIGHTS = "diffusion_pytorch_model.safetensors"


def check_same(path: Path, vae) -> None:
    """The VAE at `path` opens with the latents, pictures and entries of `vae`."""
    model, stats = load_vae(path)
    x = picture()
    with torch.no_grad():
        z = latent_of(vae, x)
        assert torch.equal(model.encode(x).mean, z)
        assert torch.equal(model.decode(z).mean, vae.decode(z).sample)
    assert entries_of(model.vae) == entries_of(vae)
    assert stats.scale[0] == pytest.approx(1.0 / vae.config.scaling_factor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_opens_bit_for_bit(kind: str, tmp_path: Path):
    """Red when a quantising convolution is assumed, or an entry of config.json is lost."""
    check_same(save_vae(kind, tmp_path), make_vae(kind))


def test_a_pipeline_folder_gives_its_vae(tmp_path: Path):
    save_vae("sdxl", tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    check_same(tmp_path, make_vae("sdxl"))


@pytest.mark.parametrize(("levels", "side"), [(3, 36), (5, 48), (6, 64)])
def test_any_number_of_levels_has_its_factor(levels: int, side: int, tmp_path: Path):
    """Red when a latent is taken to be 8 times smaller anywhere between picture and sigma."""
    vae = make_kl(levels, latent_channels=8, mid_block_add_attention=False)
    vae.save_pretrained(tmp_path)
    model, _ = load_vae(tmp_path)
    assert model.settings.factor == 2 ** (levels - 1)
    found = model.reconstruct(picture(side))
    assert found.mean.shape == (1, 3, side, side)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_and_sharded_weights_are_read(dtype: torch.dtype, tmp_path: Path):
    """Red when a type is refused, or a file of several is not read."""
    vae = make_vae("sd1").to(dtype)
    vae.save_pretrained(tmp_path, max_shard_size="20KB", variant="fp16" if dtype == torch.float16 else None)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_same(tmp_path, vae.float())


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("names", ["ldm", "diffusers"])
def test_a_single_file_is_read_from_names_and_shapes(names: str, prefix: str, tmp_path: Path):
    """Red when the architecture or the factors in the metadata are not found."""
    vae = make_kl(3, 32, 32, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.25)
    state = to_ldm(vae.state_dict()) if names == "ldm" else vae.state_dict()
    beside = {"model.diffusion_model.out.weight": torch.zeros(1)} if prefix else {}
    path = tmp_path / "ae.safetensors"
    tensors = {f"{prefix}{name}": value.contiguous() for name, value in state.items()} | beside
    save_file(tensors, path, metadata={"scaling_factor": "0.25"})
    check_same(path, vae)


def test_a_file_without_factors_says_which_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save_file(make_kl(4, 32, 32).state_dict(), tmp_path / "vae.safetensors")
    _, stats = load_vae(tmp_path / "vae.safetensors")
    assert stats.kept["scaling_factor"] == 0.18215
    assert "taken as scaling_factor 0.18215" in caplog.text


def test_config_json_beside_a_file_is_used(tmp_path: Path):
    """Red when eight channels in four groups are taken for one that shapes can tell."""
    save_vae("flux", tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "ae.safetensors")
    check_same(tmp_path / "ae.safetensors", make_vae("flux"))
    (tmp_path / "config.json").unlink()
    with pytest.raises(JeppaError, match=r"put the VAE's config\.json beside the file"):
        load_vae(tmp_path / "ae.safetensors")


def spoil(tmp_path: Path, how: str) -> Path:
    """A path that is no VAE."""
    folder, file = tmp_path / "folder", tmp_path / "file.safetensors"
    save_vae("sd1", folder)
    state, config = load_file(folder / WEIGHTS), json.loads((folder / "config.json").read_text())
    if how == "unet":
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        UNet2DModel(block_out_channels=(32, 32), **blocks).save_pretrained(folder)
    if how == "missing":
        del state["decoder.conv_out.bias"]
        save_file(state, folder / WEIGHTS)
    if how == "class":
        (folder / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    if how == "code":
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    if how == "blocks":
        blocks = ["AttnDownEncoderBlock2D"] * 4
        (folder / "config.json").write_text(json.dumps({**config, "down_block_types": blocks}))
    if how == "shape":
        (folder / "config.json").write_text(json.dumps({**config, "latent_channels": 8}))
    if how == "pickle":
        (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    files = {
        "unet file": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)},
        "lora": {"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(1)},
        "half": {name: value for name, value in state.items() if name.startswith("decoder.")},
        "nan": {**state, "decoder.conv_out.bias": torch.full((3,), float("nan"))},
    }
    if how in files:
        save_file(files[how], file)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return file
    if how == "ckpt":
        (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
        return tmp_path / "model.ckpt"
    return tmp_path / "nowhere" if how == "nowhere" else folder


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("unet", "holds a UNet"),
        ("missing", r"lacks 1 of the \d+ tensors of its architecture, 'decoder.conv_out.bias' first"),
        ("class", "class 'VQModel'"),
        ("code", "names code"),
        ("blocks", "AttnDownEncoderBlock2D"),
        ("shape", "its architecture has"),
        ("pickle", "a pickle, which is never opened"),
        ("unet file", "holds a UNet"),
        ("lora", "holds a LoRA"),
        ("half", "nothing but the decoder"),
        ("nan", "NaN or infinity"),
        ("ckpt", r"pickles \(.ckpt"),
        ("nowhere", "no such file or folder"),
    ],
)
def test_what_is_no_vae_is_named_in_one_line(how: str, found: str, tmp_path: Path):
    with pytest.raises(JeppaError, match=found) as caught:
        load_vae(spoil(tmp_path, how))
    assert "\n" not in str(caught.value)


def test_ldm_keys_of_a_loaded_vae_are_those_of_the_file(tmp_path: Path):
    vae = make_vae("sd3")
    ldm = {name: value.contiguous() for name, value in to_ldm(vae.state_dict()).items()}
    save_file(ldm, tmp_path / "ae.safetensors")
    vae.save_config(tmp_path)
    model, _ = load_vae(tmp_path / "ae.safetensors")
    again = to_ldm(model.vae.state_dict())
    assert again.keys() == ldm.keys()
    assert all(torch.equal(again[name], value) for name, value in ldm.items())


def test_stock_diffusers_and_the_loader_agree_on_a_file_of_old_diffusers(tmp_path: Path):
    """Red when attention under its old names is refused."""
    save_vae("sd1", tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(tmp_path / WEIGHTS)
    for new, before in old.items():
        state = {name.replace(f".0.{new}.", f".0.{before}."): value for name, value in state.items()}
    save_file(state, tmp_path / WEIGHTS)
    check_same(tmp_path, AutoencoderKL.from_pretrained(tmp_path))
