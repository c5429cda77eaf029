"""A folder of pictures that carry what made them, and the sheet that shows them side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from torch import Tensor

from jeppa.data import write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import fit, to_pixels
from jeppa.data.png import SETTINGS_KEY
from jeppa.data.sheet import contact_sheet
from jeppa.errors import ConfigError

SHEET_COLUMNS = 8
SHEET_SIDE = 1024
"""Of a picture in a sheet or an animation, at most: eight by eight of these `read_pixels` still opens."""
FRAME_MILLISECONDS = 120

MadeBy = Mapping[str, str]
"""The settings that made a picture, each value as JSON."""


def make_folder(out: Path) -> None:
    """Make a folder to write into, with its parents.

    Raises:
        ConfigError: it cannot be made, for example because a file has its name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None


def made_by(**settings: Any) -> MadeBy:
    """Settings as a PNG carries them; paths become text."""
    return {key: json.dumps(value, default=str) for key, value in settings.items()}


def rows_of(pictures: Sequence[Tensor | Pixels]) -> list[Sequence[Tensor | Pixels]]:
    """Pictures in rows of eight."""
    return [pictures[i : i + SHEET_COLUMNS] for i in range(0, len(pictures), SHEET_COLUMNS)]


def write_sheet(rows: Sequence[Sequence[Tensor | Pixels]], path: Path, settings: MadeBy) -> Path:
    """Write squares of one size as one, `reduced`; returns its path."""
    write_png(contact_sheet([[reduced(picture) for picture in row] for row in rows]), path, settings)
    return path


def reduced(square: Tensor | Pixels) -> Pixels:
    """A square as pixels, scaled down to `SHEET_SIDE` if it is larger."""
    pixels = to_pixels(square) if isinstance(square, Tensor) else square
    return pixels if len(pixels) <= SHEET_SIDE else fit(pixels, SHEET_SIDE)


def write_animation(frames: Sequence[Pixels], path: Path, settings: MadeBy) -> None:
    """Write frames as a looping APNG, which is lossless."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(SETTINGS_KEY, json.dumps(dict(settings)))
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0, pnginfo=chunks)
