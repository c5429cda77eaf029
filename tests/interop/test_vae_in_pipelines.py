"""A VAE that `jeppa adapt` gave a sigma head gives pipelines the pictures of the one it was made from.

Without trained text encoders: what the text says is drawn at random here.
"""

from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from foreign_vaes import entries_of, make_vae, save_vae
from foreign_vaes import picture as foreign_picture
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from jeppa import HeteroscedasticPipeline
from jeppa.cli import run
from jeppa.config import DiffusionRun, parse
from jeppa.pipeline import load_model
from jeppa.pipeline.export import export_model
from jeppa.train import DiffusionObjective, train
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
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of noise, one of which is held out."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        coarse = Image.fromarray(drawn((6, 6, 3), seed).mul(60).add(128).clamp(0, 255).byte().numpy())
        coarse.resize((48, 48)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def adapted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a VAE like Stable Diffusion's, adapted in two steps."""
    folder = tmp_path_factory.mktemp("vae")
    save_vae("sd1", folder / "given")
    flags = {"--vae": folder / "given", "--data": photos, "--out": folder / "run",
             "--steps": 2, "--batch-size": 2, "--resolution": 32, "--sizes": 1, "--precision": "exact"}  # fmt: skip
    assert run(["adapt", *(str(word) for pair in flags.items() for word in pair)]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapted VAE as a folder for diffusers."""
    out = tmp_path_factory.mktemp("exported") / "vae"
    list(export_model(load_model(adapted), "diffusers", "fp32", out))
    return out


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_pictures_stay_when_the_adapted_vae_takes_the_place_of_its_origin(
    name: str, exported: Path, adapted: Path
) -> None:
    """Bit for bit, as stock diffusers opens it and as our class.

    Red when a weight, the scaling factor or the factor of the sides changes on the way.
    """
    pipe = pipeline(name)
    expected = pictures(pipe, name)
    for vae in (AutoencoderKL.from_pretrained(exported, local_files_only=True), *map(ours, (exported, adapted))):
        pipe.vae = vae
        with torch.no_grad():
            assert torch.equal(pictures(pipe, name), expected)


def ours(folder: Path) -> HeteroscedasticVAE:
    vae = HeteroscedasticVAE.from_pretrained(folder)
    assert vae.sigma_head is not None
    return vae


def latent_diffusion(name: str):
    """A pipeline of latent diffusion's first models, in which the autoencoder is called `vqvae`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "LDMPipeline":
            few = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
            parts = {"unet": UNet2DModel(4, 4, 4, block_out_channels=(8,), norm_num_groups=4, **few)}
        else:
            parts = {"unet": UNet2DConditionModel(**UNET), "bert": Prompts(), "tokenizer": Words()}
    pipe = getattr(diffusers, name)(vqvae=make_vae("sd1"), scheduler=DDIMScheduler(), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Words:
    """A tokenizer that sees the number of prompts alone."""

    def __call__(self, prompt: list[str], **settings: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.zeros(len(prompt), 3, dtype=torch.int64))


class Prompts(torch.nn.Module):
    """A text encoder that says the same of every prompt."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (drawn((len(tokens), 3, 8), 5),)


@pytest.mark.parametrize("name", ["LDMPipeline", "LDMTextToImagePipeline"])
def test_pipelines_of_latent_diffusion_take_the_net_inside(name: str, exported: Path) -> None:
    """They ask for `decode(z).sample`, which is a method of our distributions: told by Python, never drawn wrongly.

    Red when a weight or the scaling factor changes, or the model itself is taken and gives something else.
    """
    pipe, prompt = latent_diffusion(name), {} if name == "LDMPipeline" else {"prompt": ["a picture"]}

    def pictured(vae: torch.nn.Module) -> Tensor:
        pipe.vqvae = vae
        seeded = torch.Generator().manual_seed(1)
        return torch.as_tensor(pipe(**prompt, num_inference_steps=4, generator=seeded, output_type="np").images)

    expected = pictured(make_vae("sd1"))
    assert expected.std() > 0
    assert torch.equal(pictured(AutoencoderKL.from_pretrained(exported, local_files_only=True)), expected)
    assert torch.equal(pictured(ours(exported).vae), expected)
    with pytest.raises(TypeError, match="method"):
        pictured(ours(exported))


def test_an_adapted_vae_as_an_ldm_file_is_the_same(adapted: Path, exported: Path, tmp_path: Path) -> None:
    """Red when a weight of the VAE or of the head beside it, or the calibration, changes on the way."""
    model, x = load_model(adapted).codec.vae, foreign_picture()
    list(export_model(load_model(adapted), "ldm", "fp32", tmp_path / "vae.safetensors"))
    (tmp_path / "config.json").write_bytes((exported / "config.json").read_bytes())  # as names do not show the groups
    again = load_model(tmp_path / "vae.safetensors").codec.vae
    with torch.no_grad():
        z = model.encode(x).mean
        assert torch.equal(again.encode(x).mean, z)
        assert torch.equal(again.decode(z).mean, model.decode(z).mean)
    assert again.config.scaling_factor == make_vae("sd1").config.scaling_factor
    head, saved = model.sigma_head.state_dict(), load_file(tmp_path / "vae.sigma.safetensors")
    assert head.keys() == saved.keys()
    assert all(torch.equal(head[key], saved[key]) for key in head)


def test_a_pipeline_of_an_adapted_vae_is_the_same(adapted: Path, photos: Path, tmp_path: Path) -> None:
    """Red when the VAE, its head or an entry of its config.json changes between the run folder and the pipeline."""
    codec, x = load_model(adapted).codec, foreign_picture()
    optim = {"steps": 1, "batch_size": 2, "precision": "exact", "warmup_steps": 0}
    net = {"block_out_channels": [16, 16], "attention": [False, True]}
    data = {"data": str(photos), "resolution": 32, "sizes": 1}
    settings = {"vae": str(adapted), "views": 1, "model": net, "data": data, "optim": optim}
    list(train(DiffusionObjective(parse(DiffusionRun, settings, "test"), codec), tmp_path / "run"))
    list(export_model(load_model(tmp_path / "run"), "pipeline", "fp32", tmp_path / "pipeline"))
    opened = HeteroscedasticPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    again = load_model(tmp_path / "pipeline").codec.vae
    assert entries_of(opened.vae) == entries_of(again.vae) == entries_of(codec.vae.vae)
    stock = make_vae("sd1")
    with torch.no_grad():
        z = codec.vae.encode(x).mean
        assert torch.equal(opened.vae.decode(z).sample, stock.decode(z).sample)
        for found, expected in ((again.encode(x).mean, z), (z, stock.encode(x).latent_dist.mean)):
            assert torch.equal(found, expected)
        for part in ("mean", "logvar"):
            assert torch.equal(getattr(again.decode(z), part), getattr(codec.vae.decode(z), part))
