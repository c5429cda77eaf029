"""Read the files of saved results: JSON, logs, pictures, maps; whatever is wrong with one is a `DataError`.

All names are relative to the folder of the results and stay inside it.
"""

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError

from jeppa.errors import DataError

Manifest = TypeVar("Manifest", bound=BaseModel)


def read_saved(folder: Path, name: str, kind: type[Manifest]) -> Manifest:
    """Read a JSON file that has a contract.

    Raises:
        DataError: it is missing, no JSON, or breaks the contract; names the first key that does.
    """
    values = read_object(folder, name)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{folder / name}: {key}: {first['msg']}; save the results again") from None


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object."""
    path = _existing(folder, name)
    return _parse_object(path, str(path), path.read_bytes())


def read_log(folder: Path, run: str) -> list[dict[str, Any]]:
    """Read the `log.jsonl` of a run folder: one object for each log step."""
    path = _existing(folder, f"{run}/log.jsonl")
    lines = path.read_bytes().splitlines()
    return [_parse_object(path, f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def read_image(folder: Path, name: str) -> Image.Image:
    """Read a picture as 8-bit RGB."""
    path = _existing(folder, name)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        raise DataError(f"{path}: not a readable picture; save the results again") from None


def read_map(folder: Path, name: str) -> NDArray[np.float32]:
    """Read a sigma or error map: float32 `[H,W]`, 8-bit grey levels, finite."""
    path = _existing(folder, name)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: not a readable .npy array; save the results again") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(f"{path}: must hold floats of shape [H,W]; save the results again")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinite values; save the results again")
    return values.astype(np.float32)


def number(value: Any) -> float | None:
    """A finite number, or None for anything else: null, NaN, text, a flag."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(metrics: dict[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval that is saved beside metric `key`, if both of its ends are finite."""
    ends = metrics.get(f"{key}_ci95")
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    lo, hi = number(ends[0]), number(ends[1])
    return None if lo is None or hi is None else (lo, hi)


def _existing(folder: Path, name: str) -> Path:
    """Path of a named file; it must lie inside the folder, so that no other file gets into the page."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{path}: lies outside the report's folder; name files relative to {folder}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; save the results again")
    return path


def _parse_object(path: Path, place: str, text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        raise DataError(f"{place}: not valid JSON; save the results again") from None
    if not isinstance(values, dict):
        raise DataError(f"{place}: must hold a JSON object; save the results again")
    return values
