"""Pipelines of diffusers take the scheduler in place of theirs and give the same picture."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)

from jeppa.diffusion import HeteroscedasticDDIMScheduler

LEVEL = {"block_out_channels": (8,), "norm_num_groups": 4}
UNET = {**LEVEL, "sample_size": 8, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


def pixels(scheduler) -> DiffusionPipeline:
    return DDPMPipeline(UNet2DModel(**UNET), scheduler)


def latents(scheduler) -> DiffusionPipeline:
    return LDMPipeline(VQModel(**LEVEL), UNet2DModel(**UNET), scheduler)


def classes(scheduler) -> DiffusionPipeline:
    """With the variance channels of DiT, which the pipeline cuts off."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4
    )
    return DiTPipeline(transformer, AutoencoderKL(**LEVEL), scheduler)


def run(make, scheduler, **arguments) -> torch.Tensor:
    torch.manual_seed(0)
    pipe = make(scheduler)
    pipe.set_progress_bar_config(disable=True)
    # LDMPipeline passes its generator to no step.
    torch.manual_seed(2)
    pictures = pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np", **arguments)
    return torch.as_tensor(pictures.images)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (pixels, {"batch_size": 2}),
        (latents, {"batch_size": 2, "eta": 0.0}),
        (latents, {"batch_size": 2, "eta": 0.5}),
        (classes, {"class_labels": [3, 5]}),
    ],
)
def test_pipelines_take_the_scheduler_unchanged(make, arguments: dict, spacing: str) -> None:
    """The betas are defaults of diffusers, which `from_config` does not pass on.

    Red when another method or argument is missing or renamed, or a default changes the process.
    """
    theirs = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    expected = run(make, theirs, **arguments)
    found = run(make, HeteroscedasticDDIMScheduler.from_config(theirs.config), **arguments)
    assert expected.std() > 0
    # At the last timestep eps is divided by 0.006: their float32 coefficients cost three digits.
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0.0)
