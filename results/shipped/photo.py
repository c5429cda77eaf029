"""How good is a VAE on photographs that nothing was trained or calibrated on, and does its sigma hold on unseen sets?

    python -m results.shipped.photo MODEL PEER --data DATA

DATA is what `recipes/prepare.py` wrote. Three parts: both models on the photographs of `clic2025`; the sigma of MODEL,
calibrated on the held-out pictures of all other sets and judged on the one that was left out, for each of the eight
sets in turn; stripes of 2, 3 and 4 pixels, of which any latent of 8x8 pixels may lose the direction. Writes
`photo.json` and `photo.md`.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jeppa.data import open_source
from jeppa.lab.calibration import coverage
from jeppa.lab.evaluate import evaluate, paired_differences
from jeppa.lab.measure import PixelSample
from jeppa.lab.recalibrate import CURVE_VALUES, collect_samples, fit_rising_curve
from jeppa.lab.statistics import histogram
from jeppa.pipeline import Model, load_model
from jeppa.vae.sigma_head import KNOTS, LOGVAR_RANGE, RisingCurve
from results.calibration import summarise_sigma
from results.record import (
    RESULTS,
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    show_interval,
    study_parser,
)

JUDGED_SET = "clic2025"
SIDE = 512
PATTERN_SIDE = 128
WIDTHS = (2, 3, 4, 6, 8, 12)
CONTRAST = 0.8
TIMED = 5
SIGMA_KEYS = ("ence", "chi2", "coverage_90")
KEYS = {
    "psnr": 2, "ssim": 3, "lpips_alex": 3, "lpips_vgg": 3, "delta_e2000": 2, "gradient_energy_ratio": 3,
    "fd_efficientnet_lite0": 1, "rate_bpd": 3, "elbo_bpd": 3, "ence": 3, "chi2": 2, "coverage_90": 3,
    "border_error_ratio": 2, "lattice_levels": 2, "lattice_share": 7, "gradient_lattice_share": 7, "colour_levels": 2,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("shipped.photo", __doc__, RESULTS / "shipped")
    parser.add_argument("model", type=Path, metavar="MODEL", help="name or folder of the VAE")
    parser.add_argument("peer", type=Path, metavar="PEER", help="name or folder of the VAE beside it")
    parser.add_argument("--data", type=Path, required=True, help="folder that recipes/prepare.py wrote")
    parser.add_argument("--limit", type=int, help="at most so many pictures of each set")
    return run_study(parser, measure_photo, arguments)


def measure_photo(options: argparse.Namespace) -> None:
    """Measure all three parts and write the record.

    Raises:
        JeppaError: a model or a picture cannot be used.
    """
    models = {name.name: load_model(name) for name in (options.model, options.peer)}
    heldout = options.data / "photos" / "val"
    figures = {
        "threads": torch.get_num_threads(),
        "judged": measure_judged(models, heldout / JUDGED_SET, options.limit),
        "left_out": leave_sets_out(models[options.model.name], heldout, options.limit),
        "stripes": {name: measure_stripes(model) for name, model in models.items()},
        "seconds": {name: time_decoding(model) for name, model in models.items()},
    }
    save_record(options.command, options.out / "photo", figures, render)


def measure_judged(models: dict[str, Model], folder: Path, limit: int | None) -> Json:
    """Figures of each model on whole photographs, and the first's less the second's in pairs."""
    source, evaluations = open_source(str(folder), "all"), {}
    for name, model in models.items():
        report_progress(f"{folder.name}: {name}")
        evaluations[name] = evaluate(model.codec.vae, source, SIDE, name, limit)
    ours, theirs = evaluations.values()
    return {
        "count": ours.metrics["n_images"],
        "metrics": {name: evaluation.metrics for name, evaluation in evaluations.items()},
        "paired": {
            key: [difference.mean, [difference.lo, difference.hi]]
            for key, difference in paired_differences(ours, theirs, KEYS).items()
        },
    }


def leave_sets_out(model: Model, folder: Path, limit: int | None) -> Json:
    """Sigma on each set, with a curve that was fitted on the held-out pictures of all other sets."""
    head = model.codec.vae.sigma_head
    assert head is not None
    as_calibrated = head.curve.knots.clone(), head.curve.values.clone()
    head.curve.straighten()
    samples = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        report_progress(f"sigma on {path.name}")
        source = open_source(str(path), "all")
        source = replace(source, refs=source.refs[:limit])
        samples[path.name] = collect_samples(model.codec.vae, source, SIDE, CURVE_VALUES)
    head.curve.bend(*as_calibrated)
    return {
        name: judge_sigma(judged, fit_curve([sample for other, sample in samples.items() if other != name]))
        for name, judged in samples.items()
    }


def fit_curve(sets: list[list[PixelSample]]) -> RisingCurve:
    """The curve of the greatest likelihood on these pictures; each picture weighs the same."""
    curve = RisingCurve(*LOGVAR_RANGE)
    at, to = fit_rising_curve([[sample for samples in sets for sample in samples]], KNOTS)
    curve.bend(torch.from_numpy(at), torch.from_numpy(to))
    return curve


@torch.no_grad()
def judge_sigma(samples: list[PixelSample], curve: RisingCurve) -> Json:
    """ENCE, chi2 and what the 90 % interval holds: `[mean, low, high]` with a 95 % interval over pictures."""
    histograms, ratios, shares = [], [], []
    for sample in samples:
        squared, raw = (
            torch.from_numpy(values).float().view(1, 1, 1, -1) for values in (sample.squared, sample.logvar)
        )
        logvar = curve(raw).clamp(*LOGVAR_RANGE)
        histograms.append(histogram(logvar, logvar, squared, squared))
        ratios.append(float((squared / logvar.exp()).mean()))
        shares.append(float(coverage(squared.sqrt(), torch.zeros_like(squared), logvar, 0.9, sample.df)))
    return summarise_sigma(histograms, ratios, shares)


@torch.no_grad()
def measure_stripes(model: Model) -> Json:
    """Correlation of black and white stripes with their reconstruction, by width in pixels; 1 keeps them, 0 does not.

    The worse of both directions; the outer 16 pixels are left out.
    """
    kept = {}
    for width in WIDTHS:
        across = CONTRAST * (2.0 * (torch.arange(PATTERN_SIDE) // width % 2) - 1.0)
        stripes = torch.stack([across.expand(3, PATTERN_SIDE, -1), across.expand(3, PATTERN_SIDE, -1).mT])
        recon = model.codec.vae.reconstruct(stripes).mean
        inside = (..., slice(16, -16), slice(16, -16))
        kept[str(width)] = min(correlate(x, y) for x, y in zip(stripes[inside], recon[inside], strict=True))
    return kept


def correlate(x: Tensor, y: Tensor) -> float:
    """Correlation of two pictures over all their values; 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-9))


