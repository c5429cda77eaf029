"""Embed saved pictures and maps in the page as PNGs, shrunk so that the page stays below about 15 MB.

All sigma and error maps of a page share one scale in 8-bit grey levels, so equal colours mean equal numbers. The
palette is that of the command line. A contact sheet of a comparison shows one held-out picture, the arms side by side.
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
from PIL import Image, UnidentifiedImageError

from jeppa.data.images import COLORMAP, describe_scale
from jeppa.errors import DataError
from jeppa.lab.contract import AGAIN, Comparison, Reconstruction, SavedPictures, find_file
from jeppa.lab.report.compare_tables import Entry

MAX_SIDE = 512
PIXEL_BUDGET = 6_000_000
"""Pixels of all reconstructions together: about 10 MB, at about 1.3 bytes a pixel in PNG and a third more in base64."""
DETAIL_SIDE = 64
SMALL_SIDE = 256
"""Pictures with fewer pixels a side are enlarged, and their pixels stay squares."""
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
        """Whether it is enlarged so that its pixels stay squares."""
        return max(self.width, self.height) < SMALL_SIDE


@dataclass(frozen=True)
class ColourScale:
    """The legend of all maps: colours from 0 to `top` grey levels; larger values take the colour of `top`."""

    top: float
    bar: Picture
    ticks: tuple[float, ...]


def read_picture(folder: Path, name: str) -> Image.Image:
    """Read a saved picture as 8-bit RGB.

    Raises:
        DataError: it is missing or no picture.
    """
    path = find_file(folder, name)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        raise DataError(f"{path}: not a readable picture; {AGAIN}") from None


def read_map(folder: Path, name: str) -> NDArray[np.float32]:
    """Read a saved sigma or error map: float32 `[H,W]`, 8-bit grey levels, finite.

    Raises:
        DataError: it is missing or no such map.
    """
    path = find_file(folder, name)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: not a readable .npy array; {AGAIN}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(f"{path}: must hold floats of shape [H,W]; {AGAIN}")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinite values; {AGAIN}")
    return values.astype(np.float32)


def longest_side(count: int) -> int:
    """Longest side in pixels at which `count` pictures stay within the budget."""
    return min(MAX_SIDE, math.isqrt(PIXEL_BUDGET // max(count, 1)))


def embed_photo(image: Image.Image, alt: str, side: int = MAX_SIDE) -> Picture:
    """Embed a picture, shrunk to `side` if it is larger."""
    return _embed_png(image.resize(_fit_size(image.size, side), Image.Resampling.LANCZOS), alt)


def embed_detail(image: Image.Image, alt: str) -> Picture:
    """Embed the middle of a picture pixel for pixel, because shrinking would average its noise away."""
    left, top = (max(0, (length - DETAIL_SIDE) // 2) for length in image.size)
    return _embed_png(
        image.crop((left, top, left + min(DETAIL_SIDE, image.width), top + min(DETAIL_SIDE, image.height))), alt
    )


def colour_scale(sigmas: Sequence[NDArray[np.float32]]) -> ColourScale:
    """Make the scale from 0 to the 99th percentile of all sigmas, rounded up to a multiple of `TICKS` levels."""
    values = np.concatenate([sigma.ravel() for sigma in sigmas]) if sigmas else np.ones(1, np.float32)
    top = max(TICKS, TICKS * math.ceil(float(np.quantile(values, SCALE_QUANTILE)) / TICKS))
    ramp = np.linspace(0.0, top, 256, dtype=np.float32)[None]
    bar = _embed_png(_apply_palette(ramp, top), f"Colour bar: {describe_scale(top)}")
    return ColourScale(top, bar, tuple(top * n / TICKS for n in range(TICKS + 1)))


def embed_map(levels: NDArray[np.float32], scale: ColourScale, alt: str, side: int = MAX_SIDE) -> Picture:
    """Embed a map in the colours of the scale; shrinking averages the levels and not the colours.

    Args:
        levels: `[H,W]`, 8-bit grey levels.
        scale: the legend that the page shows.
        alt: what it shows, in words.
        side: longest side in pixels.
    """
    height, width = levels.shape
    shrunk = Image.fromarray(levels).resize(_fit_size((width, height), side), Image.Resampling.BOX)
    return _embed_png(_apply_palette(np.asarray(shrunk), scale.top), alt)


def _apply_palette(levels: NDArray[np.float32], top: float) -> Image.Image:
    """Make a picture of 256 colours with an index for each pixel."""
    index = np.clip(np.rint(levels * (255.0 / top)), 0, 255).astype(np.uint8)
    image = Image.fromarray(index, mode="L")
    image.putpalette(colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3].tobytes())
    return image


def _fit_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Shrink a size so that its longest side is at most `side`; a smaller size stays as it is."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _embed_png(image: Image.Image, alt: str) -> Picture:
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
    """One kind of picture for every arm.

    Args:
        name: for people.
        text: what it shows.
        compare: whether the reader can wipe the original over it.
        original: the original beside it; None where it would be shown again.
        pictures: one for each arm; None where an arm has none.
    """

    name: str
    text: str
    compare: bool
    original: Picture | None
    pictures: list[Picture | None]


@dataclass(frozen=True)
class Sheet:
    """A held-out picture, the arms that reconstructed it, and their pictures."""

    name: str
    arms: list[Entry]
    lines: list[SheetLine]


@dataclass(frozen=True)
class Sheets:
    """All held-out pictures and the scale that their maps share."""

    sheets: list[Sheet]
    scale: ColourScale


def contact_sheets(folder: Path, comparison: Comparison, arms: Sequence[Entry]) -> Sheets | None:
    """Make the sheets, shrunk so that all fit into the budget of the page; None if there are no pictures."""
    if not comparison.gallery:
        return None
    sigmas = [saved.sigma for row in comparison.gallery for saved in row.arms.values() if saved.sigma]
    scale = colour_scale([read_map(folder, name) for name in sigmas])
    count = sum(1 + sum(len(list(_list_pictures(saved))) for saved in row.arms.values()) for row in comparison.gallery)
    side = longest_side(count)
    return Sheets([_read_sheet(folder, row, arms, scale, side) for row in comparison.gallery], scale)


def _read_sheet(folder: Path, row: Reconstruction, arms: Sequence[Entry], scale: ColourScale, side: int) -> Sheet:
    shown = [entry for entry in arms if entry.arm in row.arms]
    original = read_picture(folder, row.original)
    whole = embed_photo(original, f"Original picture {row.name}", side)
    lines = []
    for kind, (name, text) in KINDS.items():
        pictures = [_read_picture(folder, row, entry, kind, scale, side) for entry in shown]
        if any(pictures):
            lines.append(SheetLine(name, text, kind in PHOTOS, whole if kind == "recon" else None, pictures))
        if kind == "draw" and any(pictures):
            crop = embed_detail(original, f"Detail of the original {row.name}")
            lines.append(SheetLine(*DETAIL, False, crop, [_read_detail(folder, row, entry) for entry in shown]))
    return Sheet(row.name, shown, lines)


def _read_detail(folder: Path, row: Reconstruction, entry: Entry) -> Picture | None:
    name = row.arms[entry.arm].draw
    return (
        embed_detail(read_picture(folder, name), f"Detail of the draw of {row.name}, {entry.label}") if name else None
    )


def _read_picture(
    folder: Path, row: Reconstruction, entry: Entry, kind: str, scale: ColourScale, side: int
) -> Picture | None:
    name = dict(_list_pictures(row.arms[entry.arm])).get(kind)
    if name is None:
        return None
    alt = f"{KINDS[kind][0]} of {row.name}, {entry.label}"
    if kind in PHOTOS:
        return embed_photo(read_picture(folder, name), alt, side)
    return embed_map(read_map(folder, name), scale, f"{alt}: {describe_scale(scale.top)}", side)


def _list_pictures(saved: SavedPictures) -> Iterator[tuple[str, str]]:
    """Kind and file of each picture that an arm has."""
    files = {"recon": saved.recon, "draw": saved.draw, "sigma": saved.sigma, "error": saved.error}
    return ((kind, name) for kind, name in files.items() if name)
