"""The saved results that a report is made from: the contract of `report.json`, and the files that it names.

All names in `report.json` are relative to its folder and stay inside it. A section that is absent is left out
of the page; a file that is named but absent, damaged or of the wrong kind is a `DataError`.
"""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jeppa.errors import DataError

MANIFEST = "report.json"


class Saved(BaseModel):
    """Base of the sections: keys of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Arm(Saved):
    """One trained VAE; its run folder holds `log.jsonl` and `metrics.json`."""

    arm: str
    title: str
    run: str
    steps: int | None = None
    images: int | None = None
    parameters: int | None = None


class ArmPictures(Saved):
    """What one arm made of one picture: a PNG and two maps, float32 `[H,W]` in 8-bit grey levels."""

    recon: str
    sigma: str | None = None
    error: str | None = None


class Reconstruction(Saved):
    """One held-out picture and what the arms made of it."""

    name: str
    original: str
    arms: dict[str, ArmPictures]


class Reliability(Saved):
    """Root mean square of predicted sigma and of the error, in bins of rising sigma, 8-bit grey levels."""

    predicted: list[float | None]
    observed: list[float | None]


class SampleRow(Saved):
    """Pictures drawn with the same number of DDIM steps, one for each seed."""

    steps: int
    images: list[str]
    seconds: float | None = None


class Estimate(Saved):
    """The clean picture as estimated at timestep `t` on the way of one sample."""

    t: int
    image: str


class Interpolation(Saved):
    """Frames from picture `a` to picture `b`."""

    a: str
    b: str
    frames: list[str]


class Scene(Saved):
    """One picture of the data set."""

    name: str
    label: str | None = None


class Data(Saved):
    """The data set and its split."""

    name: str
    train: list[Scene] = []
    heldout: list[Scene] = []
    fingerprint: str | None = None


class Diffusion(Saved):
    """The trained latent denoiser; its run folder holds `log.jsonl`."""

    run: str
    steps: int | None = None
    parameters: int | None = None


class Report(Saved):
    """The content of `report.json`."""

    arms: list[Arm] = Field(min_length=1)
    title: str = "jeppa report"
    command: str | None = None
    seed: int | None = None
    created: datetime | None = None
    machine: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    data: Data | None = None
    reconstructions: list[Reconstruction] = []
    calibration: dict[str, Reliability] = {}
    samples: list[SampleRow] = []
    sample_labels: list[str | None] | None = None
    sample_seeds: list[int] | None = None
    estimates: list[Estimate] = []
    interpolation: Interpolation | None = None
    diffusion: Diffusion | None = None

    @property
    def lead(self) -> Arm:
        """The heteroscedastic arm, whose sigma the page is about: `faithful`, else the first one."""
        return next((arm for arm in self.arms if arm.arm == "faithful"), self.arms[0])

    @property
    def twin(self) -> Arm | None:
        """The arm with one shared sigma, otherwise trained as the lead; None if it is not there."""
        return next((arm for arm in self.arms if arm.arm == "shared" and arm is not self.lead), None)


def read_report(folder: Path) -> Report:
    """Read `report.json`.

    Raises:
        DataError: it is missing, no JSON, or breaks the contract; names the first key that does.
    """
    values = read_object(folder, MANIFEST)
    try:
        return Report.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{folder / MANIFEST}: {key}: {first['msg']}; save the results again") from None


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
