import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from jeppa.errors import JeppaError
from jeppa.vae import HeteroscedasticVAE, load_folder, save_folder

SHIFT, SCALE = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0)


@pytest.fixture
def model() -> HeteroscedasticVAE:
    torch.manual_seed(0)
    vae = HeteroscedasticVAE("tiny").eval()
    vae.mean_square.fill_(0.02)
    assert vae.sigma_head is not None
    torch.nn.init.normal_(vae.sigma_head.out.weight)
    return vae


@torch.no_grad()
def test_stock_diffusers_opens_the_folder_and_decodes_the_same(model: HeteroscedasticVAE, tmp_path: Path):
    save_folder(model, SHIFT, SCALE, tmp_path)
    stock, info = AutoencoderKL.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    z = torch.randn(1, 4, 3, 3)
    pixels = torch.nn.functional.pixel_shuffle(stock.decode(z).sample, model.settings.pixel_unshuffle)
    assert torch.equal(pixels, model.decode(z).mean)
    assert stock.config.latents_mean == list(SHIFT)
    assert stock.config.scaling_factor == pytest.approx((30.0 / 4.0) ** -0.5)


@torch.no_grad()
def test_a_folder_gives_back_mean_sigma_and_statistics(model: HeteroscedasticVAE, tmp_path: Path):
    """Red when the shared error, or the head, is not restored."""
    save_folder(model, SHIFT, SCALE, tmp_path)
    loaded, stats = load_folder(tmp_path)
    z = torch.randn(1, 4, 3, 3)
    assert torch.equal(loaded.decode(z).logvar, model.decode(z).logvar)
    assert stats == {"shift": SHIFT, "scale": SCALE}


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("missing", "model.json: cannot be read"),
        ("not json", "not valid JSON"),
        ("no config", "config: Field required"),
        ("no weights", "diffusion_pytorch_model.safetensors: cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(model: HeteroscedasticVAE, tmp_path: Path, damage: str, word: str):
    if damage != "missing":
        save_folder(model, SHIFT, SCALE, tmp_path)
    if damage == "not json":
        (tmp_path / "model.json").write_text("{")
    if damage == "no config":
        description = json.loads((tmp_path / "model.json").read_text())
        del description["config"]
        (tmp_path / "model.json").write_text(json.dumps(description))
    if damage == "no weights":
        (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(JeppaError, match=word) as caught:
        load_folder(tmp_path)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_float16_weights_are_read_as_float32(model: HeteroscedasticVAE, tmp_path: Path):
    """Red when a folder of half the size is refused, or its weights stay float16."""
    save_folder(model, SHIFT, SCALE, tmp_path)
    for path in tmp_path.glob("*/*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    again, _ = load_folder(tmp_path)
    state = again.vae.state_dict()
    assert all(value.half().float().equal(state[name]) for name, value in model.vae.state_dict().items())
    assert {value.dtype for value in again.parameters()} == {torch.float32}
