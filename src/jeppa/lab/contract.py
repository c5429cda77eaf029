"""The contracts of `report.json` and `compare.json`: `demo` and `compare` write them, `report` reads them.

Writer and reader share these models, so a key that one of them misspells is an error. A file may leave whole sections
out; it may not hold an unknown key, and its sections may only name arms that the file lists.

Every file name in these results is relative to their folder and stays inside it. A file that is named but missing,
damaged or of the wrong kind is a `DataError`.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from jeppa.errors import DataError
from jeppa.files import write_text_atomically

REPORT_FILE, COMPARISON_FILE = "report.json", "compare.json"
AGAIN = "save the results again"
Content = TypeVar("Content", bound=BaseModel)
Moment = Annotated[datetime, PlainSerializer(datetime.isoformat, when_used="json")]
"""With its time zone, `2026-11-22T14:00:00+00:00` in a file."""
Ends = list[float | None]
"""Of a 95 % interval; both null where there is none."""


class Saved(BaseModel):
    """Base of all parts of the contracts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SavedPictures(Saved):
    """What one arm made of one picture: PNGs, and maps as float32 `[H,W]` in 8-bit grey levels.

    `draw` is the reconstruction plus a residual drawn from the predicted distribution.
    """

    recon: str
    draw: str | None = None
    sigma: str | None = None
    error: str | None = None


class Reconstruction(Saved):
    """One held-out picture and what each arm made of it."""

    name: str
    original: str
    arms: dict[str, SavedPictures]


class ReliabilityCurve(Saved):
    """Root mean square of predicted sigma and of the error, in bins of rising sigma, 8-bit grey levels."""

    predicted: list[float | None]
    observed: list[float | None]


class Sparsification(Saved):
    """Error of the pixels that remain after a share of them is removed, for three orders of removal.

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


class ReportedArm(Saved):
    """One VAE; its folder holds `metrics.json` and, where it was trained for this report (`steps`), `log.jsonl`."""

    arm: str
    title: str
    run: str
    steps: int | None = None
    images: int | None = None
    parameters: int | None = None


class Calibration(ReliabilityCurve):
    """How well one arm's sigma fits; `pit` has the share of true values in equal parts of the predicted quantile."""

    sparsification: Sparsification | None = None
    pit: list[float | None] | None = None


class SampleRow(Saved):
    """Pictures drawn with the same number of DDIM steps, one for each seed."""

    steps: int
    images: list[str]
    seconds: float | None = None


class EstimatedPicture(Saved):
    """The clean picture as estimated in step `index`, at timestep `t`, while one sample forms."""

    index: int | None = None
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
    """The content of `report.json`.

    `paired` has, for each figure of single pictures, the mean difference of the leading arm to the other one and the
    ends of its 95 % interval.
    """

    title: str = "jeppa report"
    command: str | None = None
    seed: int | None = None
    created: Moment | None = None
    machine: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    data: Data | None = None
    arms: list[ReportedArm] = Field(min_length=1)
    leading: str | None = None
    reconstructions: list[Reconstruction] = []
    calibration: dict[str, Calibration] = {}
    paired: dict[str, tuple[float, float, float]] = {}
    samples: list[SampleRow] = []
    sample_labels: list[str | None] | None = None
    sample_seeds: list[int] | None = None
    estimates: list[EstimatedPicture] = []
    interpolation: Interpolation | None = None
    diffusion: Diffusion | None = None

    @model_validator(mode="after")
    def _arms_are_listed(self) -> Self:
        known = [arm.arm for arm in self.arms]
        _check_arms("leading", [self.leading] if self.leading else [], known)
        _check_arms("reconstructions", (arm for row in self.reconstructions for arm in row.arms), known)
        _check_arms("calibration", self.calibration, known)
        return self

    @property
    def lead(self) -> ReportedArm:
        """The arm whose sigma the page is about: the one named as leading, else `faithful`, else the first one."""
        wanted = self.leading or "faithful"
        return next((arm for arm in self.arms if arm.arm == wanted), self.arms[0])

    @property
    def twin(self) -> ReportedArm | None:
        """The arm with one shared sigma, otherwise trained as the lead; None if it is not there."""
        return next((arm for arm in self.arms if arm.arm == "shared" and arm is not self.lead), None)


class Value(Saved):
    """A metric: mean, 95 % interval, and the value of each seed where there are seeds."""

    mean: float | None = None
    ci95: Ends | None = None
    per_seed: list[float | None] = []


