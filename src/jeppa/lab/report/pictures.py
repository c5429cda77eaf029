"""Saved pictures and maps -> PNGs inside the page, shrunk so that the page stays below about 15 MB.

Sigma and error maps share one colour scale in 8-bit grey levels: equal colours are equal numbers.

Contact sheets of a comparison show one held-out picture each, the arms side by side.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from jeppa.lab.report.compare_tables import Entry
from jeppa.lab.report.contract import Comparison, SheetPictures, SheetRow, read_image, read_map

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


KINDS = {
    "recon": ("Mean", "what the decoder returns"),
    "draw": ("Draw", "the mean plus a residual drawn from the predicted distribution"),
    "sigma": ("Sigma", "how far off it expects to be"),
    "error": ("|Error|", "how far off the mean was"),
}
DETAIL = ("Draw, detail", f"the middle {DETAIL_SIDE} pixels, not shrunk")
PHOTOS = ("recon", "draw")


@dataclass(frozen=True)
class SheetLine:
    """One kind of picture for every arm; None where an arm has none.

    Args:
        name: for people.
        text: what it shows.
        compare: whether the original can be wiped over it.
        original: what the original looks like there; None if it is not to be shown again.
        pictures: one for each arm.
    """

    name: str
    text: str
    compare: bool
    original: Picture | None
    pictures: list[Picture | None]


@dataclass(frozen=True)
class Sheet:
    """A held-out picture, the arms that have made something of it, and what."""

    name: str
    arms: list[Entry]
    lines: list[SheetLine]


@dataclass(frozen=True)
class Sheets:
    """All held-out pictures and the one scale of their maps."""

    sheets: list[Sheet]
    scale: ColourScale


def contact_sheets(folder: Path, comparison: Comparison, arms: Sequence[Entry]) -> Sheets | None:
    """The pictures, shrunk together to the page's budget; None if there are none."""
    if not comparison.gallery:
        return None
    sigmas = [saved.sigma for row in comparison.gallery for saved in row.arms.values() if saved.sigma]
    scale = colour_scale([read_map(folder, name) for name in sigmas])
    count = sum(1 + sum(len(list(_names(saved))) for saved in row.arms.values()) for row in comparison.gallery)
    side = longest_side(count)
    return Sheets([_sheet(folder, row, arms, scale, side) for row in comparison.gallery], scale)


def _sheet(folder: Path, row: SheetRow, arms: Sequence[Entry], scale: ColourScale, side: int) -> Sheet:
    shown = [entry for entry in arms if entry.arm in row.arms]
    original = read_image(folder, row.original)
    whole = photo(original, f"Original picture {row.name}", side)
    lines = []
    for kind, (name, text) in KINDS.items():
        pictures = [_read_picture(folder, row, entry, kind, scale, side) for entry in shown]
        if any(pictures):
            lines.append(SheetLine(name, text, kind in PHOTOS, whole if kind == "recon" else None, pictures))
        if kind == "draw" and any(pictures):
            crop = detail(original, f"Detail of the original {row.name}")
            lines.append(SheetLine(*DETAIL, False, crop, [_detail(folder, row, entry) for entry in shown]))
    return Sheet(row.name, shown, lines)


def _detail(folder: Path, row: SheetRow, entry: Entry) -> Picture | None:
    name = row.arms[entry.arm].draw
    return detail(read_image(folder, name), f"Detail of the draw of {row.name}, {entry.label}") if name else None


def _read_picture(
    folder: Path, row: SheetRow, entry: Entry, kind: str, scale: ColourScale, side: int
) -> Picture | None:
    name = dict(_names(row.arms[entry.arm])).get(kind)
    if name is None:
        return None
    alt = f"{KINDS[kind][0]} of {row.name}, {entry.label}"
    if kind in PHOTOS:
        return photo(read_image(folder, name), alt, side)
    levels = f"0 to {scale.top:g} grey levels, bright is large"
    return colour_map(read_map(folder, name), scale, f"{alt}: {levels}", side)


def _names(saved: SheetPictures) -> Iterator[tuple[str, str]]:
    """Kind and file of the pictures that an arm has."""
    files = {"recon": saved.recon, "draw": saved.draw, "sigma": saved.sigma, "error": saved.error}
    return ((kind, name) for kind, name in files.items() if name)
