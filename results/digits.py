"""Does the mean suffer when a variance is learned? The comparison of the faithful paper, repeated on small digits.

    python -m results.digits

Trains the `tiny` VAE on scikit-learn's 1,797 digits (8x8 pixels, one latent cell of four numbers each) with four
likelihoods and three seeds, and writes `digits.json` and `digits.md`. On MNIST the paper (Stirn et al., arXiv
2212.09184) reports an RMSE of .759 for squared error, 2.27 for NLL, .850 for beta-NLL and .759 for faithful.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits

from jeppa.config import DataConfig, Likelihood, OptimConfig, VAERun
from jeppa.data import evaluation_images, open_source, to_x, write_png
from jeppa.data.images import LEVELS_PER_UNIT
from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    list_numbers,
    run_study,
    save_record,
    seed_table,
    study_parser,
)
from results.short_runs import train_vae

ARMS: tuple[Likelihood, ...] = ("shared", "nll", "beta-nll", "faithful")
SEEDS = (0, 1, 2)
STEPS = 500
BATCH = 64


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run_study(study_parser("digits", __doc__), measure_arms, arguments)


def measure_arms(options: argparse.Namespace) -> None:
    """Train and measure every arm, and write the record."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_digits(folder / "digits")
        figures = {
            arm: [measure(arm, seed, folder / "digits", folder / f"{arm}-{seed}") for seed in SEEDS] for arm in ARMS
        }
    save_record(options.command, options.out / "digits", {"steps": STEPS, "seeds": SEEDS, "arms": figures}, render)


def write_digits(folder: Path) -> None:
    """Write the digits as PNG files, grey as RGB: every fifth one to val/, the others to train/."""
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
    for index, grey in enumerate(load_digits().images):
        levels = np.round(grey * 255.0 / 16.0).astype(np.uint8)
        split = "val" if index % 5 == 0 else "train"
        write_png(to_x(np.repeat(levels[..., None], 3, axis=2)), folder / split / f"{index:04d}.png")


def measure(arm: Likelihood, seed: int, data: Path, run: Path) -> dict[str, float | None]:
    """Train one VAE in the folder `run`; RMSE of its mean in grey levels, and chi2, on held-out digits."""
    optim = OptimConfig(
        steps=STEPS, batch_size=BATCH, learning_rate=1e-3, ema_decay=0.99, sample_every=STEPS, save_every=STEPS,
        precision="fp32",
    )  # fmt: skip
    crops = DataConfig(data=str(data), resolution=8, sizes=1, flip=False)
    vae = train_vae(VAERun(seed=seed, preset="tiny", likelihood=arm, data=crops, optim=optim), run)
    x = torch.stack([digit for _, digit in evaluation_images(open_source(data, "heldout"), None)])
    with torch.no_grad():
        decoded = vae.reconstruct(x)
    squared = (x - decoded.mean).square()
    return {
        "rmse_levels": LEVELS_PER_UNIT * float(squared.mean().sqrt()),
        "chi2": float((squared / decoded.var).mean()),
    }


def render(record: Json) -> str:
    """The record as Markdown."""
    return join_lines([
        "# Digits: what a learned variance does to the mean",
        "",
        f"{describe_origin(record)}: `tiny`, {record['steps']} steps of {BATCH} digits, seeds "
        f"{list_numbers(record['seeds'])}, beta 1, 360 held-out digits; {describe_machine(record)}, fp32. "
        "Mean over seeds [least, greatest].",
        "",
        seed_table("arm", record["arms"], {"rmse_levels": "RMSE of the mean, grey levels", "chi2": "chi2"}),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
