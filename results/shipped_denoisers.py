"""What a trained denoiser's samples are worth: distance to held-out pictures, copies, classes and seconds.

    python results/shipped_denoisers.py MODEL --name emoji --data DATA/emoji

MODEL is a run folder of a class-conditional denoiser, DATA what `recipes/prepare.py` made. Writes
`results/shipped/NAME.json`, `NAME.md`, `NAME-neighbours.png` and `docs/NAME-samples.png` (or `.jpg`) under `--out`.
Samples are kept in `--work`, so a run that was stopped does not draw them again.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shipped.classes import accuracies, chance, estimate, train_classifier
from shipped.denoiser_table import table
from shipped.distances import distances, features_of
from shipped.neighbours import closeness, neighbours
from shipped.pictures import Pictures, draw, labels_by_share, real_pictures, round_trip
from shipped.record import record, say
from shipped.sheets import SHOWN, neighbour_sheet, sample_sheet

from jeppa.errors import ConfigError, DataError
from jeppa.pipeline import Model, SamplerSettings, load_model

ROOT = Path(__file__).parents[1]
FEW_STEPS = 10
TIMED = 16
REPEATS = 5
HELDOUT = "held-out pictures"

Json = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return record("results/shipped_denoisers.py", _parser(), arguments, measure, table)


def measure(given: argparse.Namespace) -> Json:
    """All figures; writes the pictures.

    Raises:
        JeppaError: too few samples, a model without variance head, other classes than those of the data, or files that
            cannot be used.
    """
    if given.samples < SHOWN:
        raise ConfigError(f"samples is {given.samples}, but the sheet shows {SHOWN}: ask for that many or more")
    model = load_model(given.model)
    model.check_variance("the comparison with --variance learned")
    train, heldout = (real_pictures(given.data, split, model.side()) for split in ("train", "heldout"))
    _check_classes(model, train, given.data)
    say(f"{len(train)} training and {len(heldout)} held-out pictures; timing")
    seconds = seconds_for_16(
        given.model, SamplerSettings(steps=given.steps, guidance=given.guidance, label=model.labels[0])
    )
    labels = labels_by_share(train.labels, given.samples)
    samples = {}
    for name, settings in samplers(given.steps, given.guidance).items():
        say(f"drawing {given.samples} samples: {name}")
        samples[name] = draw(model, settings, labels, given.work)
    say("the VAE's round trip, and pictures of samples")
    again = {"train": round_trip(model.codec, train), "heldout": round_trip(model.codec, heldout)}
    first = next(iter(samples.values()))
    return {
        "resolution": model.side(), "steps": given.steps, "guidance": given.guidance,
        "counts": {"samples": given.samples, "train": len(train), "heldout": len(heldout)},
        "seconds_for_16": seconds,
        **_looks(train, heldout, again, samples, given.steps),
        **_pictures(first, train, heldout, again, given),
    }  # fmt: skip


def samplers(steps: int, guidance: float) -> dict[str, SamplerSettings]:
    """Plain DDIM first, which `jeppa generate` takes, then the learned variance; at the steps asked for and at few."""
    return {
        _title(variance, count): SamplerSettings(steps=count, guidance=guidance, variance=variance)
        for count in dict.fromkeys((steps, FEW_STEPS))
        for variance in ("none", "learned")
    }


def seconds_for_16(path: Path, settings: SamplerSettings) -> Json:
    """Seconds for 16 decoded pictures in the number format that is fastest here, after one run that does not count."""
    model, seconds = load_model(path, "auto"), []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        list(model.generate(range(TIMED), settings))
        seconds.append(time.perf_counter() - began)
    return {"median": float(np.median(seconds[1:])), "all": seconds[1:], "threads": torch.get_num_threads(),
            "runtime": model.notes}  # fmt: skip


def _looks(
    train: Pictures, heldout: Pictures, again: dict[str, Pictures], samples: dict[str, Pictures], steps: int
) -> Json:
    """What the feature net sees: Frechet distances and classes."""
    say("features")
    real, held = features_of(train), features_of(heldout)
    of_samples = {name: features_of(one) for name, one in samples.items()}
    found = distances(real, features_of(again["train"]), held, of_samples)
    say("classifier")
    classifier = train_classifier(real, features_of(train, mirrored=True), train.labels)
    sets = {HELDOUT: (held, heldout.labels), "their reconstructions": (features_of(again["heldout"]), heldout.labels)}
    sets |= {name: (of_samples[name], one.labels) for name, one in samples.items()}
    accuracy, right = accuracies(classifier, sets)
    pairs = []
    for count in dict.fromkeys((steps, FEW_STEPS)):
        learned, plain = _title("learned", count), _title("none", count)
        pairs.append({"steps": count, "learned": learned, "plain": plain,
                      "accuracy": estimate(right[learned] - right[plain])})  # fmt: skip
    to_heldout = {row: float(np.mean(next(iter(columns.values())))) for row, columns in found.items()}
    return {
        "distances": found,
        "fd_heldout": to_heldout,
        "chance": chance(train.labels),
        "accuracy": accuracy,
        "pairs": pairs,
    }


def _pictures(
    samples: Pictures, train: Pictures, heldout: Pictures, again: dict[str, Pictures], given: argparse.Namespace
) -> Json:
    """Nearest neighbours, and both sheets."""
    say("nearest training pictures")
    found, shipped = neighbours(samples, train), given.out / "results" / "shipped"
    shipped.mkdir(parents=True, exist_ok=True)
    (given.out / "docs").mkdir(exist_ok=True)
    neighbour_sheet(samples, train, found, shipped / f"{given.name}-neighbours.png")
    sheet = sample_sheet(samples, given.out / "docs" / f"{given.name}-samples")
    held = neighbours(heldout, train)
    through = [neighbours(one, again["train"]).nearest for one in (samples, again["heldout"])]
    return {
        "neighbours": {"pictures": closeness(found.nearest, held.nearest), "reconstructions": closeness(*through)},
        "sheet": {"file": sheet.name, "labels": samples.labels[:SHOWN].tolist()},
    }


def _title(variance: str, steps: int) -> str:
    return f"{'plain DDIM' if variance == 'none' else 'learned variance'}, {steps} steps"


def _check_classes(model: Model, train: Pictures, data: str) -> None:
    known = set(train.labels.tolist())
    if set(model.labels) != known:
        other = sorted(known.symmetric_difference(model.labels))
        raise DataError(
            f"{data}: its classes are not those of {model.path} ({other[0]!r} is in one only); give the data that the "
            "denoiser was trained on"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a trained class-conditional denoiser on held-out data.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder of the denoiser")
    parser.add_argument("--name", required=True, help="of the files that are written")
    parser.add_argument("--data", required=True, help="folder with train/LABEL and val/LABEL")
    parser.add_argument("--samples", type=int, default=1000, help="of each sampler")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=1.0, help="of all samplers")
    parser.add_argument("--out", type=Path, default=ROOT, help="root of the tree to write into")
    parser.add_argument("--work", type=Path, default=Path("build/shipped"), help="folder where samples are kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
