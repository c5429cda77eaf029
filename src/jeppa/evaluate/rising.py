"""The rising curve from predicted to right log-variance, fitted by likelihood.

Two numbers cannot mend a sigma that is too small in the middle and too large at the ends, as ours is on photographs
(`results/calibration.md`). Source of the idea: isotonic recalibration, Kuleshov et al., arXiv 1807.00263.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from jeppa.evaluate.recalibrate import Sample, negative_log_density

Array = NDArray[np.float64]

OUTERMOST = 0.02
"""Share of the values below the first knot and above the last one."""

LEAST_GAP = 1e-3
"""Nats between two knots at least."""

LEAST_SLOPE = 0.05
"""Pixels of different sigma keep different sigmas."""


def fit_rising(sets: Sequence[Sequence[Sample]], knots: int) -> tuple[Array, Array]:
    """The knots of the curve of least negative log-likelihood: predicted and right log-variance, `[knots]` each.

    Knots lie at even shares of the predicted log-variance, and the curve rises with a slope of at least `LEAST_SLOPE`.

    Args:
        sets: samples of each set of images; every set weighs the same, however large.
        knots: 2 or more; 1 would be an offset.
    """
    squared = np.concatenate([one.squared for samples in sets for one in samples])
    logvar = np.concatenate([one.logvar for samples in sets for one in samples])
    df = np.concatenate([np.full(len(one.squared), one.df or np.inf) for samples in sets for one in samples])
    sizes = [sum(len(one.squared) for one in samples) for samples in sets]
    weight = np.concatenate([np.full(size, 1.0 / (size * len(sizes))) for size in sizes])

    at = _spread(_quantiles(logvar, weight, np.linspace(OUTERMOST, 1.0 - OUTERMOST, knots)))
    piece = np.clip(np.searchsorted(at, logvar) - 1, 0, knots - 2)
    share = np.clip((logvar - at[piece]) / (at[piece + 1] - at[piece]), 0.0, 1.0)
    beyond = logvar - np.clip(logvar, at[0], at[-1])

    def loss(rises: Array) -> tuple[float, Array]:
        to = np.cumsum(rises)
        nll, slope = negative_log_density(squared, (1.0 - share) * to[piece] + share * to[piece + 1] + beyond, df)
        slope *= weight
        by_knot = np.bincount(piece, slope * (1.0 - share), knots) + np.bincount(piece + 1, slope * share, knots)
        return float((nll * weight).sum()), by_knot[::-1].cumsum()[::-1]

    bounds = [(None, None), *((LEAST_SLOPE * gap, None) for gap in np.diff(at))]
    found = minimize(loss, np.diff(at, prepend=0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    return at, np.cumsum(found.x)


def _quantiles(values: Array, weight: Array, shares: Array) -> Array:
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    result: Array = np.interp(shares, reached / reached[-1], values[order])
    return result


def _spread(at: Array) -> Array:
    """The same in rising order, also where many are equal."""
    ramp = LEAST_GAP * np.arange(len(at))
    result: Array = np.maximum.accumulate(at - ramp) + ramp
    return result
