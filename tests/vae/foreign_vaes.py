"""VAEs as other people have them, made here with random weights and few channels."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

KINDS = ("sd1", "sdxl", "sd3", "flux", "taesd")
EIGHT = {"latent_channels": 4, "sample_size": 64}
BARE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
ENTRIES = {
    "sd1": {**EIGHT, "scaling_factor": 0.18215},
    "sdxl": {**EIGHT, "scaling_factor": 0.13025, "sample_size": 128},
    "sd3": {**BARE, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": {**BARE, "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": True},
}


def make_kl(levels: int = 4, width: int = 8, groups: int = 4, **entries: object) -> AutoencoderKL:
    """An AutoencoderKL of `levels` levels, with weights from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(levels)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(width,) * levels,
            layers_per_block=1,
            norm_num_groups=groups,
            **entries,
        ).eval()


def make_vae(kind: str) -> AutoencoderKL | AutoencoderTiny:
    """One of `KINDS`."""
    if kind != "taesd":
        return make_kl(**ENTRIES[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        ).eval()


def save_vae(kind: str, folder: Path) -> Path:
    """Save one of `KINDS` as diffusers does; returns the folder."""
    make_vae(kind).save_pretrained(folder)
    return folder


def picture(side: int = 32) -> Tensor:
    """Random pixels, `[1,3,side,side]` in [-1,1]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0


def latent_of(vae: AutoencoderKL | AutoencoderTiny, x: Tensor) -> Tensor:
    """The latent that stock code gives."""
    encoded = vae.encode(x)
    return encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mean


def entries_of(vae: AutoencoderKL | AutoencoderTiny) -> dict[str, object]:
    """The entries of its config.json but for those that say where and with which version it was saved."""
    return {key: _listed(value) for key, value in vae.config.items() if not key.startswith("_")}


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