@torch.no_grad()
def time_decoding(model: Model) -> float:
    """Median seconds of decoding one picture of 512 pixels with its sigma, after one that is not counted."""
    z = torch.zeros(1, model.codec.vae.settings.latent_channels, SIDE // 8, SIDE // 8)
    seconds = []
    for _ in range(TIMED + 1):
        start = time.perf_counter()
        model.codec.vae.decode(z)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def render(record: Json) -> str:
    """The record as Markdown."""
    judged, names = record["judged"], list(record["stripes"])
    rows = []
    for key, digits in KEYS.items():
        cells = [show_interval(m.get(key), m.get(f"{key}_ci95"), f".{digits}f") for m in judged["metrics"].values()]
        pair = judged["paired"].get(key)
        rows.append([key, *cells, show_interval(pair[0], pair[1], f".{digits}f") if pair else ""])
    sigma = [
        [
            name,
            figures["images"],
            *(show_interval(figures[k][0], figures[k][1:]) for k in ("ence", "chi2", "coverage_90")),
        ]
        for name, figures in record["left_out"].items()
    ]
    stripes = [[width, *(f"{record['stripes'][name][width]:.2f}" for name in names)] for width in map(str, WIDTHS)]
    times = ", ".join(f"`{name}` {seconds:.2f} s" for name, seconds in record["seconds"].items())
    return join_lines([
        f"# `{names[0]}` on photographs",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}, {record['threads']} threads, fp32. Mean [95 %",
        "bootstrap interval over pictures]; of one training run each.",
        "",
        f"## {judged['count']} photographs of {JUDGED_SET} at {SIDE} pixels",
        "",
        "Nothing was trained or calibrated on them. LPIPS (AlexNet) is in the loss of both.",
        "",
        markdown_table(["", *names, "in pairs"], rows),
        "",
        "## Sigma on sets that were left out",
        "",
        "The curve of sigma was fitted on the held-out pictures of the other seven sets. The net itself was trained on",
        f"other pictures of all sets but {JUDGED_SET}.",
        "",
        markdown_table(["set left out", "pictures", "ENCE", "chi2", "90 % interval holds"], sigma),
        "",
        "## Stripes",
        "",
        "Correlation of stripes with their reconstruction, by width in pixels: 1 keeps them, 0 loses them.",
        "",
        markdown_table(["width", *names], stripes),
        "",
        f"Decoding a picture of {SIDE} pixels with its sigma: {times} (median of {TIMED}).",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