class ComparedArm(Saved):
    """One way to learn sigma, trained once for each seed; each of `runs` is a run folder that holds `log.jsonl`."""

    arm: str
    title: str
    seed_count: int | None = None
    parameters: int | None = None
    train_seconds: list[float] = []
    beta: list[float | None] = []
    runs: list[str] = []
    metrics: dict[str, Value] = {}


class Rate(Saved):
    """The rate of an arm over that of the reference.

    Args:
        ratio: mean over seeds.
        per_seed: ratio of each seed.
        matched: whether all seeds are within the tolerance.
        adapted: whether beta was adapted to reach the rate of the reference.
    """

    ratio: float | None = None
    per_seed: list[float] = []
    matched: bool | None = None
    adapted: bool | None = None


class Budget(Saved):
    """What every arm was given; `reference` names the arm that the others are compared with."""

    data: str | None = None
    seeds: list[int] = []
    steps: int | None = None
    preset: str | None = None
    resolution: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    colour_jitter: float | None = None
    evaluate_at: int | None = None
    data_fingerprint: str | None = None
    images: int | None = None
    heldout_images: int | None = None
    reference: str | None = None
    rate_tolerance: float | None = None
    rates: dict[str, Rate] = {}


class Pair(Saved):
    """Metric `key` of arm `a` minus that of arm `b`, both measured on the same pictures and seeds."""

    a: str
    b: str
    key: str
    difference: float | None = None
    ci95: Ends | None = None
    per_seed: list[float | None] = []


class Curves(Saved):
    """The curves of one arm's sigma; see `Calibration` for `pit`."""

    reliability: ReliabilityCurve | None = None
    sparsification: Sparsification | None = None
    pit: list[float | None] | None = None


class Comparison(Saved):
    """The content of `compare.json`; `reasons` tells for each arm why a metric is null."""

    title: str = "jeppa compare"
    created: Moment | None = None
    machine: dict[str, Any] = {}
    budget: Budget = Budget()
    arms: list[ComparedArm] = Field(min_length=1)
    reasons: dict[str, dict[str, str]] = {}
    paired: list[Pair] = []
    codecs: dict[str, Value] = {}
    curves: dict[str, Curves] = {}
    gallery: list[Reconstruction] = []
    command: str | None = None
    seconds: float | None = None

    @model_validator(mode="after")
    def _arms_are_listed(self) -> Self:
        known = [arm.arm for arm in self.arms]
        _check_arms("budget.reference", [self.budget.reference] if self.budget.reference else [], known)
        _check_arms("budget.rates", self.budget.rates, known)
        _check_arms("reasons", self.reasons, known)
        _check_arms("paired", (arm for pair in self.paired for arm in (pair.a, pair.b)), known)
        _check_arms("curves", self.curves, known)
        _check_arms("gallery", (arm for row in self.gallery for arm in row.arms), known)
        return self


def write_saved(content: Saved, path: Path) -> None:
    """Write the keys that were set as JSON, so that the file is whole or not there; NaN is a `ValueError`."""
    values = content.model_dump(mode="json", exclude_unset=True)
    write_text_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_saved(folder: Path, name: str, kind: type[Content]) -> Content:
    """Read a JSON file that has a contract.

    Raises:
        DataError: the file is missing, is no JSON, or breaks the contract; names the first key that does.
    """
    values = read_object(folder, name)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{folder / name}: {_explain_mismatch(error)}; {AGAIN}") from None


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object."""
    path = find_file(folder, name)
    return _parse_object(str(path), path.read_bytes())


def read_log(folder: Path, run: str) -> list[dict[str, Any]]:
    """Read the `log.jsonl` of a run folder: one object for each log step."""
    path = find_file(folder, f"{run}/log.jsonl")
    lines = path.read_bytes().splitlines()
    return [_parse_object(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def find_file(folder: Path, name: str) -> Path:
    """Path of a named file, which must lie inside the folder, so that no private file gets into the page.

    Raises:
        DataError: the name leads out of the folder, or there is no such file.
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{path}: lies outside the report's folder; name files relative to {folder}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; {AGAIN}")
    return path


def _parse_object(place: str, text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        raise DataError(f"{place}: not valid JSON; {AGAIN}") from None
    if not isinstance(values, dict):
        raise DataError(f"{place}: must hold a JSON object; {AGAIN}")
    return values


def _check_arms(section: str, names: Iterable[str], known: list[str]) -> None:
    """Refuse names that are not among the arms: what they name would be missing from the page without a word."""
    for name in names:
        if name not in known:
            raise ValueError(f"{section} names {name!r}, which is none of the arms {', '.join(known)}")


def _explain_mismatch(error: ValidationError) -> str:
    """The first mismatch in one line, without what pydantic says around it."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
