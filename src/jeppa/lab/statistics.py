"""Confidence intervals of a mean, and calibration error (ENCE) and reliability over all pixels of all images.

Pixels of one image are correlated, so an interval resamples whole images, never pixels.

ENCE sorts all pixels of all images by sigma into bins of equal count. To keep memory small, each image becomes a
histogram over the log-variance; histograms are added up, and the sum is cut into bins of equal count. The result
differs from that of sorting the pixels themselves by no more than the width of a fine bin (4 % in sigma). Levi et
al., Evaluating and Calibrating Uncertainty Prediction in Regression Tasks, arXiv 1905.11659.

A histogram is float64 `[FINE_BINS,4]`: count, and the sums of the predicted variance, of the squared error, and of
the squared error of an image drawn from the prediction itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, sem, t
from torch import Tensor

from jeppa.data.images import LEVELS_PER_UNIT

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval, in the unit of the metric.

    Args:
        mean: mean over the images that have a value; NaN if none has.
        lo: lower end of the interval; NaN for fewer than two values, which tell nothing about the spread.
        hi: upper end of the interval, or NaN.
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

    To compare two models on the same images, pass the difference for each image: the interval is then that of the
    mean difference. Below about 20 images the interval is too narrow (a known bias of the percentile method).

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


RESAMPLES = 4000


def two_way_interval(values: NDArray[np.float64], seed: int = 0) -> list[float] | None:
    """95 % bootstrap interval of the mean of `[seeds,pictures]`; None for one value.

    Rows and columns are both resampled, so that the interval covers the luck of a training run as well as the choice
    of pictures.

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007.
    """
    seeds, pictures = values.shape
    if values.size < 2:
        return None
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), RESAMPLES) / seeds
    columns = rng.multinomial(pictures, np.full(pictures, 1.0 / pictures), RESAMPLES) / pictures
    means = np.einsum("rs,sp,rp->r", rows, values, columns)
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def t_interval(values: NDArray[np.float64]) -> list[float] | None:
    """95 % t interval of a mean over seeds, `[seeds]`; None for fewer than two."""
    if len(values) < 2:
        return None
    # The scale is applied here, because scipy returns NaN for the scale 0 of equal values.
    return [float(values.mean() + end * sem(values)) for end in t.interval(CONFIDENCE, len(values) - 1)]


Histogram = NDArray[np.float64]
FINE_BINS = 256
LOGVAR_RANGE = (-14.0, 6.0)
"""Range of the log-variance that the fine bins divide; values beyond it fall into the outermost bins.

That of the decoder lies in [-12, 4]."""
BINS = 20
"""Number of bins of equal count. ENCE grows with it, so it is the same everywhere."""
COUNT, VARIANCE, ERROR, DRAWN = range(4)
BATCH = 50


@dataclass(frozen=True)
class Reliability:
    """Predicted and real error in bins of equal count and rising sigma; they are equal where sigma is calibrated.

    Args:
        sigma: root mean predicted variance of each bin, `[BINS]`, 8-bit levels.
        error: root mean squared error of the same values, `[BINS]`, 8-bit levels.
    """

    sigma: NDArray[np.float64]
    error: NDArray[np.float64]


def histogram(order: Tensor, logvar: Tensor, squared: Tensor, drawn: Tensor) -> Histogram:
    """Histogram of one image.

    Args:
        order: log-variance that decides the bin of a value, any shape that broadcasts to `squared`.
        logvar: predicted log-variance, of such a shape too; usually the same tensor.
        squared: squared error of each value, `[1,3,H,W]`.
        drawn: squared error of a draw from the prediction, same shape; `DRAWN` in `ence` selects it.
    """
    low, high = LOGVAR_RANGE
    place = (order.float().expand_as(squared) - low) * (FINE_BINS / (high - low))
    index = place.long().clamp(0, FINE_BINS - 1).flatten()
    columns = [torch.ones_like(squared), logvar.float().exp().expand_as(squared), squared, drawn]
    sums = [torch.bincount(index, weights=column.flatten().double(), minlength=FINE_BINS) for column in columns]
    result: Histogram = torch.stack(sums, dim=1).cpu().numpy()
    return result


def replace_variance(histograms: Histogram, variance: float) -> Histogram:
    """The same bins with one variance predicted for every value, shape of `histograms`.

    In bins of its own a constant would have a single bin, in which it is right by definition. Therefore it is judged
    in the bins of another sigma.
    """
    changed = histograms.copy()
    changed[..., VARIANCE] = changed[..., COUNT] * variance
    return changed


def rescale(histograms: Histogram, reference: float, offset: float, slope: float) -> Histogram:
    """The same bins after logvar -> reference + offset + slope * (logvar - reference), by each bin's mean variance."""
    count, variance = histograms[..., COUNT], histograms[..., VARIANCE]
    logvar = np.log(np.divide(variance, count, out=np.ones_like(count), where=count > 0))
    changed = histograms.copy()
    changed[..., VARIANCE] = count * np.exp(reference + offset + slope * (logvar - reference))
    return changed


