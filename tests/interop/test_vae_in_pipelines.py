"""A VAE that went through jeppa with its mean frozen gives stock pipelines the pictures of the one it was made from.

Without a text encoder: what the text says is drawn at random here.
"""

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from foreign_vaes import make_vae, save_vae
from torch import Tensor

from jeppa.pipeline import load_model
from jeppa.pipeline.export import export_model
from jeppa.vae import HeteroscedasticVAE

pytest.importorskip("transformers", reason="diffusers has no pipelines of Stable Diffusion without transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 32
UNET = {
    "sample_size": 4, "block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "mid_block_type": None,
    "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "cross_attention_dim": 8,
    "attention_head_dim": 4,
}  # fmt: skip


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pipeline(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**UNET)
    absent = dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor"])
    parts = {"vae": make_vae("sd1"), "unet": unet, "scheduler": DDIMScheduler(), "requires_safety_checker": False}
    pipe = getattr(diffusers, name)(**parts, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(pipe, name: str) -> Tensor:
    torch.manual_seed(2)  # the encoder draws from the global generator
    asked = {"prompt_embeds": drawn((1, 3, 8), 5), "negative_prompt_embeds": drawn((1, 3, 8), 6)}
    if name != "StableDiffusionPipeline":
        asked |= {"image": drawn((1, 3, SIDE, SIDE), 7).clamp(-1, 1), "strength": 0.6}
    if name == "StableDiffusionInpaintPipeline":
        mask = torch.zeros(1, 1, SIDE, SIDE)
        mask[..., 8:24, 8:24] = 1.0
        asked |= {"mask_image": mask, "height": SIDE, "width": SIDE}
    generator = torch.Generator().manual_seed(1)
    found = torch.as_tensor(pipe(**asked, num_inference_steps=4, generator=generator, output_type="np").images)
    assert found.std() > 0
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE like Stable Diffusion's, opened by jeppa and given back."""
    folder = tmp_path_factory.mktemp("vae")
    model = load_model(save_vae("sd1", folder / "given"))
    list(export_model(model, "diffusers", "fp32", folder / "exported"))
    return folder / "exported"


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_pictures_stay_when_the_exported_vae_takes_the_place_of_its_origin(name: str, exported: Path) -> None:
    """Bit for bit as stock diffusers opens it; as our class, which draws and computes the same.

    Red when a weight, the scaling factor or the factor of the sides changes on the way.
    """
    pipe = pipeline(name)
    expected = pictures(pipe, name)
    pipe.vae = AutoencoderKL.from_pretrained(exported, local_files_only=True)
    assert torch.equal(pictures(pipe, name), expected)
    pipe.vae = HeteroscedasticVAE.from_pretrained(exported)
    with torch.no_grad():
        torch.testing.assert_close(pictures(pipe, name), expected, atol=1e-5, rtol=0.0)
