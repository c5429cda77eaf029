"""Confidence interval of a mean over images: the image is resampled, as its pixels are correlated."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval, in the unit of the metric.

    Args:
        mean: mean over the images that have a value; NaN if none has.
        lo: lower end of the interval; NaN for fewer than two values, which say nothing about spread.
        hi: upper end, likewise.
        count: images that the mean is over.
        dropped: images without a value (NaN).
    """

    mean: float
    lo: float
    hi: float
    count: int
    dropped: int


def bootstrap_mean(values: NDArray[np.floating], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean of a per-image metric with a percentile bootstrap interval; the same inputs give the same result.

    For two models on the same images give the differences per image: the interval is then that of the pair.
    Below about 20 images the interval is too narrow (a known bias of the percentile method).

    Args:
        values: one value for each image, `[N]`; NaN means "no value" and is dropped and counted.
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: if `values` is not one-dimensional.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}, but must be one number for each image")
    kept = values[~np.isnan(values)]
    dropped = values.size - kept.size
    if kept.size < 2:
        mean = float(kept[0]) if kept.size else float("nan")
        return Estimate(mean, float("nan"), float("nan"), count=kept.size, dropped=dropped)
    interval = bootstrap(
        (kept,),
        np.mean,
        n_resamples=resamples,
        batch=100,  # bounds the memory: a batch is 100 * N floats
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(kept.mean()), float(interval.low), float(interval.high), count=kept.size, dropped=dropped)
