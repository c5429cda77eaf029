"""Figures of single runs -> those of the arms, and paired differences between arms.

Every figure has one value for each seed and held-out picture. An interval resamples both, seeds and pictures, so that
it covers the luck of a training run and the choice of pictures; what is measured on all pictures at once (ENCE,
Frechet distance) has one value for each seed and a t interval over seeds.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jeppa.errors import CheckpointError
from jeppa.files import write_text_atomically
from jeppa.lab.compare.plan import RATE_TOLERANCE, Comparison, Run, needs_rate
from jeppa.lab.compare.work import EVALUATION

RESAMPLES = 4000
CODECS = ("png_bpd", "jpeg2000_bpd", "webp_bpd")
Json = dict[str, Any]
Values = NDArray[np.float64]


def read_evaluation(run: Run) -> Json:
    """What a worker measured.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = run.folder / EVALUATION
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable result ({error}); delete it and compare again") from None


def two_way_interval(values: Values, seed: int = 0) -> list[float] | None:
    """95 % bootstrap interval of the mean of `[seeds,pictures]`, resampling rows and columns; None for one value.

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


def t_interval(values: Values) -> list[float] | None:
    """95 % t interval of a mean over seeds, `[seeds]`; None for fewer than two."""
    if len(values) < 2:
        return None
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return [float(values.mean() - reach), float(values.mean() + reach)]


def per_picture(evaluations: list[Json], key: str) -> Values:
    """Values of a metric, `[seeds,pictures]`; pictures without a value for some seed are left out."""
    table = np.array([[row.get(key) for row in one["rows"]] for one in evaluations], dtype=np.float64)
    kept: Values = table[:, ~np.isnan(table).any(axis=0)]
    return kept


def summarise_arm(evaluations: list[Json]) -> Json:
    """`{key: {mean, ci95, per_seed}}` for every figure that any seed has."""
    result: Json = {}
    for key in figures_of(evaluations):
        values = per_picture(evaluations, key) if key in evaluations[0]["rows"][0] else None
        if values is not None and values.size:
            entry: Json = {
                "mean": float(values.mean()),
                "ci95": two_way_interval(values),
                "per_seed": _floats(values.mean(1)),
            }
        else:
            seeds = np.array([one["metrics"].get(key) for one in evaluations], dtype=np.float64)
            known = not np.isnan(seeds).any()
            entry = {
                "mean": float(seeds.mean()) if known else None,
                "ci95": t_interval(seeds) if known else None,
                "per_seed": [None if math.isnan(value) else float(value) for value in seeds],
            }
        result[key] = entry
    return result


def figures_of(evaluations: list[Json]) -> list[str]:
    """Keys of the figures of one arm: numbers or nulls that are no interval and no description."""
    about = {"n_images", "resolution", "seconds", "model", "commit", "data_fingerprint"}
    metrics = evaluations[0]["metrics"]
    numbers = (k for k, v in metrics.items() if v is None or isinstance(v, int | float))
    return [key for key in numbers if key not in about and not key.endswith("_ci95")]


def paired(measured: dict[str, list[Json]], reference: str) -> list[Json]:
    """Differences a minus b on the same pictures and seeds, of every arm to the reference and to `nll`."""
    others = [b for b in (reference, "nll") if b in measured]
    pairs = [(a, b) for b in others for a in measured if a != b and not (b == "nll" and a == reference)]
    return [entry for a, b in pairs for entry in _paired_differences(a, b, measured[a], measured[b])]


def rates_of_arms(comparison: Comparison, measured: dict[str, list[Json]]) -> Json:
    """Held-out rate of each arm over that of the reference, and whether all seeds are within the tolerance."""
    reference = per_picture(measured[comparison.reference], "rate_bpd").mean(1)
    result: Json = {}
    for arm, evaluations in measured.items():
        ratios = per_picture(evaluations, "rate_bpd").mean(1) / reference
        matched = bool((abs(ratios - 1.0) <= RATE_TOLERANCE).all())
        adapted = needs_rate(comparison, arm)
        result[arm] = {
            "ratio": float(ratios.mean()),
            "per_seed": _floats(ratios),
            "matched": matched,
            "adapted": adapted,
        }
    return result


def codecs(evaluations: list[Json]) -> Json:
    """Lossless codecs on the same pictures, bits a dimension."""
    found = summarise_arm(evaluations[:1])
    return {key: {"mean": found[key]["mean"], "ci95": found[key]["ci95"]} for key in CODECS if key in found}


def write_json(content: Json, path: Path) -> None:
    """Write a result so that it is whole or not there."""
    write_text_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _paired_differences(a: str, b: str, ours: list[Json], theirs: list[Json]) -> list[Json]:
    entries = []
    for key in ours[0]["rows"][0]:
        if key == "name" or key in CODECS or key not in theirs[0]["rows"][0]:
            continue
        table = np.array(
            [[_gap(x.get(key), y.get(key)) for x, y in zip(one["rows"], two["rows"], strict=True)]
             for one, two in zip(ours, theirs, strict=True)]
        )  # fmt: skip
        values = table[:, ~np.isnan(table).any(axis=0)]
        if values.size:
            interval = two_way_interval(values)
            entries.append({"a": a, "b": b, "key": key, "difference": float(values.mean()), "ci95": interval,
                            "per_seed": _floats(values.mean(1))})  # fmt: skip
    return entries


def _gap(one: float | None, other: float | None) -> float:
    return math.nan if one is None or other is None else one - other


def _floats(values: Values) -> list[float]:
    return [float(value) for value in values]
