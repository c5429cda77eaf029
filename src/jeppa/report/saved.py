"""The saved results that a report is made from: the contract of `report.json`.

A section that is absent is left out of the page; a file that is named but absent, damaged or of the wrong kind is
a `DataError`, see `jeppa.report.files`.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jeppa.report.files import read_saved

MANIFEST = "report.json"


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
    return read_saved(folder, MANIFEST, Report)
