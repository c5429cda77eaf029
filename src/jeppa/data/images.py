"""Pixels to x and back (the only place with range conversion), PNG files, and contact sheets.

Inside the package an image is x, float32 `[3,H,W]` in [-1,1]; `jeppa.data.decode` gives 8-bit sRGB "pixels", uint8
`[H,W,3]`.

Finished pictures are PNG files. A text chunk under the key "jeppa" holds the settings that made the picture, as JSON:
viewers ignore it, `read_settings` reads it back, and a copy of the picture still says how it was made.

A contact sheet puts several pictures or coloured sigma maps into one array of pixels.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from jeppa.data.decode import Pixels, read_pixels
from jeppa.errors import DataError
from jeppa.files import written_atomically

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


def fit_square(pixels: Pixels, resolution: int) -> Pixels:
    """Cut the largest centred square and resize it with Lanczos: uint8 `[resolution,resolution,3]`."""
    height, width, _ = pixels.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.array(square.resize((resolution, resolution), Image.Resampling.LANCZOS))


def fit_within(pixels: Pixels, side: int) -> Pixels:
    """Scale down with Lanczos until neither side is above `side`; a smaller picture stays as it is."""
    height, width, _ = pixels.shape
    longest = max(height, width)
    if longest <= side:
        return pixels
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


SETTINGS_KEY = "jeppa"


def png_bytes(image: Tensor | Pixels, settings: Mapping[str, str] | None = None) -> bytes:
    """A PNG in memory; arguments and errors as for `write_png`."""
    pixels = to_pixels(image) if isinstance(image, Tensor) else image
    chunks = PngImagePlugin.PngInfo()
    if settings is not None:
        chunks.add_text(SETTINGS_KEY, json.dumps(dict(settings)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def jpeg_bytes(pixels: Pixels, quality: int = 88) -> bytes:
    """A JPEG in memory, for what is looked at for a moment only: it takes a tenth of a PNG's time."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_png(image: Tensor | Pixels, path: Path, settings: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically: a reader sees the old file or the whole new one, whatever happens between.

    Args:
        image: x, float `[3,H,W]` in [-1,1], or pixels, uint8 `[H,W,3]`.
        path: the file to write or replace; its folder must exist.
        settings: what made the picture, for `read_settings`.

    Raises:
        DataError: if `image` is no image, or the file cannot be written; no partial file is left.
    """
    pixels = to_pixels(image) if isinstance(image, Tensor) else image
    chunks = PngImagePlugin.PngInfo()
    if settings is not None:
        chunks.add_text(SETTINGS_KEY, json.dumps(dict(settings)))
    try:
        with written_atomically(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=chunks)
    except OSError as error:
        reason = error.strerror or "write failed"
        raise DataError(f"{str(path)!r}: cannot be written ({reason}); check the folder and free space") from error


def read_settings(source: Path | bytes, name: str | None = None) -> dict[str, str]:
    """Read the settings that `write_png` put into a PNG.

    Args:
        source: the file, or its content.
        name: what errors call it; the path by default.

    Raises:
        DataError: if the file is no PNG, or carries no settings of jeppa.
    """
    path = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=("PNG",)) as image:
            text = image.info.get(SETTINGS_KEY)
        settings = None if text is None else json.loads(text)
    except (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError) as error:
        raise DataError(f"{path!r}: no readable PNG with settings; pass a PNG that jeppa wrote") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path!r}: carries no jeppa settings; pass a PNG that jeppa wrote")
    return {str(key): str(value) for key, value in settings.items()}


GAP = 2
BACKGROUND = 255
SIGMA_SCALE = 32.0
COLORMAP = "magma"
Levels = npt.NDArray[np.float32]


def contact_sheet(rows: Sequence[Sequence[Tensor | Pixels]]) -> Pixels:
    """Rows of pictures of one size, two white pixels apart, as uint8 `[H,W,3]`.

    Args:
        rows: pictures as x (`[3,H,W]` in [-1,1]) or pixels (uint8 `[H,W,3]`); rows may differ in length.
    """
    cells = [[to_pixels(cell) if isinstance(cell, Tensor) else cell for cell in row] for row in rows]
    height, width = cells[0][0].shape[:2]
    columns = max(len(row) for row in cells)
    shape = (len(cells) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    sheet = np.full(shape, BACKGROUND, np.uint8)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = cell
    return sheet


def sigma_levels(logvar: Tensor) -> Levels:
    """The sigma map of one image in 8-bit grey levels, float32 `[H,W]`.

    Args:
        logvar: `[3,H,W]` of x in [-1,1]; the colours' variances are averaged before the root.
    """
    sigma = logvar.float().exp().mean(0).sqrt() * LEVELS_PER_UNIT
    return np.asarray(sigma.cpu().numpy(), np.float32)


def error_levels(x: Tensor, mean: Tensor) -> Levels:
    """Absolute error of one image in 8-bit grey levels, mean over colours, float32 `[H,W]` from `[3,H,W]`."""
    error = (x - mean.clamp(-1.0, 1.0)).abs().mean(0) * LEVELS_PER_UNIT
    return np.asarray(error.cpu().numpy(), np.float32)


def colour_map(levels: Levels, full_scale: float = SIGMA_SCALE) -> Pixels:
    """Levels `[H,W]` as magma-coloured pixels `[H,W,3]`: black is 0, pale yellow `full_scale` and above."""
    shown = matplotlib.colormaps[COLORMAP](np.clip(levels / full_scale, 0.0, 1.0), bytes=True)
    return np.asarray(shown[..., :3], np.uint8)


def describe_scale(full_scale: float = SIGMA_SCALE) -> str:
    """The range of `colour_map` in words, wherever a map is shown or written."""
    return f"black 0 to pale yellow {full_scale:g} 8-bit levels"


def reconstruction_rows(x: Tensor, mean: Tensor, logvar: Tensor) -> list[list[Tensor | Pixels]]:
    """Rows for a sheet, from batches `[B,3,H,W]`: originals, reconstructions, sigma maps."""
    maps: list[Tensor | Pixels] = [colour_map(sigma_levels(picture)) for picture in logvar]
    return [list(torch.unbind(x)), list(torch.unbind(mean)), maps]