def mean_chi2(image: Histogram) -> float:
    """`jeppa.lab.calibration.chi2` of one image, up to the width of a fine bin."""
    filled = image[image[:, COUNT] > 0]
    return float((filled[:, ERROR] * filled[:, COUNT] / filled[:, VARIANCE]).sum() / filled[:, COUNT].sum())


def reliability(summed: Histogram, column: int = ERROR) -> Reliability:
    """Cut a summed histogram into `BINS` bins of equal count; a fine bin at a border is divided in proportion."""
    reached = np.cumsum(np.vstack([np.zeros(4), summed]), axis=0)
    borders = np.linspace(0.0, reached[-1, COUNT], BINS + 1)
    parts = [np.diff(np.interp(borders, reached[:, COUNT], reached[:, i])) for i in (VARIANCE, column)]
    # Differences of sums may fall below zero by rounding.
    predicted, observed = (np.sqrt(np.maximum(part, 0.0) / (borders[-1] / BINS)) for part in parts)
    return Reliability(sigma=predicted * LEVELS_PER_UNIT, error=observed * LEVELS_PER_UNIT)


def ence(summed: Histogram, column: int = ERROR) -> float:
    """Mean over bins of |RMV - RMSE| / RMV; lower is better, and even a calibrated sigma stays above 0.

    Args:
        summed: histograms of all images, added up.
        column: `ERROR`, or `DRAWN` for the ENCE that this many pixels would have if the prediction were exactly right.

    Source: arXiv 1905.11659, equation 8; RMV is the root mean predicted variance of a bin.
    """
    curve = reliability(summed, column)
    return float((np.abs(curve.sigma - curve.error) / curve.sigma).mean())


def bootstrap_ence(histograms: Histogram, column: int = ERROR, resamples: int = 400, seed: int = 0) -> Estimate:
    """ENCE over all images with a 95 % percentile interval from resampling whole images.

    Args:
        histograms: one for each image, `[N,FINE_BINS,4]`.
        column: as in `ence`.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        The estimate; its interval is NaN for one image, which tells nothing about the spread.
    """
    images = len(histograms)
    value = ence(histograms.sum(0), column)
    if images < 2:
        return Estimate(value, float("nan"), float("nan"), count=images, dropped=0)
    rng, flat, values = np.random.default_rng(seed), histograms.reshape(images, -1), []
    for start in range(0, resamples, BATCH):  # bounds the memory: a batch is BATCH * N floats
        draws = rng.multinomial(images, np.full(images, 1.0 / images), size=min(BATCH, resamples - start))
        sums = (draws.astype(np.float64) @ flat).reshape(-1, FINE_BINS, 4)
        values += [ence(summed, column) for summed in sums]
    low, high = np.quantile(values, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Estimate(value, float(low), float(high), count=images, dropped=0)
