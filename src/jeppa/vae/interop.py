"""A VAE as a folder that diffusers opens: `vae/` (stock AutoencoderKL), `sigma_head/`, `model.json`.

`vae/config.json` carries the latent statistics under diffusers' names: `latents_mean`, `latents_std` per channel,
and the one `scaling_factor` and `shift_factor` that every pipeline reads.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from jeppa.config import Likelihood, Settings, TextureConfig, VAEConfig, parse
from jeppa.errors import CheckpointError
from jeppa.parts import read_part
from jeppa.strict_json import read_json
from jeppa.vae.model import HeteroscedasticVAE

FORMAT = 1
NOT_A_FOLDER = (
    "a file, but a model is a run folder or an exported folder; pickles (.ckpt, .pt, .bin) are never opened, because "
    "they can run code"
)


def save_folder(model: HeteroscedasticVAE, shift: tuple[float, ...], scale: tuple[float, ...], folder: Path) -> None:
    """Write `model` with its latent statistics (per channel, of the raw latent) into `folder`."""
    model.vae.register_to_config(
        latents_mean=list(shift),
        latents_std=list(scale),
        shift_factor=sum(shift) / len(shift),
        scaling_factor=1.0 / (sum(s * s for s in scale) / len(scale)) ** 0.5,
    )
    model.vae.save_pretrained(folder / "vae")
    if model.sigma_head is not None:
        model.sigma_head.save_pretrained(folder / "sigma_head")
    description: dict[str, Any] = {
        "format": FORMAT,
        "likelihood": model.likelihood,
        "config": model.config.model_dump(mode="json"),
        "mean_square": float(model.mean_square),
        "latent_shift": list(shift),
        "latent_scale": list(scale),
    }
    if model.texture_head is not None:
        model.texture_head.save_pretrained(folder / "texture_head")
        description["texture"] = model.texture_config.model_dump(mode="json")
    temporary = folder / "model.json.tmp"
    temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "model.json")


def load_folder(folder: Path) -> tuple[HeteroscedasticVAE, dict[str, Any]]:
    """Read what `save_folder` wrote: the model in evaluation mode, and `latent_shift` and `latent_scale`.

    The model is built from `model.json`, and diffusers opens nothing: its configuration files are only checked, so
    that they name no code for those who open the folder with it.

    Raises:
        CheckpointError: the folder is no exported VAE, or a file in it is missing, damaged or hostile.
        ConfigError: `model.json` describes no architecture of ours.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder}: {NOT_A_FOLDER}")
    about = parse(Description, read_json(folder / "model.json"), str(folder / "model.json"))
    with torch.device("meta"):
        outline = HeteroscedasticVAE(about.config, about.likelihood, about.texture)
    weights = {"vae": read_part(outline.vae, type(outline.vae).__name__, folder / "vae")}
    if outline.sigma_head is not None:
        weights["sigma_head"] = read_part(outline.sigma_head, "SigmaHead", folder / "sigma_head")
    if outline.texture_head is not None:
        weights["texture_head"] = read_part(outline.texture_head, "TextureHead", folder / "texture_head")
    model = HeteroscedasticVAE(about.config, about.likelihood, about.texture)
    for name, tensors in weights.items():
        model.get_submodule(name).load_state_dict(tensors)
    model.mean_square.fill_(about.mean_square)
    return model.eval(), {"shift": about.latent_shift, "scale": about.latent_scale}


class Description(Settings):
    """The content of `model.json`, which says all about a model but its weights."""

    format: Literal[1]
    likelihood: Likelihood
    config: VAEConfig
    texture: TextureConfig | None = None
    mean_square: float = Field(ge=0.0)
    latent_shift: tuple[float, ...]
    latent_scale: tuple[float, ...]
