"""Evaluate a VAE on images; each figure comes with a bootstrap interval over images where there can be one.

Most figures are means over images. Three kinds need all images together: calibration over all their pixels,
recalibration, and the Frechet distance. Two models are compared on the same pictures, because the mean of their
differences has a far narrower interval than the difference of their means.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jeppa.data import ImageSource, evaluation_images
from jeppa.errors import ConfigError, DataError
from jeppa.files import write_text_atomically
from jeppa.lab import recalibrate
from jeppa.lab import statistics as pooling
from jeppa.lab.calibration import REMOVED
from jeppa.lab.measure import Measurement, Nets, measure_image
from jeppa.lab.metrics import LEAST_IMAGES, SSIM_WINDOW, load_features, split_distances
from jeppa.lab.plainness import Plainness, measure_plainness
from jeppa.lab.recalibrate import values_per_image
from jeppa.lab.statistics import (
    BINS,
    COUNT,
    DRAWN,
    ERROR,
    FINE_BINS,
    LOGVAR_RANGE,
    VARIANCE,
    Estimate,
    Histogram,
    bootstrap_mean,
    reliability,
)
from jeppa.lpips import ARCHITECTURES, WeightsError, load_lpips
from jeppa.machine import commit, versions
from jeppa.vae import HeteroscedasticVAE

CONSTANT_SPAN = (LOGVAR_RANGE[1] - LOGVAR_RANGE[0]) / FINE_BINS
"""A sigma that varies by less than one fine bin (4 %) over all images counts as constant."""
COVERAGE_LEVEL = 0.9
ONE_FIGURE = "one figure for all images has no bootstrap over images"


@dataclass
class Pooled:
    """Estimates by key, and the reason where there is no value or no interval."""

    estimates: dict[str, Estimate] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put_alone(self, key: str, value: float) -> None:
        """Add a figure that has no interval."""
        self.estimates[key] = Estimate(value, math.nan, math.nan, count=1, dropped=0)
        self.reasons[f"{key}_ci95"] = ONE_FIGURE

    def leave_out(self, keys: Sequence[str], reason: str) -> None:
        """Give the reason why these keys have no value."""
        self.estimates |= dict.fromkeys(keys, Estimate(math.nan, math.nan, math.nan, count=0, dropped=0))
        self.reasons |= dict.fromkeys(keys, reason)


def has_constant_sigma(measured: Sequence[Measurement]) -> bool:
    """Whether the model predicts one sigma for all pixels of all images."""
    lows, highs = zip(*(image.logvar_ends for image in measured), strict=True)
    return bool(max(highs) - min(lows) < CONSTANT_SPAN)


def sigma_histograms(measured: Sequence[Measurement]) -> Histogram:
    """Histograms of the model's sigma, `[N,FINE_BINS,4]`; a constant sigma is binned by the Sobel sigma instead."""
    by_sigma = np.stack([image.by_sigma for image in measured])
    if not has_constant_sigma(measured):
        return by_sigma
    total = by_sigma.sum((0, 1))
    return pooling.replace_variance(np.stack([image.by_sobel for image in measured]), total[VARIANCE] / total[COUNT])


def pool_calibration(measured: Sequence[Measurement], pooled: Pooled) -> None:
    """Add `ence` of the model and of its baselines."""
    histograms = sigma_histograms(measured)
    pooled.estimates["ence"] = pooling.bootstrap_ence(histograms)
    pooled.estimates["ence_reference"] = pooling.bootstrap_ence(histograms, DRAWN)
    pooled.estimates["ence_sobel"] = pooling.bootstrap_ence(np.stack([image.by_sobel for image in measured]))
    if has_constant_sigma(measured):
        where = f"its ence is judged in {BINS} bins of the Sobel sigma"
        pooled.leave_out(["ence_constant"], f"the model's own sigma is constant, and {where}")
        return
    total = histograms.sum((0, 1))
    constant = pooling.replace_variance(histograms, total[ERROR] / total[COUNT])
    pooled.estimates["ence_constant"] = pooling.bootstrap_ence(constant)


def pool_recalibration(measured: Sequence[Measurement], pooled: Pooled) -> None:
    """Add the figures after recalibration, which is fitted on other images; some go to the row of each image."""
    rows = [image.row for image in measured]
    if len(measured) < 2:
        keys = ("chi2_recalibrated", "coverage_90_recalibrated")
        for key in keys:
            rows[0][key] = math.nan
        everything = [*keys, "ence_recalibrated", "recalibration_slope", "recalibration_offset"]
        pooled.leave_out(everything, "recalibration is fitted on other images: it needs at least 2")
        return
    folds = recalibrate.cross_fit([image.sample for image in measured])
    changed = []
    for index, (image, counts) in enumerate(zip(measured, sigma_histograms(measured), strict=True)):
        fold = folds[index % 2]
        changed.append(pooling.rescale(counts, fold.reference, fold.offset, fold.slope))
        image.row["chi2_recalibrated"] = pooling.mean_chi2(changed[-1])
        image.row["coverage_90_recalibrated"] = recalibrate.share_inside(image.sample, fold, COVERAGE_LEVEL)
    pooled.estimates["ence_recalibrated"] = pooling.bootstrap_ence(np.stack(changed))
    pooled.put_alone("recalibration_slope", sum(fold.slope for fold in folds) / 2)
    pooled.put_alone("recalibration_offset", sum(fold.offset for fold in folds) / 2)


