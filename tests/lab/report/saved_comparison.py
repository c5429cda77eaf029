"""A small folder of a saved comparison, as `jeppa compare` writes it: random pictures, every section."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from saved_results import SIDE, save_json, save_lines, save_png

ARMS = ("shared", "faithful", "novel")
"""The reference, the best arm, and one that no list knows; the last one is not at the same rate."""
REASON = "one sigma ranks <nothing>"
MEANS: dict[str, tuple[float, float, float]] = {
    "psnr": (27.1, 27.15, 29.9),
    "elbo_bpd": (5.9, 5.4, 5.1),
    "rate_bpd": (0.3, 0.301, 0.4),
    "gradient_energy_ratio": (0.43, 0.42, 0.5),
    "gradient_energy_ratio_draw": (1.9, 1.07, 1.5),
    "ence": (0.4, 0.11, 0.2),
    "ence_recalibrated": (0.3, 0.0456, 0.1),
    "coverage_50": (0.7, 0.51, 0.6),
    "coverage_90": (0.96, 0.897, 0.8),
    "zebra_count": (1.25, 2.25, 3.25),
}
WIDTH = {"psnr": 0.5, "coverage_50": 0.02, "coverage_90": 0.02}


def save_comparison(
    folder: Path, arms: tuple[str, ...] = ARMS, names: tuple[str, ...] = ("<cat>", "dog")
) -> dict[str, Any]:
    """Write everything; returns the content of `compare.json`."""
    rng = np.random.default_rng(0)
    for place, arm in enumerate(arms):
        for seed in range(3):
            save_run(folder / f"runs/{arm}-{seed}", place, seed)
    comparison = {
        "title": "which <sigma>",
        "command": "jeppa compare --data builtin:photos --out compare",
        "created": "2026-11-22T14:00:00+00:00",
        "machine": {"processor": "A processor", "cores": 2, "torch_version": "2.13.0"},
        "seconds": 7530.0,
        "budget": budget(arms),
        "arms": [arm_of(arm, place) for place, arm in enumerate(arms)],
        "reasons": {arm: {"sigma_error_spearman": REASON, "lpips_vgg": "weights are <missing>"} for arm in arms},
        "paired": [pair(arm, arms[0], key) for arm in arms[1:] for key in ("psnr", "elbo_bpd", "zebra_count")],
        "codecs": {"png_bpd": {"mean": 6.543, "ci95": [6.1, 6.9]}, "webp_bpd": {"mean": 5.987, "ci95": None}},
        "curves": {arm: curves() for arm in arms},
        "gallery": [sheet(folder, name, arms, rng) for name in names],
    }
    save_json(folder / "compare.json", comparison)
    return comparison


def budget(arms: tuple[str, ...]) -> dict[str, Any]:
    rates = {arm: {"ratio": 1.004, "matched": True} for arm in arms[:-1]}
    rates[arms[-1]] = {"ratio": 1.333, "matched": False}
    return {
        "data": "builtin:photos",
        "data_fingerprint": "9f2c",
        "preset": "small",
        "steps": 900,
        "images": 28800,
        "batch_size": 32,
        "resolution": 64,
        "seeds": [0, 1, 2],
        "heldout_images": 96,
        "reference": arms[0],
        "rate_tolerance": 0.03,
        "rates": rates,
    }


def arm_of(arm: str, place: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {key: value(means[place % 3], WIDTH.get(key, 0.03)) for key, means in MEANS.items()}
    metrics["sigma_error_spearman"] = value(0.77, 0.01) if place == 1 else {"mean": None, "ci95": None, "per_seed": []}
    metrics["lpips_vgg"] = {"mean": None, "ci95": None, "per_seed": [None, None, None]}
    return {
        "arm": arm,
        "title": f"{arm} & co",
        "seed_count": 3,
        "parameters": 1_700_000,
        "beta": [0.0301, 0.0302, 0.0303],
        "runs": [f"runs/{arm}-{seed}" for seed in range(3)],
        "metrics": metrics,
    }


def value(mean: float, width: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - width, mean + width], "per_seed": [mean - 0.012, mean, mean + 0.012]}


def pair(a: str, b: str, key: str) -> dict[str, Any]:
    """PSNR holds zero, the others are clear of it."""
    if key == "psnr":
        return {"a": a, "b": b, "key": key, "difference": 0.05, "ci95": [-0.21, 0.31], "per_seed": [0.0, 0.05, 0.1]}
    return {"a": a, "b": b, "key": key, "difference": -0.5, "ci95": [-0.62, -0.38], "per_seed": [-0.4, -0.5, None]}


def curves() -> dict[str, Any]:
    removed = [n / 10 for n in range(10)]
    return {
        "reliability": {"predicted": [1.0, 2.0, 4.0], "observed": [1.1, 2.2, None]},
        "sparsification": {
            "removed": removed,
            "by_sigma": [8 - 5 * x for x in removed],
            "by_sobel": [8 - 4 * x for x in removed],
            "oracle": [*(8 * (1 - x) for x in removed[:-1]), math.nan],
        },
        "pit": [0.05 + 0.002 * (n - 9.5) for n in range(20)],
    }


def save_run(run: Path, place: int, seed: int) -> None:
    """A log with one value missing; each seed is a decibel above the last."""
    lines = [
        {"step": s, "psnr": 20 + math.log(s) + seed + place, "elbo_bpd": 4 + 1 / s, "rate_bpd": 0.3, "active_units": 4}
        for s in range(1, 30)
    ]
    save_lines(run, [*lines, {"step": 30, "psnr": None, "elbo_bpd": math.nan}])


def sheet(folder: Path, name: str, arms: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """One held-out picture; the first arm has no draw of it."""
    stem = f"pictures/{name.strip('<>')}"
    saved: dict[str, Any] = {}
    for arm in arms:
        saved[arm] = {"recon": save_png(folder, f"{stem}.{arm}.recon.png", rng)}
        if arm != arms[0]:
            saved[arm]["draw"] = save_png(folder, f"{stem}.{arm}.draw.png", rng)
        for key in ("sigma", "error"):
            saved[arm][key] = f"{stem}.{arm}.{key}.npy"
            np.save(folder / saved[arm][key], rng.uniform(0, 30, (SIDE, SIDE)).astype(np.float32))
    return {"name": name, "original": save_png(folder, f"{stem}.png", rng), "arms": saved}
