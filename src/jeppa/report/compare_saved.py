"""The saved results of `jeppa compare`: the contract of `compare.json`.

A section that is absent is left out of the page; a file that is named but absent, damaged or of the wrong kind is
a `DataError`, see `jeppa.report.files`.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from jeppa.report.files import read_saved
from jeppa.report.saved import ArmPictures, Reliability, Saved, Sparsification

MANIFEST = "compare.json"


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
    return read_saved(folder, MANIFEST, Comparison)
