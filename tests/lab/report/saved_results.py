"""A small folder of saved results, as the demo writes them: random pictures, every section."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
ARMS = ("faithful", "shared", "fixed")
NULL_REASON = "one sigma ranks <nothing>"


def save_results(folder: Path) -> dict[str, Any]:
    """Write everything; returns the content of `report.json`."""
    rng = np.random.default_rng(0)
    for arm in ARMS:
        save_run(folder / f"vae-{arm}", arm)
    save_lines(folder / "diffusion", [{"step": s, "loss": 1.0 / s, "lr": 1e-3} for s in range(1, 40)])
    report = {
        "title": "demo <of> tests",
        "command": "jeppa demo --out demo",
        "seed": 7,
        "created": "2026-11-22T14:00:00+00:00",
        "machine": {"processor": "A processor", "cores": 2, "memory_gib": 23.5, "torch": "2.13.0"},
        "seconds": {"train faithful": 101.2, "total": 512.0},
        "data": {
            "name": "builtin:photos",
            "train": [{"name": "brick.png", "label": "texture"}],
            "heldout": [{"name": "<cat>.png", "label": None}],
            "fingerprint": "9f2c",
        },
        "arms": [{"arm": a, "title": f"{a} & co", "run": f"vae-{a}", "steps": 900, "parameters": 15} for a in ARMS],
        "reconstructions": [save_reconstruction(folder, name, rng) for name in ("<cat>.png", "dog.png")],
        "calibration": {a: {"predicted": [1.0, 2.0, 4.0], "observed": [1.1, 0.0, None]} for a in ARMS},
        "samples": [
            {"steps": s, "images": [save_png(folder, f"samples/{s}-{n}.png", rng) for n in range(3)], "seconds": 0.8}
            for s in (5, 50)
        ],
        "sample_labels": ["cat", None, "<dog>"],
        "sample_seeds": [11, 12, 13],
        "estimates": [{"index": 0, "t": 999, "image": save_png(folder, "estimates/0.png", rng)}],
        "interpolation": {
            "a": "<cat>.png",
            "b": "dog.png",
            "frames": [save_png(folder, f"interpolation/{n}.png", rng) for n in range(3)],
        },
        "diffusion": {"run": "diffusion", "steps": 900, "parameters": 1_000_000},
    }
    save_json(folder / "report.json", report)
    return report


def save_run(run: Path, arm: str) -> None:
    """A VAE's run folder: a log with one value missing, metrics with nulls."""
    lines = [{"step": s, "psnr": 20 + math.log(s), "elbo_bpd": 4 + 1 / s, "rate_bpd": 0.3} for s in range(1, 30)]
    save_lines(run, [*lines, {"step": 30, "psnr": None, "elbo_bpd": math.nan}])
    metrics: dict[str, Any] = {"n_images": 6, "resolution": 64, "model": "x", "lpips_vgg": None, "novel": 0.1234}
    metrics |= {"psnr": 27.618, "psnr_ci95": [26.3, 28.9], "novel_ci95": [0.1, 0.2], "sigma_error_spearman": 0.884}
    metrics |= {f"coverage_{p}": p / 100 - 0.0123 for p in (50, 68, 90, 95)}
    metrics["reasons"] = {"lpips_vgg": "weights are <missing>"}
    if arm != "faithful":
        metrics["sigma_error_spearman"] = None
        metrics["reasons"]["sigma_error_spearman"] = NULL_REASON
    save_json(run / "metrics.json", metrics)


def save_reconstruction(folder: Path, name: str, rng: np.random.Generator) -> dict[str, Any]:
    stem = name.strip("<>").replace(">", "")
    arms = {}
    for arm in ARMS:
        base = f"reconstructions/{stem}.{arm}"
        arms[arm] = {"recon": save_png(folder, f"{base}.recon.png", rng)}
        for key, values in (("sigma", rng.uniform(0, 9, (SIDE, SIDE))), ("error", rng.uniform(0, 99, (SIDE, SIDE)))):
            arms[arm][key] = f"{base}.{key}.npy"
            np.save(folder / arms[arm][key], values.astype(np.float32))
    return {"name": name, "original": save_png(folder, f"reconstructions/{stem}.original.png", rng), "arms": arms}


def save_png(folder: Path, name: str, rng: np.random.Generator) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / name)
    return name


def save_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def save_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values))
