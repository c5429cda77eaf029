"""Contact sheets of a comparison: one held-out picture each, the arms side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jeppa.report.compare_arms import Entry
from jeppa.report.compare_saved import Comparison, SheetPictures, SheetRow
from jeppa.report.files import read_image, read_map
from jeppa.report.pictures import (
    DETAIL_SIDE,
    ColourScale,
    Picture,
    colour_map,
    colour_scale,
    detail,
    longest_side,
    photo,
)

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
        pictures = [_picture(folder, row, entry, kind, scale, side) for entry in shown]
        if any(pictures):
            lines.append(SheetLine(name, text, kind in PHOTOS, whole if kind == "recon" else None, pictures))
        if kind == "draw" and any(pictures):
            crop = detail(original, f"Detail of the original {row.name}")
            lines.append(SheetLine(*DETAIL, False, crop, [_detail(folder, row, entry) for entry in shown]))
    return Sheet(row.name, shown, lines)


def _detail(folder: Path, row: SheetRow, entry: Entry) -> Picture | None:
    name = row.arms[entry.arm].draw
    return detail(read_image(folder, name), f"Detail of the draw of {row.name}, {entry.label}") if name else None


def _picture(folder: Path, row: SheetRow, entry: Entry, kind: str, scale: ColourScale, side: int) -> Picture | None:
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
