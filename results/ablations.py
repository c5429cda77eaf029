"""What each part of a short training from noise is worth: a VAE with one part taken away at a time.

    python results/ablations.py

Trains 150 steps on the training scenes of builtin:photos for seeds 0 and 1, measures whole held-out pictures,
and writes `ablations.json` and `ablations.md` beside this file. Without an accelerator it takes about ten minutes.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.config import DataConfig, OptimConfig, VAERun
from jeppa.data import open_source
from jeppa.lab.evaluate import evaluate
from jeppa.machine import commit, machine
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train
from jeppa.vae.sigma_head import CELL, CHANNELS

HERE = Path(__file__).parent
STEPS = 150
COLOUR_JITTER = 0.8
SEEDS = (0, 1)
KEYS = ("psnr", "sigma_error_spearman", "sigma_error_spearman_sobel", "coverage_90", "chi2", "elbo_bpd")


def raw_mean(mean: Tensor) -> Tensor:
    """The colours of the reconstruction in place of its contrast, padded to as many channels."""
    cells = F.pixel_unshuffle(mean, CELL)
    return F.pad(cells, (0, 0, 0, 0, 0, CHANNELS - cells.shape[1]))


def measure(seed: int, data: DataConfig) -> dict[str, float]:
    """Train one VAE and measure it."""
    optim = OptimConfig(steps=STEPS, batch_size=8, ema_decay=0.99, sample_every=STEPS, save_every=STEPS)
    config = VAERun(seed=seed, data=data, optim=optim)
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(VAEObjective(config), config, Path(folder)):
            pass
        found = evaluate(
            load_model(Path(folder)).codec.vae, open_source(data.data, "heldout"), None, "ablation"
        ).metrics
    return {key: found[key] for key in KEYS}


def main() -> None:
    """Train all arms and write the table."""
    data = DataConfig(colour_jitter=COLOUR_JITTER)
    arms: dict[str, Callable[[int], dict[str, float]]] = {
        "all parts": lambda seed: measure(seed, data),
        "no linear start": lambda seed: patched(
            "jeppa.train.vae.VAEObjective._start_linear", lambda _: None, seed, data
        ),
        "sigma head sees colours, not contrast": lambda seed: patched(
            "jeppa.vae.sigma_head.log_contrast", raw_mean, seed, data
        ),
        "no colour jitter": lambda seed: measure(seed, DataConfig()),
        "crops of one size": lambda seed: measure(seed, DataConfig(colour_jitter=COLOUR_JITTER, sizes=1)),
    }
    rows = {name: [arm(seed) for seed in SEEDS] for name, arm in arms.items()}
    record = {"command": "python results/ablations.py", "steps": STEPS, "seeds": SEEDS, "commit": commit(),
              "machine": machine(), "arms": rows}  # fmt: skip
    (HERE / "ablations.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "ablations.md").write_text(table(record))


def patched(target: str, replacement: object, seed: int, data: DataConfig) -> dict[str, float]:
    """`measure` with one function of the library replaced."""
    with mock.patch(target, replacement):
        return measure(seed, data)


def table(record: dict) -> str:
    """Markdown: the mean over seeds and, in brackets, the least and the greatest."""
    lines = [
        "# What each part of the short training is worth",
        "",
        f"`{record['command']}` at commit {record['commit']}: {record['steps']} steps of `small` from noise, seeds "
        f"{', '.join(map(str, record['seeds']))}, whole held-out pictures of `builtin:photos`, mean over five images; "
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, torch {torch.__version__}, fp32. "
        "Mean over seeds [least, greatest].",
        "",
        "| arm | " + " | ".join(KEYS) + " |",
        "|---|" + "---|" * len(KEYS),
    ]
    for name, runs in record["arms"].items():
        columns = [[run[key] for run in runs] for key in KEYS]
        cells = [f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" for values in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
