"""Pipelines of diffusers take the scheduler in place of theirs and give the same picture.

Those of Stable Diffusion need transformers, for their imports alone: what the text says is drawn at random here.
"""

import json

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    LDMPipeline,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from torch import Tensor

import jeppa
from jeppa.diffusion import (
    DDIM,
    Denoiser,
    HeteroscedasticDDIMScheduler,
    VarianceUNet,
    make_denoise,
    make_unet,
    sample_ddim,
)
from jeppa.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")

LEVEL = {"block_out_channels": (8,), "norm_num_groups": 4}
UNET = {**LEVEL, "sample_size": 8, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
WORDS = {"cross_attention_dim": 8, "attention_head_dim": 4, "layers_per_block": 1, "mid_block_type": None}
TEXT_UNET = {
    **UNET,
    **WORDS,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}
STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def pixels(scheduler) -> DiffusionPipeline:
    return DDPMPipeline(UNet2DModel(**UNET), scheduler)


def ddim(scheduler) -> DiffusionPipeline:
    """The pipeline makes its scheduler a DDIMScheduler when it is made, so that ours comes afterwards."""
    pipe = DDIMPipeline(UNet2DModel(**UNET), DDIMScheduler())
    pipe.scheduler = scheduler
    return pipe


def latents(scheduler) -> DiffusionPipeline:
    return LDMPipeline(VQModel(**LEVEL), UNet2DModel(**UNET), scheduler)


def classes(scheduler) -> DiffusionPipeline:
    """With the variance channels of DiT, which the pipeline cuts off."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4
    )
    return DiTPipeline(transformer, AutoencoderKL(**LEVEL), scheduler)


def stable(name: str, channels: int = 4):
    """A maker of a pipeline of Stable Diffusion, with no text encoder."""

    def make(scheduler) -> DiffusionPipeline:
        pytest.importorskip(
            "transformers", reason="diffusers has no pipelines of Stable Diffusion without transformers"
        )
        unet = UNet2DConditionModel(**TEXT_UNET, in_channels=channels)
        given = {"vae": AutoencoderKL(**LEVEL), "unet": unet, "scheduler": scheduler, "requires_safety_checker": False}
        absent = dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor"])
        return getattr(diffusers, name)(**given, **absent)

    return make


class Spelling:
    """A tokenizer: the codes of the letters."""

    def __call__(self, prompts: list[str], **_) -> "Spelling":
        self.input_ids = torch.tensor([[ord(letter) for letter in prompt.ljust(3)] for prompt in prompts])
        return self


class Reading(torch.nn.Embedding):
    """A text encoder."""

    device = torch.device("cpu")
    dtype = torch.float32

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (super().forward(ids),)


def text_to_image(scheduler) -> DiffusionPipeline:
    pytest.importorskip("transformers", reason="diffusers has no LDMTextToImagePipeline without transformers")
    unet = UNet2DConditionModel(**TEXT_UNET)
    return diffusers.LDMTextToImagePipeline(AutoencoderKL(**LEVEL), Reading(128, 8), Spelling(), unet, scheduler)


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words() -> dict:
    return {
        "prompt_embeds": drawn((1, 3, 8), 5), "negative_prompt_embeds": drawn((1, 3, 8), 6), "height": 8, "width": 8
    }  # fmt: skip


def image() -> dict:
    return {"image": drawn((1, 3, 8, 8), 7).clamp(-1, 1), "strength": 0.6}


def hole() -> dict:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1.0
    return {**image(), "mask_image": mask, "strength": 1.0}


TEXT_TO_IMAGE = stable("StableDiffusionPipeline")
IMAGE_TO_IMAGE = stable("StableDiffusionImg2ImgPipeline")
INPAINT = stable("StableDiffusionInpaintPipeline")
INPAINT_9 = stable("StableDiffusionInpaintPipeline", 9)


def without_size(arguments: dict) -> dict:
    return {key: value for key, value in arguments.items() if key not in ("height", "width")}


PIPELINES = [
    pytest.param(pixels, {"batch_size": 2}, id="pixels"),
    pytest.param(ddim, {"batch_size": 2, "eta": 0.5}, id="ddim"),
    pytest.param(ddim, {"batch_size": 2, "use_clipped_model_output": True}, id="ddim-clipped"),
    pytest.param(latents, {"batch_size": 2, "eta": 0.0}, id="latents"),
    pytest.param(latents, {"batch_size": 2, "eta": 0.5}, id="latents-eta"),
    pytest.param(classes, {"class_labels": [3, 5]}, id="classes"),
    pytest.param(text_to_image, {"prompt": ["a", "bcd"], "guidance_scale": 3.0, "eta": 0.3}, id="text-to-image"),
    pytest.param(TEXT_TO_IMAGE, words(), id="stable"),
    pytest.param(TEXT_TO_IMAGE, {**words(), "eta": 0.5, "guidance_rescale": 0.7}, id="stable-eta"),
    pytest.param(IMAGE_TO_IMAGE, without_size({**words(), **image()}), id="img2img"),
    pytest.param(INPAINT, {**words(), **hole()}, id="inpaint"),
    pytest.param(INPAINT_9, {**words(), **hole()}, id="inpaint-9"),
]


def run(pipe: DiffusionPipeline, arguments: dict) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    # LDMPipeline passes its generator to no step, others theirs not to the encoder.
    torch.manual_seed(2)
    asked = {"num_inference_steps": 7, "generator": torch.Generator().manual_seed(1), "output_type": "np", **arguments}
    found = torch.as_tensor(pipe(**asked).images)
    assert found.isfinite().all()
    assert found.std() > 0
    return found


def made(make, scheduler) -> DiffusionPipeline:
    torch.manual_seed(0)
    return make(scheduler)


@pytest.mark.parametrize(("make", "arguments"), PIPELINES)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="defaults"),
        pytest.param(STABLE_DIFFUSION, id="stable-diffusion"),
        pytest.param({"timestep_spacing": "trailing", "clip_sample": False}, id="trailing"),
        pytest.param({**STABLE_DIFFUSION, "timestep_spacing": "linspace", "prediction_type": "v_prediction"}, id="v"),
        pytest.param(
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
            id="zero-snr",
        ),
        pytest.param(
            {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9}, id="threshold"
        ),
        pytest.param({"trained_betas": [0.0002 + 0.00001 * t for t in range(1000)], "steps_offset": 1}, id="betas"),
    ],
)
def test_picture_stays_when_ours_takes_the_place_of_a_ddim(make, arguments: dict, settings: dict) -> None:
    """Red when a default, a setting, an argument or the arithmetic is not that of diffusers.

    With the defaults, the pipelines of Stable Diffusion correct the config themselves.
    """
    pipe = made(make, DDIMScheduler(**settings))
    expected = run(pipe, arguments)
    pipe.scheduler = HeteroscedasticDDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(run(pipe, arguments), expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("make", "arguments"), [case for case in PIPELINES if case.id in ("ddim", "latents", "text-to-image", "stable")]
)
@pytest.mark.parametrize(
    "source",
    [
        PNDMScheduler(),
        PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        EulerDiscreteScheduler(),
        EulerDiscreteScheduler(
            timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
        ),
    ],
    ids=["pndm", "pndm-stable-diffusion", "euler", "euler-v"],
)
def test_config_of_another_scheduler_gives_the_picture_of_ddim(make, arguments: dict, source) -> None:
    """Red when what that config leaves to a default is not DDIMScheduler's."""
    pipe = made(make, source)
    config = pipe.scheduler.config
    pipe.scheduler = DDIMScheduler.from_config(config)
    expected = run(pipe, arguments)
    pipe.scheduler = HeteroscedasticDDIMScheduler.from_config(config)
    torch.testing.assert_close(run(pipe, arguments), expected, atol=1e-5, rtol=0.0)


def denoiser(kind, num_classes: int | None = None, patch: int = 1) -> Denoiser:
    """Tiny and random, with a log-variance about -2."""
    torch.manual_seed(0)
    unet = make_unet(
        sample_size=8 // patch,
        latent_channels=3 * patch**2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        attention=(False, False),
        num_classes=num_classes,
    )
    found = Denoiser(unet, kind, 8, patch)
    assert found.head is not None
    torch.nn.init.normal_(found.head.out.weight, std=0.1)
    torch.nn.init.constant_(found.head.out.bias, -2.0)
    return found.eval().requires_grad_(False)


class Recording(VQModel):
    """Keeps the latents that it is given."""

    def decode(self, h: Tensor, *given, **named):
        self.seen = h
        return super().decode(h, *given, **named)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("patch", [1, 2])
def test_learned_variance_of_our_denoiser_reaches_a_stock_pipeline(kind, patch: int) -> None:
    """LDMPipeline draws what `sample_ddim` draws. Red when the wrapper or the scheduler drops the variance."""
    net = denoiser(kind, patch=patch)
    scheduler = HeteroscedasticDDIMScheduler.for_latents(kind)
    pipe = LDMPipeline(Recording(**LEVEL), VarianceUNet(net), scheduler).to("cpu")
    assert pipe.scheduler is scheduler
    run(pipe, {"batch_size": 1, "num_inference_steps": 15})
    # The pipeline draws z_T from its generator, and the scheduler all else from the global one.
    z_t = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    settings = DDIM(15, temperature=1.0)
    *_, last = sample_ddim(make_denoise(net), z_t, scheduler, settings, [torch.default_generator])
    torch.testing.assert_close(pipe.vqvae.seen * pipe.vqvae.config.scaling_factor, last.zt, atol=1e-5, rtol=0.0)
    *_, plain = sample_ddim(make_denoise(net), z_t, scheduler, DDIM(15))
    assert (last.zt - plain.zt).abs().max() > 0.01


def test_learned_variance_works_in_a_pipeline_over_the_strides_of_diffusers() -> None:
    """DDIMPipeline, with the settings of diffusers. Red when only the exact scheduler splits."""
    pipe = DDIMPipeline(VarianceUNet(denoiser("epsilon")), DDIMScheduler())
    pipe.scheduler = HeteroscedasticDDIMScheduler.from_config(pipe.scheduler.config)
    learned = run(pipe, {"batch_size": 2})
    pipe.unet = denoiser("epsilon").unet
    assert (run(pipe, {"batch_size": 2}) - learned).abs().max() > 0.01


def test_wrapper_answers_with_prediction_and_log_variance_of_the_labels_guided() -> None:
    """At a size that the net does not halve. Red when labels or guidance are not passed on, or the halves exchanged."""
    net, zt = denoiser("v_prediction", num_classes=4), drawn((2, 3, 7, 9), 1)
    labels = torch.tensor([1, 3])
    expected = make_denoise(net, labels, 2.0)(zt, torch.tensor([500, 500]))
    for unet, given in ((VarianceUNet(net, labels, 2.0), None), (VarianceUNet(net, guidance=2.0), labels)):
        both = unet(zt, torch.tensor(500), class_labels=given).sample
        assert torch.equal(both, torch.cat([expected.mean, expected.logvar], 1))
        assert torch.equal(unet(zt, 500, given, return_dict=False)[0], both)
    assert (unet.config.in_channels, unet.config.out_channels, unet.config.sample_size) == (3, 6, 8)
    assert (unet.dtype, unet.device) == (torch.float32, torch.device("cpu"))
    net.head = None
    with pytest.raises(
        ConfigError, match="the denoiser has no variance head: train one, or give the pipeline its unet"
    ):
        VarianceUNet(net)


def test_pipeline_saves_the_scheduler_under_the_public_name_and_loads_it_back(tmp_path) -> None:
    """Red when `model_index.json` names a module that may move, or diffusers finds no way to load it."""
    pipe = made(latents, HeteroscedasticDDIMScheduler.for_latents(draw_last=True, data_variance=0.7))
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["jeppa", "HeteroscedasticDDIMScheduler"]
    assert jeppa.HeteroscedasticDDIMScheduler is HeteroscedasticDDIMScheduler
    again = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert type(again.scheduler) is HeteroscedasticDDIMScheduler
    theirs, ours = ({k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (again, pipe))
    assert theirs == ours
    assert torch.equal(run(again, {"batch_size": 1}), run(pipe, {"batch_size": 1}))
