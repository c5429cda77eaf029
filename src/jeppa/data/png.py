"""Finished pictures as PNG files that carry the settings that made them.

The settings are JSON in a PNG text chunk under the key "jeppa"; viewers ignore it, `read_settings` reads it
back, and a picture therefore explains itself wherever it is copied to.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

from jeppa.data.decode import Pixels
from jeppa.data.images import to_pixels
from jeppa.errors import DataError

SETTINGS_KEY = "jeppa"


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
    # In the same folder, because os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=chunks)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or "write failed"
        raise DataError(f"{str(path)!r}: cannot be written ({reason}); check the folder and free space") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_settings(path: Path) -> dict[str, str]:
    """Read the settings that `write_png` put into a PNG.

    Raises:
        DataError: if the file is no PNG, or carries no settings of jeppa.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(SETTINGS_KEY)
        settings = None if text is None else json.loads(text)
    except (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError) as error:
        raise DataError(f"{str(path)!r}: no readable PNG with settings; pass a PNG that jeppa wrote") from error
    if not isinstance(settings, dict):
        raise DataError(f"{str(path)!r}: carries no jeppa settings; pass a PNG that jeppa wrote")
    return {str(key): str(value) for key, value in settings.items()}
