"""The nodes of `comfyui/`, called as ComfyUI calls them; what the nodes see of ComfyUI is imitated here."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jeppa.config import VAEConfig
from jeppa.data.images import sigma_levels
from jeppa.pipeline import Model, load_model
from jeppa.pipeline.export import export_model
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.codec import LatentCodec, LatentStats

FOLDER = Path(__file__).parents[2] / "comfyui" / "jeppa_sigma"
CONFIG = VAEConfig(
    pixel_unshuffle=1, block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4,
    mid_block_attention=True, sigma_channels=8, sigma_blocks=2,
)  # fmt: skip


class AutoencoderKL(nn.Module):
    """ComfyUI's own, seen from outside: `decode` runs a decoder whose last layer is `conv_out`."""

    def __init__(self, net) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = net.post_quant_conv, net.decoder

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


class VAE:
    """comfy.sd.VAE: moves channels last, clamps to 0..1, and falls back to tiles where memory runs short."""

    def __init__(self, first_stage_model: nn.Module, tiles: bool = False) -> None:
        self.first_stage_model = first_stage_model
        self.tiles = tiles

    def decode(self, samples: Tensor) -> Tensor:
        parts = samples.chunk(2, dim=3) if self.tiles else [samples]
        pixels = torch.cat([self.first_stage_model.decode(part) for part in parts], 3)
        return ((pixels + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = HeteroscedasticVAE(CONFIG)
        assert vae.sigma_head is not None
        torch.nn.init.normal_(vae.sigma_head.out.weight, std=0.2)
        vae.sigma_head.curve.bend(torch.linspace(-9.0, 1.0, 8), torch.linspace(-8.0, 1.5, 8))
        vae.mean_square.fill_(0.02)
    folder = tmp_path_factory.mktemp("model")
    LatentCodec(vae, LatentStats(shift=(0.0,) * 4, scale=(2.0,) * 4)).save(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def models_dir(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's `models`, with a sigma head in it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "sigma_heads").mkdir()
    list(export_model(model, "ldm", "fp32", folder / "own.safetensors"))
    (folder / "own.sigma.safetensors").rename(folder / "sigma_heads" / "own.sigma.safetensors")
    return folder


@pytest.fixture
def nodes(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """The nodes of the folder, copied to where ComfyUI looks for it and loaded as it loads them."""
    folder_paths = ModuleType("folder_paths")
    known: dict[str, Path] = {}
    folder_paths.models_dir = str(models_dir)
    folder_paths.add_model_folder_path = lambda name, path: known.update({name: Path(path)})
    folder_paths.get_filename_list = lambda name: sorted(path.name for path in known[name].iterdir())
    folder_paths.get_full_path = lambda name, file: str(known[name] / file) if (known[name] / file).is_file() else None
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    copied = tmp_path / "custom_nodes" / "jeppa_sigma"
    shutil.copytree(FOLDER, copied)
    name = str(copied).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, copied / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    return module.NODE_CLASS_MAPPINGS


def call(node: type, **inputs) -> tuple:
    """As ComfyUI's executor does: inputs by the names of INPUT_TYPES, as many outputs as RETURN_TYPES."""
    assert inputs.keys() == node.INPUT_TYPES()["required"].keys()
    found = getattr(node(), node.FUNCTION)(**inputs)
    assert len(found) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return found


def loaded(nodes: dict[str, type]):
    (head,) = call(nodes["JeppaLoadSigmaHead"], name="own.sigma.safetensors")
    return head


def latents(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 3, 5, generator=torch.Generator().manual_seed(3))


def test_sockets_are_of_the_types_that_comfyui_connects(nodes: dict[str, type]):
    """Red when a socket has another type, a number no default, or a file is not offered."""
    loader, decoder = nodes["JeppaLoadSigmaHead"], nodes["JeppaDecodeWithSigma"]
    assert loader.INPUT_TYPES() == {"required": {"name": (["own.sigma.safetensors"],)}}
    sockets = decoder.INPUT_TYPES()["required"]
    assert [sockets[name] for name in ("samples", "vae", "sigma_head")] == [("LATENT",), ("VAE",), loader.RETURN_TYPES]
    for name in ("white", "threshold"):
        kind, options = sockets[name]
        assert kind == "FLOAT"
        assert options["min"] <= options["default"] <= options["max"]
    assert decoder.RETURN_TYPES == ("IMAGE", "IMAGE", "MASK")


def test_picture_and_sigma_are_those_of_jeppa_to_the_last_bit(nodes: dict[str, type], model: Model):
    """Of raw latents, as ComfyUI hands them out.

    Red when the copied head computes anything else, its curve or shared variance are not read, or latents are scaled.
    """
    z, vae = latents(), model.codec.vae
    fake = VAE(AutoencoderKL(vae.vae))
    with torch.no_grad():
        middle = float(torch.from_numpy(sigma_levels(vae.decode(z[:1]).logvar[0])).median())
    image, sigma, mask = call(
        nodes["JeppaDecodeWithSigma"], samples={"samples": z}, vae=fake, sigma_head=loaded(nodes), white=40.0,
        threshold=middle,
    )  # fmt: skip
    for index in range(2):  # one by one, as the node decodes them
        with torch.no_grad():
            expected = vae.decode(z[index : index + 1])
        assert torch.equal(image[index], ((expected.mean[0] + 1.0) / 2.0).clamp(0.0, 1.0).movedim(0, -1))
        levels = torch.from_numpy(sigma_levels(expected.logvar[0]))
        assert torch.equal(sigma[index], (levels / 40.0).clamp(0.0, 1.0)[..., None].expand(24, 40, 3))
        assert torch.equal(mask[index], (levels > middle).float())
    assert 0.0 < mask.mean() < 1.0
    assert (image.shape, sigma.shape, mask.shape) == ((2, 24, 40, 3), (2, 24, 40, 3), (2, 24, 40))
    assert not fake.first_stage_model.decoder.conv_out._forward_hooks


def test_another_vae_and_tiles_are_refused_in_one_line(nodes: dict[str, type], model: Model):
    decode = nodes["JeppaDecodeWithSigma"]
    inputs = {"samples": {"samples": latents(1)}, "sigma_head": loaded(nodes), "white": 32.0, "threshold": 12.0}
    with pytest.raises(ValueError, match="AutoencoderKL of 8 channels, not for another kind of VAE"):
        call(decode, vae=VAE(nn.Identity()), **inputs)
    wide = AutoencoderKL(model.codec.vae.vae)
    wide.decoder = nn.Module()
    wide.decoder.conv_out = nn.Conv2d(128, 3, 3)
    with pytest.raises(ValueError, match="of 8 channels, not for a VAE of 128 channels"):
        call(decode, vae=VAE(wide), **inputs)
    with pytest.raises(ValueError, match="memory ran short, so ComfyUI decoded in tiles"):
        call(decode, vae=VAE(AutoencoderKL(model.codec.vae.vae), tiles=True), **inputs)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not safetensors", "no sigma head of jeppa"), ("vae", "no sigma head of jeppa"), ("nan", "cannot use")],
)
def test_a_file_that_is_no_sigma_head_is_refused_in_one_line(nodes, models_dir: Path, content, said: str):
    path = models_dir / "sigma_heads" / "bad.safetensors"
    good = models_dir / "sigma_heads" / "own.sigma.safetensors"
    if content == "vae":
        shutil.copy(models_dir / "own.safetensors", path)
    elif content == "nan":
        head = loaded(nodes)
        tensors = {name: value * float("nan") for name, value in load_file(good).items()}
        described = {"feature_channels": head.feature_channels, "feature_size": 1, "channels": 8, "blocks": 2}
        save_file(tensors, path, {"sigma_head": json.dumps({**described, "shared_logvar": -4.0})})
    else:
        path.write_bytes(content)
    try:
        with pytest.raises(ValueError, match=said) as caught:
            call(nodes["JeppaLoadSigmaHead"], name="bad.safetensors")
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"gone\.safetensors: is not in models/sigma_heads"):
            call(nodes["JeppaLoadSigmaHead"], name="gone.safetensors")
    finally:
        path.unlink()
