"""One rule for all claims: an interval, a side that was promised, a verdict.

confirmed: the whole 95 % interval lies on the promised side of the threshold. refuted: none of it does, so the
threshold itself counts as the other side ("sharper" is refuted by a difference of exactly 0). undecided: the rest.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from jeppa.lab.statistics import CONFIDENCE, bootstrap_mean

Array = NDArray[np.float64]
Verdict = Literal["confirmed", "refuted", "undecided", "not measured"]


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval.

    Args:
        value: the estimate.
        lo: lower end, NaN where there is too little to tell.
        hi: upper end, likewise.
        by_seed: the estimate of each seed, in their order.
        images: images (or pairs of them) that it rests on; 0 for a figure of whole runs.
    """

    value: float
    lo: float
    hi: float
    by_seed: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class Promise:
    """Where the figure must lie: above `low`, below `high`, or between both (either may be absent)."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """In words, as the tables print it."""
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        return f"above {self.low:g}" if self.low is not None else f"below {self.high:g}"


def over_images(values: Array) -> Figure:
    """Mean over images of the mean over seeds, with a bootstrap interval over images.

    Args:
        values: `[seeds,images]`; NaN where an image has no value.
    """
    kept = values[:, ~np.isnan(values).any(0)]
    found = bootstrap_mean(kept.mean(0))
    return Figure(found.mean, found.lo, found.hi, tuple(kept.mean(1).tolist()) if kept.size else (), found.count)


def over_seeds(values: Array, ratio: bool = False) -> Figure:
    """Mean over seeds with Student's t interval, for figures that a run has one of.

    Args:
        values: `[seeds]`; one alone has no interval.
        ratio: average the logarithms, so that 2 and 1/2 cancel.
    """
    scale = np.log(values) if ratio else values
    mean = scale.mean()
    half = np.nan
    if len(values) > 1:
        quantile = float(student.ppf(0.5 + CONFIDENCE / 2.0, len(values) - 1))
        half = quantile * scale.std(ddof=1) / np.sqrt(len(values))
    ends = np.array([mean, mean - half, mean + half])
    value, lo, hi = (np.exp(ends) if ratio else ends).tolist()
    return Figure(value, lo, hi, tuple(values.tolist()), 0)


def decide(figure: Figure, promise: Promise) -> Verdict:
    """The rule of the module's docstring."""
    if np.isnan(figure.lo) or np.isnan(figure.hi):
        return "undecided"
    low = -np.inf if promise.low is None else promise.low
    high = np.inf if promise.high is None else promise.high
    if low < figure.lo and figure.hi < high:
        return "confirmed"
    return "refuted" if figure.hi <= low or figure.lo >= high else "undecided"
