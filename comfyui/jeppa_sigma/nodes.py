"""The two nodes, in the form in which ComfyUI calls them.

A LATENT of ComfyUI holds what the VAE itself encodes, without any scaling factor; that is what the sigma head was
trained on. IMAGE is `[B,H,W,C]` in 0 to 1, MASK `[B,H,W]` in 0 to 1.

The head reads what goes into the decoder's last convolution. It is taken from there while ComfyUI decodes, so that
ComfyUI's choice of device and precision holds, and the picture is the one that its own node gives.
"""

import os
from typing import Any

import folder_paths  # ComfyUI's
import torch
from torch import Tensor

from .sigma_head import SigmaHead, load_head

FOLDER = "sigma_heads"
SUFFIX = ".safetensors"
LEVELS_PER_UNIT = 127.5
CATEGORY = "latent/jeppa"

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


class LoadSigmaHead:
    """Reads a file that `jeppa export --format ldm` wrote, from ComfyUI's `models/sigma_heads`."""

    RETURN_TYPES = ("SIGMA_HEAD",)
    RETURN_NAMES = ("sigma_head",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads NAME.sigma.safetensors from models/sigma_heads."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The files to choose from."""
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX)]
        return {"required": {"name": (files,)}}

    def load(self, name: str) -> tuple[SigmaHead]:
        """The head, on the CPU.

        Raises:
            ValueError: the file is gone, damaged, or holds no sigma head.
        """
        path = folder_paths.get_full_path(FOLDER, name)
        if path is None:
            raise ValueError(f"{name}: is not in models/{FOLDER}; put it there and refresh")
        return (load_head(path),)


class DecodeWithSigma:
    """Decodes a latent to the picture, sigma as a grey picture, and the places where sigma is large as a mask."""

    RETURN_TYPES = ("IMAGE", "IMAGE", "MASK")
    RETURN_NAMES = ("image", "sigma", "mask")
    FUNCTION = "decode"
    CATEGORY = CATEGORY
    DESCRIPTION = "VAE Decode that also says how far off each pixel may be."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Sockets, and sigma's two numbers in 8-bit grey levels."""
        levels = {"min": 0.1, "max": 255.0, "step": 0.1}
        return {
            "required": {
                "samples": ("LATENT",),
                "vae": ("VAE",),
                "sigma_head": ("SIGMA_HEAD",),
                "white": ("FLOAT", {"default": 32.0, **levels, "tooltip": "Sigma that is shown white, of 255 levels."}),
                "threshold": ("FLOAT", {"default": 12.0, **levels, "tooltip": "The mask is where sigma is larger."}),
            }
        }

    def decode(
        self, samples: dict[str, Tensor], vae: Any, sigma_head: SigmaHead, white: float, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Picture `[B,H,W,3]`, sigma `[B,H,W,3]` and mask `[B,H,W]`.

        Raises:
            ValueError: the VAE is of another kind than the head, or ComfyUI decoded it in tiles.
        """
        pairs = [_decode_one(vae, sigma_head, latent[None]) for latent in samples["samples"]]
        image = torch.cat([image for image, _ in pairs])
        levels = torch.cat([levels for _, levels in pairs]).to(image)
        grey = (levels / white).clamp(0.0, 1.0)[..., None].expand(*levels.shape, 3).contiguous()
        return image, grey, (levels > threshold).to(image)


def _decode_one(vae: Any, head: SigmaHead, latent: Tensor) -> tuple[Tensor, Tensor]:
    """The picture `[1,H,W,3]` and sigma in 8-bit grey levels, `[1,H,W]`, of a latent `[1,C,h,w]`."""
    last = getattr(getattr(vae.first_stage_model, "decoder", None), "conv_out", None)
    if last is None or last.weight.shape[1] != head.feature_channels:
        found = "another kind of VAE" if last is None else f"a VAE of {last.weight.shape[1]} channels"
        raise ValueError(f"the sigma head is for an AutoencoderKL of {head.feature_channels} channels, not for {found}")
    found = []

    def predict(_: torch.nn.Module, inputs: tuple[Tensor, ...], mean: Tensor) -> None:
        features = inputs[0]
        logvar = head.to(features.device)(features.float(), mean.float())
        found.append(logvar.exp().mean(1).sqrt() * LEVELS_PER_UNIT)

    handle = last.register_forward_hook(predict)
    try:
        with torch.no_grad():
            image = vae.decode(latent)
    finally:
        handle.remove()
    if len(found) != 1 or found[0].shape != image.shape[:3]:
        raise ValueError(
            "memory ran short, so ComfyUI decoded in tiles, which sigma does not know: decode less at once"
        )
    return image, found[0]
