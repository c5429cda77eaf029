"""Figures that need all images together: calibration over pooled pixels, recalibration, the Frechet distance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jeppa.evaluate import ence as pooling
from jeppa.evaluate import recalibrate
from jeppa.evaluate.bootstrap import Estimate
from jeppa.evaluate.ence import BINS, COUNT, DRAWN, ERROR, FINE_BINS, LOGVAR_RANGE, VARIANCE, Histogram
from jeppa.evaluate.features import LEAST_IMAGES, split_distances
from jeppa.evaluate.measure import Measurement

CONSTANT_SPAN = (LOGVAR_RANGE[1] - LOGVAR_RANGE[0]) / FINE_BINS
"""A log-variance that varies by less in all images, 4 % in sigma, counts as constant: one fine bin has no order."""

COVERAGE_LEVEL = 0.9
ONE_FIGURE = "one figure for all images has no bootstrap over images"


@dataclass
class Pooled:
    """Estimates by key, and why some have none or no interval."""

    estimates: dict[str, Estimate] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put_alone(self, key: str, value: float) -> None:
        """A figure without an interval."""
        self.estimates[key] = Estimate(value, math.nan, math.nan, count=1, dropped=0)
        self.reasons[f"{key}_ci95"] = ONE_FIGURE

    def leave_out(self, keys: Sequence[str], reason: str) -> None:
        """Keys without a figure."""
        self.estimates |= dict.fromkeys(keys, Estimate(math.nan, math.nan, math.nan, count=0, dropped=0))
        self.reasons |= dict.fromkeys(keys, reason)


def has_constant_sigma(measured: Sequence[Measurement]) -> bool:
    """Whether the model predicts one sigma for all pixels of all images."""
    lows, highs = zip(*(one.logvar_ends for one in measured), strict=True)
    return bool(max(highs) - min(lows) < CONSTANT_SPAN)


def sigma_histograms(measured: Sequence[Measurement]) -> Histogram:
    """Histograms of the model's sigma, `[N,FINE_BINS,4]`; of a constant one in the bins of the Sobel sigma."""
    by_sigma = np.stack([one.by_sigma for one in measured])
    if not has_constant_sigma(measured):
        return by_sigma
    total = by_sigma.sum((0, 1))
    return pooling.with_constant(np.stack([one.by_sobel for one in measured]), total[VARIANCE] / total[COUNT])


def pool_calibration(measured: Sequence[Measurement], pooled: Pooled) -> None:
    """`ence` of the model and of what it is compared with."""
    histograms = sigma_histograms(measured)
    pooled.estimates["ence"] = pooling.bootstrap_ence(histograms)
    pooled.estimates["ence_reference"] = pooling.bootstrap_ence(histograms, DRAWN)
    pooled.estimates["ence_sobel"] = pooling.bootstrap_ence(np.stack([one.by_sobel for one in measured]))
    if has_constant_sigma(measured):
        where = f"its ence is judged in {BINS} bins of the Sobel sigma"
        pooled.leave_out(["ence_constant"], f"the model's own sigma is constant, and {where}")
        return
    total = histograms.sum((0, 1))
    constant = pooling.with_constant(histograms, total[ERROR] / total[COUNT])
    pooled.estimates["ence_constant"] = pooling.bootstrap_ence(constant)


def pool_recalibration(measured: Sequence[Measurement], pooled: Pooled) -> None:
    """Cross-fitted recalibration: `ence_recalibrated`, and figures added to the row of each image."""
    rows = [one.row for one in measured]
    if len(measured) < 2:
        keys = ("chi2_recalibrated", "coverage_90_recalibrated")
        for key in keys:
            rows[0][key] = math.nan
        everything = [*keys, "ence_recalibrated", "recalibration_slope", "recalibration_offset"]
        pooled.leave_out(everything, "recalibration is fitted on other images: it needs at least 2")
        return
    folds = recalibrate.cross_fit([one.sample for one in measured])
    changed = []
    for index, (one, image) in enumerate(zip(measured, sigma_histograms(measured), strict=True)):
        fold = folds[index % 2]
        changed.append(pooling.rescaled(image, fold.reference, fold.offset, fold.slope))
        one.row["chi2_recalibrated"] = pooling.mean_chi2(changed[-1])
        one.row["coverage_90_recalibrated"] = recalibrate.share_inside(one.sample, fold, COVERAGE_LEVEL)
    pooled.estimates["ence_recalibrated"] = pooling.bootstrap_ence(np.stack(changed))
    pooled.put_alone("recalibration_slope", sum(fold.slope for fold in folds) / 2)
    pooled.put_alone("recalibration_offset", sum(fold.offset for fold in folds) / 2)


def pool_features(measured: Sequence[Measurement], pooled: Pooled, missing: str | None) -> None:
    """`fd_efficientnet_lite0` and `fd_floor`.

    Args:
        measured: all images.
        pooled: where to put them.
        missing: why there are no features, if so.
    """
    keys = ["fd_efficientnet_lite0", "fd_floor"]
    features = [one.features for one in measured if one.features is not None]
    if missing is not None:
        pooled.leave_out(keys, missing)
    elif len(features) < LEAST_IMAGES:
        pooled.leave_out(keys, f"{len(features)} images are too few for a distance of sets: give {LEAST_IMAGES}")
    else:
        pairs = zip(*(feature.unbind() for feature in features), strict=True)
        real, recon = pairs
        for key, value in zip(keys, split_distances(real, recon), strict=True):
            pooled.put_alone(key, value)
