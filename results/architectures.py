"""Which architecture should `small` have? Quality after equal minutes of training, and milliseconds of decoding.

    python -m results.architectures DATA/mixed --minutes 8 --work FOLDER

DATA is what `recipes/prepare.py` writes. Every candidate trains for the same time: its speed is measured first and sets
its number of steps. Two candidates train at a time, each on one thread, in float32. Each is then measured on held-out
pictures and timed alone on all threads. Writes `architectures.json` and `architectures.md`.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from jeppa.config import DataConfig, OptimConfig, VAEConfig, VAERun
from jeppa.data import open_source
from jeppa.lab.evaluate import evaluate
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train
from results.record import (
    Json,
    describe_origin,
    join_lines,
    markdown_table,
    run_study,
    save_record,
    show_interval,
    study_parser,
)
from results.short_runs import single_threaded_processes

STRETCH = 12
"""Steps that are timed together: whole rounds of the three crop sizes."""
REPEATS = 5
KEYS = ("psnr", "lpips_alex", "elbo_bpd", "rate_bpd", "ence", "sigma_error_spearman")
COMMON = {"layers_per_block": 1, "norm_num_groups": 8, "mid_block_attention": False, "sigma_channels": 96}
CANDIDATES: dict[str, dict[str, Any]] = {
    "unshuffle 8, 128": {"pixel_unshuffle": 8, "block_out_channels": (128,)},
    "unshuffle 8, 160, 2 layers": {"pixel_unshuffle": 8, "block_out_channels": (160,), "layers_per_block": 2},
    "unshuffle 4, 64-128": {"pixel_unshuffle": 4, "block_out_channels": (64, 128)},
    "unshuffle 4, 96-160": {"pixel_unshuffle": 4, "block_out_channels": (96, 160)},
    "unshuffle 2, 32-64-128": {"pixel_unshuffle": 2, "block_out_channels": (32, 64, 128)},
    "plain, 32-64-128-128": {"pixel_unshuffle": 1, "block_out_channels": (32, 64, 128, 128)},
}


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("architectures", __doc__)
    parser.add_argument("data", type=Path, help="the folder `mixed` that recipes/prepare.py wrote")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training for each candidate")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    return run_study(parser, measure_candidates, arguments)


def measure_candidates(options: argparse.Namespace) -> None:
    """Train, measure and time every candidate, and write the record."""
    names, count = list(CANDIDATES), len(CANDIDATES)
    with single_threaded_processes(2) as pool:
        rows = list(pool.map(measure, names, [options.data] * count, [options.minutes] * count, [options.work] * count))
    for row in rows:
        row["decode_ms"] = time_decoding(options.work / row["name"])
    save_record(
        options.command, options.out / "architectures", {"minutes": options.minutes, "seed": 0, "rows": rows}, render
    )


def measure(name: str, data: Path, minutes: float, work: Path) -> Json:
    """Train one candidate for that many minutes and measure it on both kinds of held-out pictures."""
    # The first stretch warms up, and the last one ends with a checkpoint: the one between them is timed.
    trial = make_settings(name, data, 3 * STRETCH)
    ends = [time.perf_counter() for _ in train(VAEObjective(trial), work / f"{name} trial")]
    config = make_settings(name, data, round(60.0 * minutes * STRETCH / (ends[2 * STRETCH] - ends[STRETCH])))
    objective = VAEObjective(config)
    began = time.perf_counter()
    for _ in train(objective, work / name):
        pass
    seconds = time.perf_counter() - began
    vae = load_model(work / name).codec.vae
    metrics = {
        "photographs at 512": evaluate(vae, open_source("builtin:photos", "heldout"), 512, name).metrics,
        "groceries at 256": evaluate(vae, open_source(data.parent / "grocery", "heldout"), 256, name, 48).metrics,
    }
    keys = [key + suffix for key in KEYS for suffix in ("", "_ci95")]
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "steps": config.optim.steps,
        "crops": objective.data.images_seen(config.optim.steps),
        "training_seconds": round(seconds, 1),
        "metrics": {kind: {key: values[key] for key in keys} for kind, values in metrics.items()},
    }


def make_settings(name: str, data: Path, steps: int) -> VAERun:
    """Settings of a run of the candidate `name`."""
    optim = OptimConfig(
        steps=steps, batch_size=16, learning_rate=5e-4, warmup_steps=100, ema_decay=0.995, precision="exact",
        log_every=STRETCH, sample_every=steps, save_every=steps,
    )  # fmt: skip
    model = VAEConfig(**{**COMMON, **CANDIDATES[name]})
    return VAERun(preset=None, model=model, data=DataConfig(data=str(data), cache_megabytes=3000), optim=optim)


@torch.inference_mode()
def time_decoding(run: Path) -> float:
    """Median milliseconds of decoding one picture of 512x512 with its sigma, on all threads, in float32."""
    vae = load_model(run).codec.vae
    vae.disable_tiling()
    z = torch.randn(1, vae.config.latent_channels, 64, 64)
    vae.decode(z)
    milliseconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        vae.decode(z)
        milliseconds.append(1000.0 * (time.perf_counter() - began))
    return round(median(milliseconds), 1)


def render(record: Json) -> str:
    """The record as Markdown: a row for each candidate."""
    headers = [
        "candidate", "parameters, M", "steps", "decode, ms", "photographs: PSNR, dB", "ELBO, bpd",
        "groceries: PSNR, dB", "ELBO, bpd", "LPIPS",
    ]  # fmt: skip
    return join_lines([
        "# Which architecture `small` should have",
        "",
        f"{describe_origin(record)}: {record['minutes']:g} minutes of training each, one",
        f"thread, seed 0, {record['machine']['processor']} with {record['machine']['cores']} cores, float32.",
        "Likelihood `faithful`; batches of 16 crops of 64, 4 of 128 and 1 of 256 pixels in turn. In brackets 95 %",
        "intervals over pictures: five held-out photographs at 512x512, 48 groceries of the validation list at",
        "256x256. Decoding: 512x512 with sigma, alone on the machine, all threads.",
        "",
        markdown_table(headers, [list_cells(row) for row in record["rows"]]),
    ])  # fmt: skip


def list_cells(row: Json) -> list[str]:
    """The cells of one candidate."""
    photographs, groceries = row["metrics"].values()
    figures = [
        (photographs, "psnr", ".2f"), (photographs, "elbo_bpd", ".2f"),
        (groceries, "psnr", ".2f"), (groceries, "elbo_bpd", ".2f"), (groceries, "lpips_alex", ".3f"),
    ]  # fmt: skip
    return [
        row["name"], f"{row['parameters'] / 1e6:.2f}", f"{row['steps']}", f"{row['decode_ms']:.0f}",
        *(show_interval(metrics[key], metrics[f"{key}_ci95"], spec) for metrics, key, spec in figures),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
