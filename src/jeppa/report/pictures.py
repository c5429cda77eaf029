"""Saved pictures and maps -> PNGs inside the page, shrunk so that the page stays below about 15 MB.

Sigma and error maps share one colour scale in 8-bit grey levels: equal colours are equal numbers.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE = 512
PIXEL_BUDGET = 6_000_000
"""Pixels of all reconstruction pictures together: at about 1.3 bytes a pixel in PNG, and a third more in
base64, about 10 MB."""

DETAIL_SIDE = 64
SMALL_SIDE = 256
"""Below this many pixels a picture is shown larger than it is, with its pixels kept square."""

COLOURS = "inferno"
SCALE_QUANTILE = 0.99
TICKS = 4


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Args:
        uri: `data:image/png;base64,...`.
        alt: what it shows, in words.
        width: pixels, after shrinking.
        height: pixels, after shrinking.
    """

    uri: str
    alt: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether to keep its pixels square when it is enlarged."""
        return max(self.width, self.height) < SMALL_SIDE


@dataclass(frozen=True)
class ColourScale:
    """The legend of all maps: colours from 0 to `top` grey levels; larger values have the colour of `top`."""

    top: float
    bar: Picture
    ticks: tuple[float, ...]


def longest_side(count: int) -> int:
    """Longest side in pixels for `count` pictures, so that together they keep within the budget."""
    return min(MAX_SIDE, math.isqrt(PIXEL_BUDGET // max(count, 1)))


def photo(image: Image.Image, alt: str, side: int = MAX_SIDE) -> Picture:
    """A picture as it is, or shrunk to `side`."""
    return _as_png(image.resize(_fitting(image.size, side), Image.Resampling.LANCZOS), alt)


def detail(image: Image.Image, alt: str) -> Picture:
    """The middle of a picture, pixel for pixel: shrinking would average noise away."""
    left, top = (max(0, (length - DETAIL_SIDE) // 2) for length in image.size)
    return _as_png(
        image.crop((left, top, left + min(DETAIL_SIDE, image.width), top + min(DETAIL_SIDE, image.height))), alt
    )


def colour_scale(sigmas: Sequence[NDArray[np.float32]]) -> ColourScale:
    """Scale from 0 to the 99th percentile of all sigma values, rounded up to a multiple of `TICKS` levels."""
    values = np.concatenate([sigma.ravel() for sigma in sigmas]) if sigmas else np.ones(1, np.float32)
    top = max(TICKS, TICKS * math.ceil(float(np.quantile(values, SCALE_QUANTILE)) / TICKS))
    ramp = np.linspace(0.0, top, 256, dtype=np.float32)[None]
    bar = _as_png(_coloured(ramp, top), f"Colour bar from 0 (dark) to {top} grey levels (bright)")
    return ColourScale(top, bar, tuple(top * n / TICKS for n in range(TICKS + 1)))


def colour_map(levels: NDArray[np.float32], scale: ColourScale, alt: str, side: int = MAX_SIDE) -> Picture:
    """A map in the colours of the scale; shrinking averages the levels, not the colours.

    Args:
        levels: `[H,W]`, 8-bit grey levels.
        scale: the legend that the page shows.
        alt: what it shows, in words.
        side: longest side in pixels.
    """
    height, width = levels.shape
    shrunk = Image.fromarray(levels).resize(_fitting((width, height), side), Image.Resampling.BOX)
    return _as_png(_coloured(np.asarray(shrunk), scale.top), alt)


def _coloured(levels: NDArray[np.float32], top: float) -> Image.Image:
    """A picture of 256 colours, an index for each pixel."""
    index = np.clip(np.rint(levels * (255.0 / top)), 0, 255).astype(np.uint8)
    image = Image.fromarray(index, mode="L")
    image.putpalette(colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].tobytes())
    return image


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size with the same shape whose longest side is at most `side`; never enlarged."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _as_png(image: Image.Image, alt: str) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", alt, *image.size)
