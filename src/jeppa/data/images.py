"""Pixels to x and back: the only place with range conversion.

Inside the package an image is x, float32 `[3,H,W]` in [-1,1]; `jeppa.data.decode` gives 8-bit sRGB "pixels", uint8
`[H,W,3]`.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jeppa.data.decode import Pixels, read_pixels
from jeppa.errors import DataError

LEVELS_PER_UNIT = 127.5
"""8-bit grey levels in one unit of `x`: x = level / 127.5 - 1."""


def read_image(source: Path | bytes, name: str | None = None) -> Tensor:
    """Decode one image to x, float32 `[3,H,W]` in [-1,1]; arguments and errors as `read_pixels`."""
    return to_x(read_pixels(source, name))


def to_x(pixels: Pixels) -> Tensor:
    """Scale uint8 `[H,W,3]` to x, float32 `[3,H,W]`: x = pixels / 127.5 - 1."""
    channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return torch.from_numpy(channels_first).float().div_(LEVELS_PER_UNIT).sub_(1.0)


def to_pixels(x: Tensor) -> Pixels:
    """Scale x `[3,H,W]`, any float dtype, to the nearest uint8 `[H,W,3]`; values outside [-1,1] are clamped.

    Raises:
        DataError: if `x` has another shape or holds NaN or infinity.
    """
    if x.dim() != 3 or x.shape[0] != 3:
        raise DataError(f"an image must have shape [3,H,W], but this has {list(x.shape)}: pass one RGB image")
    levels = x.detach().float().cpu()
    if not bool(torch.isfinite(levels).all()):
        raise DataError("the image holds NaN or infinity: check the model that made it")
    levels = levels.clamp(-1.0, 1.0).add(1.0).mul(LEVELS_PER_UNIT).round()
    return np.ascontiguousarray(levels.to(torch.uint8).permute(1, 2, 0).numpy())


def fit(pixels: Pixels, resolution: int) -> Pixels:
    """Cut the largest centred square and resize it with Lanczos: uint8 `[resolution,resolution,3]`."""
    height, width, _ = pixels.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.array(square.resize((resolution, resolution), Image.Resampling.LANCZOS))
