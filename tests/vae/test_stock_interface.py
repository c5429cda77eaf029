"""The model speaks diffusers: a stock pipeline takes it as `vae=`, and its pictures are those of the VAE inside."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DConditionModel
from foreign_vaes import latent_of, make_vae, picture, save_vae

from jeppa import HeteroscedasticVAE
from jeppa.errors import ConfigError
from jeppa.vae import load_vae

PARTS = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "feature_extractor": None}
STEPS = {"num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE like that of Stable Diffusion."""
    return save_vae("sd1", tmp_path_factory.mktemp("vae"))


def pictures(vae, unet: UNet2DConditionModel, image: torch.Tensor | None) -> torch.Tensor:
    """What a stock pipeline draws with this VAE."""
    kind = StableDiffusionPipeline if image is None else StableDiffusionImg2ImgPipeline
    pipe = kind(vae=vae, unet=unet, scheduler=DDIMScheduler(), requires_safety_checker=False, **PARTS)
    pipe.set_progress_bar_config(disable=True)
    embeds = {"prompt_embeds": torch.ones(1, 3, 8), "negative_prompt_embeds": torch.zeros(1, 3, 8)}
    given = {"height": 32, "width": 32} if image is None else {"image": image, "strength": 1.0}
    found = pipe(**embeds, **given, **STEPS, generator=torch.Generator().manual_seed(0)).images
    return torch.from_numpy(found)


@pytest.mark.parametrize("start", ["noise", "picture"])
def test_a_stock_pipeline_draws_the_same_bit_for_bit(start: str, folder: Path, unet: UNet2DConditionModel):
    """Red when the scaling factor, the posterior's noise or the picture differs from those of the VAE inside."""
    image = None if start == "noise" else (picture() + 1.0) / 2.0
    ours, stock = HeteroscedasticVAE.from_pretrained(folder), make_vae("sd1")
    assert torch.equal(pictures(ours, unet, image), pictures(stock, unet, image))


def test_pixel_unshuffle_is_no_concern_of_a_pipeline(unet: UNet2DConditionModel):
    """Red when the pipeline counts the one level of `tiny` and takes latents to be as large as pictures."""
    found = pictures(HeteroscedasticVAE("tiny").eval(), unet, None)
    assert found.shape == (1, 32, 32, 3)


@torch.no_grad()
def test_encode_decode_and_forward_answer_as_stock_does(folder: Path):
    """Red when `return_dict`, the mode, or the number format of what comes back is another."""
    ours, stock, x = HeteroscedasticVAE.from_pretrained(folder), make_vae("sd1"), picture()
    z = latent_of(stock, x)
    assert torch.equal(ours.encode(x).latent_dist.mode(), z)
    assert torch.equal(ours.encode(x, return_dict=False)[0].mode(), z)
    assert torch.equal(ours.encode(x, return_dict=True).latent_dist.mode(), z)
    draws = [vae.encode(x).latent_dist.sample(torch.Generator().manual_seed(0)) for vae in (ours, stock)]
    assert torch.equal(*draws)
    assert torch.equal(ours.decode(z, return_dict=False)[0], stock.decode(z).sample)
    assert torch.equal(ours.decode(z, return_dict=True).sample, stock.decode(z).sample)
    for drawn in (False, True):
        found = [vae(x, drawn, generator=torch.Generator().manual_seed(0)).sample for vae in (ours, stock)]
        assert torch.equal(*found)
    assert ours(x, return_dict=False)[0].shape == x.shape
    assert ours.dtype == stock.dtype
    assert ours.device == stock.device
    for key in ("scaling_factor", "shift_factor", "force_upcast", "latent_channels", "sample_size"):
        assert getattr(ours.config, key) == getattr(stock.config, key)


def test_saved_and_opened_again_it_is_the_same(folder: Path, tmp_path: Path):
    """Red when an entry of config.json, or what is beside the weights, gets lost on the way."""
    first = HeteroscedasticVAE.from_pretrained(folder)
    first.save_pretrained(tmp_path)
    again, stats = load_vae(tmp_path)
    assert {key: value for key, value in again.vae.config.items() if not key.startswith("_")} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in first.vae.config.items()
        if not key.startswith("_")
    }
    assert stats.scale[0] == pytest.approx(1.0 / 0.18215)
    half = HeteroscedasticVAE.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert half.dtype == torch.float16


@pytest.mark.parametrize("asked", [{"variant": "fp16"}, {"max_shard_size": "1GB"}, {"safe_serialization": False}])
def test_saving_refuses_what_it_cannot_do(asked: dict[str, object], folder: Path, tmp_path: Path):
    """Red when an option is taken and then ignored, or something is written all the same."""
    vae = HeteroscedasticVAE.from_pretrained(folder)
    with pytest.raises(ConfigError, match="leave safe_serialization, variant and max_shard_size out"):
        vae.save_pretrained(tmp_path / "saved", **asked)
    with pytest.raises(TypeError, match="push_to_hub"):
        vae.save_pretrained(tmp_path / "saved", push_to_hub=True)
    assert not (tmp_path / "saved").exists()
