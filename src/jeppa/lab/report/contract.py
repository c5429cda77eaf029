"""The saved results that the pages are made from: the contracts of `report.json` and `compare.json`.

A section that is absent is left out of the page; a file that is named but absent, damaged or of the wrong kind is a
`DataError`. All names are relative to the folder of the results and stay inside it.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


REPORT_FILE = "report.json"


class Saved(BaseModel):
    """Base of the sections: keys of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Arm(Saved):
    """One VAE; its folder holds `metrics.json` and, where it was trained for this report (`steps`), `log.jsonl`."""

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


class Sparsification(Saved):
    """Error of the pixels that are left after removing a share of them, in the order of three judges.

    Args:
        removed: share of pixels, 0 to 1.
        by_sigma: the largest predicted sigma goes first.
        by_sobel: the strongest edge of the reconstruction goes first; may be empty.
        oracle: the largest true error goes first; may be empty.
    """

    removed: list[float | None]
    by_sigma: list[float | None]
    by_sobel: list[float | None] = []
    oracle: list[float | None] = []


class Calibration(Reliability):
    """What one arm's sigma is worth; `pit` has the share of true values in equal parts of the predicted quantile."""

    sparsification: Sparsification | None = None
    pit: list[float | None] | None = None


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
    leading: str | None = None
    command: str | None = None
    seed: int | None = None
    created: datetime | None = None
    machine: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    data: Data | None = None
    reconstructions: list[Reconstruction] = []
    calibration: dict[str, Calibration] = {}
    samples: list[SampleRow] = []
    sample_labels: list[str | None] | None = None
    sample_seeds: list[int] | None = None
    estimates: list[Estimate] = []
    interpolation: Interpolation | None = None
    diffusion: Diffusion | None = None

    @property
    def lead(self) -> Arm:
        """The arm whose sigma the page is about: the one named as leading, else `faithful`, else the first one."""
        wanted = self.leading or "faithful"
        return next((arm for arm in self.arms if arm.arm == wanted), self.arms[0])

    @property
    def twin(self) -> Arm | None:
        """The arm with one shared sigma, otherwise trained as the lead; None if it is not there."""
        return next((arm for arm in self.arms if arm.arm == "shared" and arm is not self.lead), None)


def read_report(folder: Path) -> Report:
    """Read `report.json`.

    Raises:
        DataError: see `read_saved`.
    """
    return read_saved(folder, REPORT_FILE, Report)


COMPARISON_FILE = "compare.json"


class Value(Saved):
    """A metric: mean, 95 % interval, and the value of each seed where there are seeds."""

    mean: float | None = None
    ci95: list[float | None] | None = None
    per_seed: list[float | None] = Field(default_factory=list)


class ComparedArm(Saved):
    """One way to learn sigma, trained once for each seed; a run folder holds `log.jsonl`."""

    arm: str
    title: str
    seed_count: int | None = None
    parameters: int | None = None
    beta: list[float | None] = Field(default_factory=list)
    runs: list[str] = Field(default_factory=list)
    metrics: dict[str, Value] = Field(default_factory=dict)


class Rate(Saved):
    """The rate of an arm over that of the reference, and whether it is within the tolerance."""

    ratio: float | None = None
    matched: bool | None = None


class Budget(Saved):
    """What every arm was given; `reference` names the arm that the others are compared with."""

    data: str | None = None
    data_fingerprint: str | None = None
    preset: str | None = None
    steps: int | None = None
    images: int | None = None
    batch_size: int | None = None
    resolution: int | None = None
    seeds: list[int] = Field(default_factory=list)
    heldout_images: int | None = None
    reference: str | None = None
    rate_tolerance: float | None = None
    rates: dict[str, Rate] = Field(default_factory=dict)


class Pair(Saved):
    """Metric `key` of arm `a` minus that of arm `b`, both measured on the same pictures and seeds."""

    a: str
    b: str
    key: str
    difference: float | None = None
    ci95: list[float | None] | None = None
    per_seed: list[float | None] = Field(default_factory=list)


class SheetPictures(ArmPictures):
    """`draw` is the reconstruction plus a residual drawn from the predicted distribution."""

    draw: str | None = None


class SheetRow(Saved):
    """One held-out picture and what the arms made of it."""

    name: str
    original: str
    arms: dict[str, SheetPictures] = Field(default_factory=dict)


class Curves(Saved):
    """The curves of one arm's sigma; see `Calibration` for `pit`."""

    reliability: Reliability | None = None
    sparsification: Sparsification | None = None
    pit: list[float | None] | None = None


class Comparison(Saved):
    """The content of `compare.json`."""

    arms: list[ComparedArm] = Field(min_length=1)
    title: str = "jeppa compare"
    command: str | None = None
    created: datetime | None = None
    machine: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = None
    budget: Budget = Budget()
    reasons: dict[str, dict[str, str]] = Field(default_factory=dict)
    paired: list[Pair] = Field(default_factory=list)
    codecs: dict[str, Value] = Field(default_factory=dict)
    curves: dict[str, Curves] = Field(default_factory=dict)
    gallery: list[SheetRow] = Field(default_factory=list)


def read_comparison(folder: Path) -> Comparison:
    """Read `compare.json`.

    Raises:
        DataError: see `read_saved`.
    """
    return read_saved(folder, COMPARISON_FILE, Comparison)
