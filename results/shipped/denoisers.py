"""How good are the samples of a trained denoiser? Distance to held-out pictures, copies, classes and seconds.

    python -m results.shipped.denoisers MODEL --name emoji --data DATA/emoji

MODEL is a run folder of a class-conditional denoiser, DATA what `recipes/prepare.py` wrote. Writes `NAME.json`,
`NAME.md`, `NAME-neighbours.png` and `docs/NAME-samples.png` (or `.jpg`). Samples are kept in `--work`, so a study that
was stopped does not draw them again.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from jeppa.errors import ConfigError, DataError
from jeppa.pipeline import Model, SamplerSettings, load_model
from results.record import RESULTS, Json, report_progress, run_study, save_record, study_parser
from results.shipped.denoiser_report import SHOWN, render, write_neighbour_sheet, write_sample_sheet
from results.shipped.features import (
    compute_features,
    estimate_mean,
    measure_accuracies,
    measure_chance,
    measure_distances,
    train_classifier,
)
from results.shipped.neighbours import find_neighbours, measure_closeness
from results.shipped.pictures import Pictures, draw_samples, read_pictures, reconstruct_pictures, spread_labels

FEW_STEPS = 10
TIMED = 16
REPEATS = 5
HELDOUT = "held-out pictures"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("shipped.denoisers", __doc__, RESULTS / "shipped")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder of the denoiser")
    parser.add_argument("--name", required=True, help="name of the files to write")
    parser.add_argument("--data", required=True, help="folder with train/LABEL and val/LABEL")
    parser.add_argument("--samples", type=int, default=1000, help="number of samples of each sampler")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=1.0, help="weight of classifier-free guidance")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent / "docs", help="folder for the sheet of samples")
    parser.add_argument("--work", type=Path, default=Path("build/shipped"), help="folder where samples are kept")
    return run_study(parser, measure_denoiser, arguments)


def measure_denoiser(options: argparse.Namespace) -> None:
    """Measure everything, and write the record and its pictures.

    Raises:
        JeppaError: too few samples, a model without variance head, other classes than those of the data, or files that
            cannot be used.
    """
    if options.samples < SHOWN:
        raise ConfigError(f"samples is {options.samples}, but the sheet shows {SHOWN}: ask for that many or more")
    model = load_model(options.model)
    model.check_variance("the comparison with --variance learned")
    train, heldout = (read_pictures(options.data, split, model.side()) for split in ("train", "heldout"))
    check_classes(model, train, options.data)
    report_progress(f"{len(train)} training and {len(heldout)} held-out pictures; timing")
    seconds = time_sampling(
        options.model, SamplerSettings(steps=options.steps, guidance=options.guidance, label=model.labels[0])
    )
    labels = spread_labels(train.labels, options.samples)
    samples = {}
    for name, settings in list_samplers(options.steps, options.guidance).items():
        report_progress(f"drawing {options.samples} samples: {name}")
        samples[name] = draw_samples(model, settings, labels, options.work)
    report_progress("reconstructions by the VAE, and pictures of samples")
    reconstructed = {
        "train": reconstruct_pictures(model.codec, train), "heldout": reconstruct_pictures(model.codec, heldout),
    }  # fmt: skip
    first = next(iter(samples.values()))
    figures = {
        "name": options.name,
        "resolution": model.side(), "steps": options.steps, "guidance": options.guidance,
        "counts": {"samples": options.samples, "train": len(train), "heldout": len(heldout)},
        "seconds_for_16": seconds,
        **measure_features(train, heldout, reconstructed, samples, options.steps),
        **show_neighbours(first, train, heldout, reconstructed, options),
    }  # fmt: skip
    save_record(options.command, options.out / options.name, figures, render)


def list_samplers(steps: int, guidance: float) -> dict[str, SamplerSettings]:
    """Plain DDIM, the default of `jeppa generate`, and the learned variance; with the steps asked for and with few."""
    return {
        name_sampler(variance, count): SamplerSettings(steps=count, guidance=guidance, variance=variance)
        for count in dict.fromkeys((steps, FEW_STEPS))
        for variance in ("none", "learned")
    }


def time_sampling(path: Path, settings: SamplerSettings) -> Json:
    """Seconds for `TIMED` decoded pictures in the number format that is fastest here; the first run is not counted."""
    model, seconds = load_model(path, "auto"), []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        list(model.generate(range(TIMED), settings))
        seconds.append(time.perf_counter() - began)
    return {"median": float(np.median(seconds[1:])), "all": seconds[1:], "threads": torch.get_num_threads(),
            "runtime": model.notes}  # fmt: skip


def measure_features(
    train: Pictures, heldout: Pictures, reconstructed: dict[str, Pictures], samples: dict[str, Pictures], steps: int
) -> Json:
    """What the feature net sees: Frechet distances, and classes."""
    report_progress("features")
    train_features, heldout_features = compute_features(train), compute_features(heldout)
    sample_features = {name: compute_features(pictures) for name, pictures in samples.items()}
    distances = measure_distances(
        train_features, compute_features(reconstructed["train"]), heldout_features, sample_features
    )
    report_progress("classifier")
    classifier = train_classifier(train_features, compute_features(train, mirrored=True), train.labels)
    sets = {
        HELDOUT: (heldout_features, heldout.labels),
        "their reconstructions": (compute_features(reconstructed["heldout"]), heldout.labels),
        **{name: (sample_features[name], pictures.labels) for name, pictures in samples.items()},
    }
    accuracy, right = measure_accuracies(classifier, sets)
    pairs = []
    for count in dict.fromkeys((steps, FEW_STEPS)):
        learned, plain = name_sampler("learned", count), name_sampler("none", count)
        pairs.append({"steps": count, "learned": learned, "plain": plain,
                      "accuracy": estimate_mean(right[learned] - right[plain])})  # fmt: skip
    to_heldout = {row: float(np.mean(next(iter(columns.values())))) for row, columns in distances.items()}
    return {
        "distances": distances,
        "fd_heldout": to_heldout,
        "chance": measure_chance(train.labels),
        "accuracy": accuracy,
        "pairs": pairs,
    }


def show_neighbours(
    samples: Pictures, train: Pictures, heldout: Pictures, reconstructed: dict[str, Pictures],
    options: argparse.Namespace,
) -> Json:  # fmt: skip
    """Measure the nearest training pictures, and write both sheets."""
    report_progress("nearest training pictures")
    of_samples, of_heldout = find_neighbours(samples, train), find_neighbours(heldout, train)
    near_samples, near_heldout = (
        find_neighbours(pictures, reconstructed["train"]).nearest for pictures in (samples, reconstructed["heldout"])
    )
    write_neighbour_sheet(samples, train, of_samples, options.out / f"{options.name}-neighbours.png")
    options.docs.mkdir(parents=True, exist_ok=True)
    sheet = write_sample_sheet(samples, options.docs / f"{options.name}-samples")
    return {
        "neighbours": {
            "pictures": measure_closeness(of_samples.nearest, of_heldout.nearest),
            "reconstructions": measure_closeness(near_samples, near_heldout),
        },
        "sheet": {"file": sheet.name, "labels": samples.labels[:SHOWN].tolist()},
    }


def name_sampler(variance: str, steps: int) -> str:
    """The name of a sampler in the tables."""
    return f"{'plain DDIM' if variance == 'none' else 'learned variance'}, {steps} steps"


def check_classes(model: Model, train: Pictures, data: str) -> None:
    """Refuse a model that was trained on other classes than those of the data."""
    known = set(train.labels.tolist())
    if set(model.labels) != known:
        other = sorted(known.symmetric_difference(model.labels))
        raise DataError(
            f"{data}: its classes are not those of {model.path} ({other[0]!r} is in one only); give the data that the "
            "denoiser was trained on"
        )


if __name__ == "__main__":
    sys.exit(main())
