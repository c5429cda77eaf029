"""What does each part of a short training contribute? A VAE is trained with one part taken away at a time.

    python -m results.ablations

Trains 150 steps of `small` on the training scenes of builtin:photos for seeds 0 and 1 and measures whole held-out
pictures. Without an accelerator it takes about ten minutes. Writes `ablations.json` and `ablations.md`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from torch import Tensor
from torch.nn import functional as F

from jeppa.config import CELL, DataConfig, VAERun
from jeppa.data import open_source
from jeppa.lab.evaluate import evaluate
from jeppa.vae.sigma_head import CHANNELS
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
from results.short_runs import short_optimisation, train_vae

STEPS = 150
COLOUR_JITTER = 0.8
SEEDS = (0, 1)
KEYS = ("psnr", "sigma_error_spearman", "sigma_error_spearman_sobel", "coverage_90", "chi2", "elbo_bpd")

Metrics = dict[str, float | None]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run_study(study_parser("ablations", __doc__), measure_arms, arguments)


def measure_arms(options: argparse.Namespace) -> None:
    """Train and measure every arm, and write the record."""
    data = DataConfig(colour_jitter=COLOUR_JITTER)
    arms: dict[str, Callable[[int], Metrics]] = {
        "all parts": lambda seed: measure(seed, data),
        "no linear start": lambda seed: measure_patched(
            "jeppa.train.vae.VAEObjective._start_linear", lambda _: None, seed, data
        ),
        "sigma head sees colours, not contrast": lambda seed: measure_patched(
            "jeppa.vae.sigma_head.log_contrast", show_colours, seed, data
        ),
        "no colour jitter": lambda seed: measure(seed, DataConfig()),
        "crops of one size": lambda seed: measure(seed, DataConfig(colour_jitter=COLOUR_JITTER, sizes=1)),
    }
    figures = {name: [measure_arm(seed) for seed in SEEDS] for name, measure_arm in arms.items()}
    save_record(
        options.command, options.out / "ablations", {"steps": STEPS, "seeds": SEEDS, "arms": figures}, render
    )  # fmt: skip


def measure(seed: int, data: DataConfig) -> Metrics:
    """Figures of one VAE, trained for `STEPS` steps."""
    config = VAERun(seed=seed, data=data, optim=short_optimisation(STEPS))
    with TemporaryDirectory() as folder:
        vae = train_vae(config, Path(folder))
        metrics = evaluate(vae, open_source(data.data, "heldout"), None, "ablation").metrics
    return {key: metrics[key] for key in KEYS}


def measure_patched(target: str, replacement: object, seed: int, data: DataConfig) -> Metrics:
    """As `measure`, with one function of the library replaced.

    Args:
        target: the function, by module and name.
        replacement: what stands in its place.
        seed: of the run.
        data: settings of the crops.
    """
    with mock.patch(target, replacement):
        return measure(seed, data)


def show_colours(mean: Tensor) -> Tensor:
    """Stands in for `log_contrast`: the colours of the reconstruction, padded with zeros to as many channels."""
    cells = F.pixel_unshuffle(mean, CELL)
    return F.pad(cells, (0, 0, 0, 0, 0, CHANNELS - cells.shape[1]))


def render(record: Json) -> str:
    """The record as Markdown."""
    return join_lines([
        "# What each part of the short training is worth",
        "",
        f"{describe_origin(record)}: {record['steps']} steps of `small` from noise, seeds "
        f"{list_numbers(record['seeds'])}, whole held-out pictures of `builtin:photos`, mean over five images; "
        f"{describe_machine(record)}, fp32. Mean over seeds [least, greatest].",
        "",
        seed_table("arm", record["arms"], {key: key for key in KEYS}),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
