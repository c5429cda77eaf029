"""One rule decides every claim: it takes an interval and the promised side of a threshold, and gives a verdict.

Confirmed: the whole 95 % interval lies on the promised side. Refuted: none of it does; the threshold itself is not on
the promised side, so "sharper" is refuted by a difference of exactly 0. Undecided: everything else.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jeppa.lab.statistics import bootstrap_mean
from results.record import mean_interval

Array = NDArray[np.float64]
Verdict = Literal["confirmed", "refuted", "undecided", "not measured"]


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval.

    Args:
        value: the estimate.
        lo: lower end, NaN where too few values are known for an interval.
        hi: upper end, NaN likewise.
        by_seed: the estimate of each seed, in their order.
        images: number of images, or pairs of images, that were measured; 0 for a figure of whole runs.
    """

    value: float
    lo: float
    hi: float
    by_seed: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class Promise:
    """Where the figure must lie: above `low`, below `high`, or between them."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """As the tables show it."""
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        return f"above {self.low:g}" if self.low is not None else f"below {self.high:g}"


def average_images(values: Array) -> Figure:
    """Mean over images of the mean over seeds, with a bootstrap interval over the images.

    Args:
        values: `[seeds,images]`; NaN where an image has no value.
    """
    kept = values[:, ~np.isnan(values).any(0)]
    estimate = bootstrap_mean(kept.mean(0))
    by_seed = tuple(kept.mean(1).tolist()) if kept.size else ()
    return Figure(estimate.mean, estimate.lo, estimate.hi, by_seed, estimate.count)


def average_seeds(values: Array, ratio: bool = False) -> Figure:
    """Mean over seeds with a t-interval, for a figure of which every run has one value.

    Args:
        values: `[seeds]`; a single one has no interval.
        ratio: whether to average the logarithms, so that 2 and 1/2 cancel.
    """
    ends = np.array(mean_interval((np.log(values) if ratio else values).tolist()))
    value, lo, hi = (np.exp(ends) if ratio else ends).tolist()
    return Figure(value, lo, hi, tuple(values.tolist()), 0)


def decide(figure: Figure, promise: Promise) -> Verdict:
    """Apply the rule; a figure without an interval is undecided."""
    if np.isnan(figure.lo) or np.isnan(figure.hi):
        return "undecided"
    low = -np.inf if promise.low is None else promise.low
    high = np.inf if promise.high is None else promise.high
    if low < figure.lo and figure.hi < high:
        return "confirmed"
    return "refuted" if figure.hi <= low or figure.lo >= high else "undecided"