def pool_features(measured: Sequence[Measurement], pooled: Pooled, missing: str | None) -> None:
    """Add `fd_efficientnet_lite0` and `fd_floor`.

    Args:
        measured: all images.
        pooled: the figures so far.
        missing: why there are no features; None where there are.
    """
    keys = ["fd_efficientnet_lite0", "fd_floor"]
    features = [image.features for image in measured if image.features is not None]
    if missing is not None:
        pooled.leave_out(keys, missing)
    elif len(features) < LEAST_IMAGES:
        pooled.leave_out(keys, f"{len(features)} images are too few for a distance of sets: give {LEAST_IMAGES}")
    else:
        pairs = zip(*(feature.unbind() for feature in features), strict=True)
        real, recon = pairs
        for key, value in zip(keys, split_distances(real, recon), strict=True):
            pooled.put_alone(key, value)


NOT_ASKED = "perceptual metrics were not asked for"
TOO_SMALL = "every image has a side below {} pixels"
NO_VALUE = {
    "ssim": TOO_SMALL.format(SSIM_WINDOW),
    "lpips_alex": TOO_SMALL.format(ARCHITECTURES["alex"].smallest_side),
    "lpips_vgg": TOO_SMALL.format(ARCHITECTURES["vgg"].smallest_side),
    "gradient_energy_ratio": "every original is flat",
    "gradient_energy_ratio_draw": "every original is flat",
    "border_error_ratio": "every image is too small to have a middle, or its middle is exact",
    "sigma_error_spearman": "sigma or the error has no order: it is the same in all blocks of each image",
    "sigma_error_spearman_sobel": "the error or the gradient has no order: it is the same in all blocks of each image",
    "rate_bpd": "the encoder gives no variance, so the latent has no rate",
    "elbo_bpd": "the encoder gives no variance, so there is no bound",
    "ause": "every reconstruction is exact",
    "ause_sobel": "every reconstruction is exact",
}
ONE_IMAGE = "one image says nothing about the spread"


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`, all of it fit for JSON.

    Args:
        metrics: content of metrics.json.
        rows: for each image its `name` and figures, None where it has none; paired differences are made from these.
        curves: `reliability` (`predicted`, `observed`: 8-bit levels in equal-count bins), `sparsification`
            (`removed` share, relative error left `by_sigma`, `by_sobel`, `oracle`), `pit` (20 shares).
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: dict[str, Any]


def evaluate(
    vae: HeteroscedasticVAE,
    source: ImageSource,
    resolution: int | None,
    model: str,
    limit: int | None = None,
    perceptual: bool = True,
) -> Evaluation:
    """Measure `vae` on the images of `source`, each cut to multiples of 8 pixels.

    Args:
        vae: in evaluation mode.
        source: the images. Figures mean something only for images that the model was not trained on.
        resolution: side to which the centred square of each image is resized; None measures whole images.
        model: name or path of the model, for the record.
        limit: measure at most that many images, evenly spread over the source; None for all.
        perceptual: whether to measure LPIPS and the Frechet distance, which take most of the time.

    Raises:
        DataError: if the source is empty or an image damaged.
        ConfigError: if `limit` is below 1 or `resolution` no multiple of 8.
        CheckpointError: if the model's prediction is not finite.
    """
    began = time.perf_counter()
    nets, missing = load_nets(perceptual)
    chosen = pick_evenly(len(source), limit)
    values = values_per_image(len(chosen))
    names, measured = [], []
    for index, name, x in _images(source, resolution, chosen):
        names.append(name)
        measured.append(measure_image(vae, x[None], index, nets, values, name))
    about = {
        "n_images": len(measured),
        "resolution": resolution,
        "data_fingerprint": source.fingerprint,
        "model": model,
        "commit": commit(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 2),
    }
    summary = summarise(measured, missing, measure_plainness(vae))
    rows = [
        {"name": name, **{key: _null_if_infinite(value) for key, value in image.row.items()}}
        for name, image in zip(names, measured, strict=True)
    ]
    return Evaluation({**summary, **about}, rows, average_curves(measured))


def load_nets(perceptual: bool) -> tuple[Nets, dict[str, str]]:
    """Load the nets that are installed, and say why the others (by field of `Nets`) are missing."""
    if not perceptual:
        return Nets(), dict.fromkeys(("lpips_alex", "lpips_vgg", "features"), NOT_ASKED)
    loaders: dict[str, Callable[[], Any]] = {
        "lpips_alex": lambda: load_lpips("alex"),
        "lpips_vgg": lambda: load_lpips("vgg"),
        "features": load_features,
    }
    nets: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for key, load in loaders.items():
        try:
            nets[key] = load()
        except WeightsError as error:
            missing[key] = str(error)
    return Nets(**nets), missing


def pick_evenly(count: int, limit: int | None) -> list[int]:
    """Pick at most `limit` of the indices below `count`, evenly spread and rising.

    Raises:
        DataError: if `count` is 0.
        ConfigError: if `limit` is below 1.
    """
    if count == 0:
        raise DataError("the source has no image to measure; pass one with images")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, but must be at least 1; leave it out for all images")
    taken = count if limit is None else min(limit, count)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def summarise(
    measured: Sequence[Measurement], missing: dict[str, str], plainness: Plainness | None = None
) -> dict[str, Any]:
    """Every figure with its `<key>_ci95`; a figure without a value is null, and `reasons` says why.

    Args:
        measured: all images, at least one; their rows get the figures after recalibration.
        missing: why nets are missing, by field of `Nets`.
        plainness: figures of plain pictures, or None where they were not measured.
    """
    pooled = Pooled()
    for key, value in asdict(plainness).items() if plainness else ():
        pooled.put_alone(key, value)
    pool_calibration(measured, pooled)
    pool_recalibration(measured, pooled)
    pool_features(measured, pooled, missing.get("features"))
    reasons = dict(pooled.reasons)
    estimates = {key: bootstrap_mean(np.array([image.row[key] for image in measured])) for key in measured[0].row}
    for key, estimate in estimates.items():
        if estimate.count == 0 and key not in reasons:
            reasons[key] = missing.get(key) or NO_VALUE[key]
    summary: dict[str, Any] = {}
    for key, estimate in (estimates | pooled.estimates).items():
        summary[key], summary[f"{key}_ci95"] = _round(estimate.mean), _list_ends(estimate)
    if len(measured) == 1:
        reasons["ci95"] = ONE_IMAGE
    return {**summary, "reasons": reasons}


def average_curves(measured: Sequence[Measurement]) -> dict[str, Any]:
    """Average the curves over images; those of sparsification are empty where every reconstruction is exact."""
    bins = reliability(sigma_histograms(measured).sum(0))
    left = torch.stack([image.sparsification for image in measured])
    kept = left[left.isfinite().flatten(1).all(1)]
    by_sigma, by_sobel, oracle = kept.mean(0).tolist() if len(kept) else ([], [], [])
    return {
        "reliability": {"predicted": bins.sigma.tolist(), "observed": bins.error.tolist()},
        "sparsification": {
            "removed": list(REMOVED) if len(kept) else [],
            "by_sigma": by_sigma,
            "by_sobel": by_sobel,
            "oracle": oracle,
        },
        "pit": torch.stack([image.pit for image in measured]).mean(0).tolist(),
    }


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write metrics.json, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(evaluation.metrics, indent=1, allow_nan=False) + "\n")


def _images(source: ImageSource, resolution: int | None, chosen: list[int]) -> Iterator[tuple[int, str, Tensor]]:
    """Index in the source, name and x of each chosen image."""
    part = replace(source, refs=tuple(source.refs[index] for index in chosen))
    for index, (name, x) in zip(chosen, evaluation_images(part, resolution), strict=True):
        yield index, name, x


def _list_ends(estimate: Estimate) -> list[float | None]:
    """Both ends of the interval; both None where there is no value or no spread."""
    ends = [_round(estimate.lo), _round(estimate.hi)]
    return [None, None] if None in ends else ends


def _round(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def _null_if_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def paired_differences(a: Evaluation, b: Evaluation, keys: Iterable[str]) -> dict[str, Estimate]:
    """Mean over pictures of `a` minus `b`, with its 95 % bootstrap interval.

    Args:
        a: evaluation of one model.
        b: evaluation of another model on the same pictures in the same order.
        keys: figures; one that fewer than two pictures have in both evaluations is left out.

    Raises:
        ValueError: the pictures differ.
    """
    if [row["name"] for row in a.rows] != [row["name"] for row in b.rows]:
        raise ValueError("the two evaluations are of different pictures")
    estimates = {}
    for key in keys:
        values = [(ours.get(key), theirs.get(key)) for ours, theirs in zip(a.rows, b.rows, strict=True)]
        differences = [ours - theirs for ours, theirs in values if ours is not None and theirs is not None]
        if len(differences) > 1:
            estimates[key] = bootstrap_mean(np.array(differences))
    return estimates
