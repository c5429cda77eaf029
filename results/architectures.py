"""Which architecture `small` should have: quality for equal training minutes, and milliseconds of decoding.

    python results/architectures.py DATA/mixed --minutes 8 --work FOLDER

DATA is what `recipes/prepare.py` writes. Every candidate trains for the same time (its rate is measured first, and
sets its number of steps), two at a time with a thread each, in float32; then each is measured on held-out pictures and
timed alone with all threads. Writes `architectures.json` and `architectures.md` beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
STRETCH = 12  # steps; whole turns of the three crop sizes
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


def main() -> None:
    """Train and measure all candidates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", help="train and measure this candidate alone; for the processes of this script")
    given = parser.parse_args()
    if given.only is not None:
        record = candidate(given.only, given.data, given.minutes, given.work)
        (given.work / f"{given.only}.json").write_text(json.dumps(record, indent=1))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: in_process(name, given), CANDIDATES))
    rows = [json.loads((given.work / f"{name}.json").read_text()) for name in CANDIDATES]
    for row in rows:
        row["decode_ms"] = decode_milliseconds(given.work / row["name"])
    from jeppa.machine import commit, machine

    command = f"python results/architectures.py DATA/mixed --minutes {given.minutes:g} --work FOLDER"
    record = {"command": command, "commit": commit(), "machine": machine(), "minutes": given.minutes, "rows": rows}
    (HERE / "architectures.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "architectures.md").write_text(table(record))


def in_process(name: str, given: argparse.Namespace) -> None:
    """Train one candidate in a process with one thread."""
    command = [sys.executable, __file__, str(given.data), "--minutes", str(given.minutes), "--work", str(given.work)]
    with (given.work / f"{name}.log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--only", name], check=True, env=environment, stdout=log, stderr=log)


def candidate(name: str, data: Path, minutes: float, work: Path) -> dict[str, Any]:
    """Train for that many minutes and measure."""
    from jeppa.config import DataConfig, OptimConfig, VAEConfig, VAERun
    from jeppa.data import open_source
    from jeppa.lab.evaluate import evaluate
    from jeppa.pipeline import load_model
    from jeppa.train import VAEObjective, train

    def settings(steps: int) -> VAERun:
        optim = OptimConfig(
            steps=steps, batch_size=16, learning_rate=5e-4, warmup_steps=100, ema_decay=0.995, precision="exact",
            log_every=STRETCH, sample_every=steps, save_every=steps,
        )  # fmt: skip
        model = VAEConfig(**{**COMMON, **CANDIDATES[name]})
        return VAERun(preset=None, model=model, data=DataConfig(data=str(data), cache_megabytes=3000), optim=optim)

    # The first stretch warms up; the last one ends with a checkpoint.
    trial = settings(3 * STRETCH)
    ends = [time.perf_counter() for _ in train(VAEObjective(trial), trial, work / f"{name} trial")]
    config = settings(round(60.0 * minutes * STRETCH / (ends[2 * STRETCH] - ends[STRETCH])))
    objective = VAEObjective(config)
    began = time.perf_counter()
    for _ in train(objective, config, work / name):
        pass
    taken = time.perf_counter() - began
    vae = load_model(work / name).codec.vae
    found = {
        "photographs at 512": evaluate(vae, open_source("builtin:photos", "heldout"), 512, name).metrics,
        "groceries at 256": evaluate(vae, open_source(data.parent / "grocery", "heldout"), 256, name, 48).metrics,
    }
    kept = [key + end for key in KEYS for end in ("", "_ci95")]
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "steps": config.optim.steps,
        "crops": objective.images_seen(config.optim.steps),
        "training_seconds": round(taken, 1),
        "metrics": {split: {key: metrics[key] for key in kept} for split, metrics in found.items()},
    }


def decode_milliseconds(run: Path) -> float:
    """Median time of decoding one picture of 512x512 with its sigma, all threads, float32."""
    import torch

    from jeppa.pipeline import load_model

    vae = load_model(run).codec.vae
    vae.disable_tiling()
    z = torch.randn(1, vae.config.latent_channels, 64, 64)
    taken = []
    with torch.inference_mode():
        vae.decode(z)
        for _ in range(REPEATS):
            began = time.perf_counter()
            vae.decode(z)
            taken.append(1000.0 * (time.perf_counter() - began))
    return round(median(taken), 1)


def table(record: dict[str, Any]) -> str:
    """Markdown: a row for each candidate."""
    lines = [
        "# Which architecture `small` should have",
        "",
        f"`{record['command']}` at commit {record['commit']}: {record['minutes']:g} minutes of training each, one",
        f"thread, seed 0, {record['machine']['processor']} with {record['machine']['cores']} cores, float32.",
        "Likelihood `faithful`; batches of 16 crops of 64, 4 of 128 and 1 of 256 pixels in turn. In brackets 95 %",
        "intervals over pictures: five held-out photographs at 512x512, 48 groceries of the validation list at",
        "256x256. Decoding: 512x512 with sigma, alone on the machine, all threads.",
        "",
        "| candidate | parameters, M | steps | decode, ms | photographs: PSNR, dB | ELBO, bpd | groceries: PSNR, dB "
        "| ELBO, bpd | LPIPS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        photographs, groceries = row["metrics"].values()
        cells = [
            f"{row['parameters'] / 1e6:.2f}", f"{row['steps']}", f"{row['decode_ms']:.0f}",
            cell(photographs, "psnr", 2), cell(photographs, "elbo_bpd", 2),
            cell(groceries, "psnr", 2), cell(groceries, "elbo_bpd", 2), cell(groceries, "lpips_alex", 3),
        ]  # fmt: skip
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(metrics: dict[str, Any], key: str, digits: int) -> str:
    """A figure with its interval."""
    low, high = metrics[f"{key}_ci95"]
    return f"{metrics[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
