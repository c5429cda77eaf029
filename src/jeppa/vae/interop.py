"""A VAE as a folder that diffusers opens: `vae/` (stock AutoencoderKL), `sigma_head/`, `model.json`.

`vae/config.json` carries the latent statistics under diffusers' names: `latents_mean`, `latents_std` per channel,
and the one `scaling_factor` and `shift_factor` that every pipeline reads.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from jeppa.config import VAEConfig, parse
from jeppa.errors import CheckpointError
from jeppa.vae.model import HeteroscedasticVAE
from jeppa.vae.sigma import SigmaHead

FORMAT = 1


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
    description = {
        "format": FORMAT,
        "likelihood": model.likelihood,
        "config": model.config.model_dump(mode="json"),
        "mean_square": float(model.mean_square),
        "latent_shift": list(shift),
        "latent_scale": list(scale),
    }
    temporary = folder / "model.json.tmp"
    temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "model.json")


def load_folder(folder: Path) -> tuple[HeteroscedasticVAE, dict[str, Any]]:
    """Read what `save_folder` wrote: the model in evaluation mode, and `latent_shift` and `latent_scale`.

    Raises:
        CheckpointError: the folder is no exported VAE, or a file in it is missing or damaged.
    """
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        config = parse(VAEConfig, description["config"], str(folder / "model.json"))
        model = HeteroscedasticVAE(config, description["likelihood"])
        _replace_weights(model.vae, AutoencoderKL, folder / "vae")
        if model.sigma_head is not None:
            _replace_weights(model.sigma_head, SigmaHead, folder / "sigma_head")
        model.mean_square.fill_(float(description["mean_square"]))
        stats = {"shift": description["latent_shift"], "scale": description["latent_scale"]}
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{folder}: not a readable exported VAE ({reason}); export it again") from None
    return model.eval(), stats


def _replace_weights(module: torch.nn.Module, kind: Any, folder: Path) -> None:
    module.load_state_dict(kind.from_pretrained(folder, use_safetensors=True, local_files_only=True).state_dict())
