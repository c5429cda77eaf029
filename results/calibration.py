"""What does calibration contribute on held-out pictures, and what does a curve correct that two numbers do not?

    python -m results.calibration small --data DATA

MODEL is a VAE with a sigma head; DATA is what `recipes/prepare.py` wrote. For every kind of pictures sigma is
calibrated on some and judged on others, which are split by product (groceries), by scene (photographs) or by code point
(emoji, where the pictures to calibrate on are also training pictures of `small`). Writes `calibration.json` and
`calibration.md`.
"""

import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jeppa.data import ImageSource, evaluation_images, open_source
from jeppa.errors import ConfigError
from jeppa.lab.calibration import chi2, coverage
from jeppa.lab.measure import PixelSample, fit_to_grid
from jeppa.lab.metrics import dequantise
from jeppa.lab.recalibrate import calibrate, fit_recalibration
from jeppa.lab.statistics import Histogram, bootstrap_ence, bootstrap_mean, histogram
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE
from jeppa.vae.sigma_head import LOGVAR_RANGE, RisingCurve
from results.record import (
    Json,
    describe_origin,
    join_lines,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    show_interval,
    study_parser,
)

MOST_IMAGES = 160
VALUES = 16384
"""Pixels of each picture that the two numbers are fitted to."""

Predictions = list[tuple[Tensor, Tensor, Tensor]]
"""Original, reconstruction and log-variance of each picture, `[1,3,H,W]` each."""


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("calibration", __doc__)
    parser.add_argument("model", help="run folder or shipped name of a VAE with a sigma head")
    parser.add_argument("--data", type=Path, required=True, help="folder that recipes/prepare.py wrote")
    return run_study(parser, measure_kinds, arguments)


def measure_kinds(options: argparse.Namespace) -> None:
    """Calibrate and judge on every kind of pictures, and write the record.

    Raises:
        ConfigError: the model has no sigma head.
    """
    kinds = {
        "groceries, 256": (options.data / "halves", 256),
        "photographs, 512": ("builtin:photos", 512),
        "emoji, 256": (options.data / "emoji", 256),
    }
    vae = load_model(options.model).codec.vae
    if vae.sigma_head is None:
        raise ConfigError(f"{options.model} has one sigma for all pixels; give a model with a sigma head")
    shipped = deepcopy(vae.sigma_head.curve)
    figures: Json = {}
    for kind, (data, side) in kinds.items():
        train, heldout = open_source(data, "train"), open_source(data, "heldout")
        calibrate(vae, [(train, side)])
        fitted = deepcopy(vae.sigma_head.curve)
        vae.sigma_head.curve.straighten()
        predictions = predict(vae, heldout, side)
        curves = {
            "as trained": RisingCurve(*LOGVAR_RANGE),
            "two numbers": fit_two_numbers(predict(vae, train, side), float(vae.shared_logvar)),
            "a curve": fitted,
            "a curve for groceries and photographs (shipped)": shipped,
        }
        figures[kind] = {name: judge(predictions, curve) for name, curve in curves.items()}
        report_progress(f"{kind}: {json.dumps(figures[kind])}")
    save_record(options.command, options.out / "calibration", {"kinds": figures}, render)


@torch.no_grad()
def predict(vae: HeteroscedasticVAE, source: ImageSource, side: int) -> Predictions:
    """What the model predicts for the first pictures of a source, scaled to `side` pixels."""
    predictions = []
    for index, (_, x) in enumerate(evaluation_images(source, side)):
        if index == MOST_IMAGES:
            break
        x = fit_to_grid(x[None])
        decoded = vae.decode(vae.encode(x).mean)
        original = dequantise(x, torch.Generator().manual_seed(index))
        predictions.append((original, decoded.mean, decoded.element_logvar))
    return predictions


def fit_two_numbers(predictions: Predictions, reference: float) -> RisingCurve:
    """Slope and offset of the log-variance with the greatest likelihood, as a curve; `reference` stays in place."""
    samples = []
    for index, (x, mean, logvar) in enumerate(predictions):
        chosen = np.random.default_rng(index).permutation(x.numel())[:VALUES]
        squared = (x - mean).square().flatten()[chosen].double().numpy()
        samples.append(PixelSample(squared, logvar.flatten()[chosen].double().numpy()))
    curve, line = RisingCurve(*LOGVAR_RANGE), fit_recalibration(samples, reference)
    curve.bend(curve.knots.clone(), torch.from_numpy(line(curve.knots.double().numpy())))
    return curve


def judge(predictions: Predictions, curve: RisingCurve) -> Json:
    """Figures of the log-variance after the curve: `[mean, low, high]` with a 95 % interval over pictures."""
    histograms, shares, ratios = [], [], []
    for x, mean, logvar in predictions:
        curved, squared = curve(logvar).clamp(*LOGVAR_RANGE), (x - mean).square()
        histograms.append(histogram(curved, curved, squared, squared))
        shares.append(float(coverage(x, mean, curved, 0.9)))
        ratios.append(float(chi2(x, mean, curved)))
    return summarise_sigma(histograms, ratios, shares)


def summarise_sigma(histograms: list[Histogram], ratios: list[float], shares: list[float]) -> Json:
    """ENCE, chi2 and what the 90 % interval holds: `[mean, low, high]` with a 95 % interval over pictures.

    Args:
        histograms: over the log-variance, of each picture.
        ratios: chi2 of each picture.
        shares: of the values of each picture that lie in their 90 % interval.
    """
    estimates = {
        "ence": bootstrap_ence(np.stack(histograms)),
        "chi2": bootstrap_mean(np.array(ratios)),
        "coverage_90": bootstrap_mean(np.array(shares)),
    }
    return {
        "images": len(histograms),
        **{key: [estimate.mean, estimate.lo, estimate.hi] for key, estimate in estimates.items()},
    }


def render(record: Json) -> str:
    """The record as Markdown: a row for every kind of pictures and every sigma."""
    rows = [
        [f"{figures['images']} {kind}", sigma]
        + [show_interval(figures[key][0], figures[key][1:]) for key in ("ence", "chi2", "coverage_90")]
        for kind, sigmas in record["kinds"].items()
        for sigma, figures in sigmas.items()
    ]
    return join_lines([
        "# What calibration is worth",
        "",
        f"{describe_origin(record)}; {record['machine']['processor']}, fp32. Mean [95 %",
        "bootstrap interval over pictures]; below about 20 pictures the intervals are too narrow. ENCE: 0 is perfect;",
        "chi2: 1 is; an interval of 90 % should hold 0.900. Fitted on other pictures of the same kind.",
        "",
        markdown_table(["held-out pictures", "sigma", "ENCE", "chi2", "90 % interval holds"], rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
