"""Save and load a denoiser: `unet/` and `scheduler/`, which diffusers opens, `variance_head/` and `denoiser.json`."""

import json
import os
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDIMScheduler
from pydantic import Field

from jeppa.config import MAX_SIDE, DenoiserConfig, PredictionKind, Settings, parse
from jeppa.diffusion.denoiser import Denoiser, make_unet
from jeppa.files import read_json
from jeppa.tensors import read_part

DESCRIPTION = "denoiser.json"


class DenoiserAbout(Settings):
    """The content of `denoiser.json`, which describes a denoiser completely except for its weights.

    Args:
        format: version of the folder's layout.
        config: the architecture.
        prediction: what the net predicts.
        variance: whether there is a variance head.
        latent_channels: C of the latents.
        resolution: side of the pictures it was trained on, in pixels.
        labels: class names in order; empty for a model without.
        latents: what its latents are like, see `LatentCodec.probe`; None where nobody has noted it.
    """

    format: Literal[1] = 1
    config: DenoiserConfig
    prediction: PredictionKind
    variance: bool
    latent_channels: int = Field(ge=1, le=256)
    resolution: int = Field(ge=8, le=MAX_SIDE, multiple_of=8)
    labels: tuple[str, ...]
    latents: tuple[float, ...] | None = None


def make_denoiser(about: DenoiserAbout, sample_size: int) -> Denoiser:
    """The denoiser that `about` describes, with weights from torch's global generator.

    Args:
        about: the description.
        sample_size: side of the training latents, as diffusers records it.
    """
    config = about.config
    unet = make_unet(
        sample_size=max(1, sample_size // config.patch),
        latent_channels=about.latent_channels * config.patch**2,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention=config.attention,
        num_classes=config.num_classes,
    )
    return Denoiser(unet, about.prediction, config.variance_channels if about.variance else None, config.patch)


def save_denoiser(denoiser: Denoiser, schedule: DDIMScheduler, about: DenoiserAbout, folder: Path) -> None:
    """Write net, head, schedule and description into `folder`."""
    denoiser.unet.save_pretrained(folder / "unet")
    if denoiser.head is not None:
        denoiser.head.save_pretrained(folder / "variance_head")
    schedule.save_pretrained(folder / "scheduler")
    temporary = folder / f"{DESCRIPTION}.tmp"
    temporary.write_text(json.dumps(about.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / DESCRIPTION)


def read_description(folder: Path) -> DenoiserAbout:
    """The content of a folder's `denoiser.json`.

    Raises:
        CheckpointError: the file is missing or damaged.
        ConfigError: it describes no denoiser of ours.
    """
    return parse(DenoiserAbout, read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))


def load_denoiser(folder: Path, factor: int) -> tuple[Denoiser, DenoiserAbout]:
    """Read what `save_denoiser` wrote: net and head in evaluation mode, and the description.

    Args:
        folder: the exported folder.
        factor: pixels a side of a latent's cell.

    Raises:
        CheckpointError: a file is missing, damaged or hostile.
        ConfigError: `denoiser.json` describes no denoiser of ours.
    """
    about = read_description(folder)
    with torch.device("meta"):
        outline = make_denoiser(about, about.resolution // factor)
    weights = {"unet": read_part(outline.unet, "UNet2DModel", folder / "unet")}
    if outline.head is not None:
        weights["head"] = read_part(outline.head, "VarianceHead", folder / "variance_head")
    denoiser = make_denoiser(about, about.resolution // factor)
    for name, tensors in weights.items():
        denoiser.get_submodule(name).load_state_dict(tensors)
    return denoiser.eval().requires_grad_(False), about
