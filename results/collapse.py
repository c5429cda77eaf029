"""Why does `band`, trained by its plain likelihood, lose the picture, and what prevents it?

    python -m results.collapse [--data builtin:photos]

Trains for 300 steps: `shared`, `band`, `band-beta` (weights variance^0.5) and `band-faithful` from the linear start,
and `band` and `band-beta` once more from the finished `shared`. Measures held-out pictures at 192 pixels and writes
`collapse.json` and `collapse.md`.

The figure that explains the loss is `gradient_share_dc`, the share of the squared gradient of the mean that falls on
the mean colours of cells. The likelihood weighs a band by 1/variance, so the mean colour, which varies most, gets the
smallest share. Under the squared error its share would be that of its variance.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from jeppa.config import CELL, DataConfig, Likelihood, VAERun
from jeppa.data import evaluation_images, open_source
from jeppa.distributions import BandGaussian
from jeppa.lab.demo import COLOUR_JITTER
from jeppa.lab.evaluate import evaluate
from jeppa.vae import HeteroscedasticVAE
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
from results.short_runs import short_optimisation, single_threaded_processes, train_vae

STEPS = 300
SEEDS = (0, 1, 2)
RESOLUTION = 192
IMAGES = 24
KEYS = ("psnr", "rate_bpd", "elbo_bpd", "chi2", "gradient_share_dc")

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Job:
    """One run: a likelihood, and whether it starts from the `shared` run of its seed."""

    likelihood: Likelihood
    warm: bool
    seed: int

    @property
    def title(self) -> str:
        """The row of the table that the run belongs to."""
        return f"{self.likelihood}{', started from shared' if self.warm else ''}"

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        return f"{self.likelihood}-{self.warm}-{self.seed}"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("collapse", __doc__)
    parser.add_argument("--data", default="builtin:photos", help="pictures to train on and to measure with")
    return run_study(parser, measure_runs, arguments)


def measure_runs(options: argparse.Namespace) -> None:
    """Train and measure every run, two at a time, and write the record."""
    figures: dict[str, list[Metrics]] = {}
    with TemporaryDirectory() as folder, single_threaded_processes(2) as pool:
        for warm in (False, True):
            jobs = list_jobs(warm)
            metrics = pool.map(measure, jobs, [options.data] * len(jobs), [Path(folder)] * len(jobs))
            for job, row in zip(jobs, metrics, strict=True):
                figures.setdefault(job.title, []).append(row)
    settings = {"data": Path(options.data).name, "steps": STEPS, "seeds": SEEDS}
    save_record(options.command, options.out / "collapse", {**settings, "rows": figures}, render)


def list_jobs(warm: bool) -> list[Job]:
    """The runs from the linear start, or those that start from the `shared` runs among these."""
    names: tuple[Likelihood, ...] = ("band", "band-beta") if warm else ("shared", "band", "band-beta", "band-faithful")
    return [Job(name, warm, seed) for name in names for seed in SEEDS]


def measure(job: Job, data: str, folder: Path) -> Metrics:
    """Train one VAE in a run folder below `folder`, and measure it."""
    jitter = COLOUR_JITTER if data.startswith("builtin:") else 0.0
    config = VAERun(
        seed=job.seed, likelihood=job.likelihood, data=DataConfig(data=data, colour_jitter=jitter),
        optim=short_optimisation(STEPS),
    )  # fmt: skip
    start = folder / Job("shared", False, job.seed).folder if job.warm else None
    vae = train_vae(config, folder / job.folder, start)
    heldout = open_source(data, "heldout")
    metrics = evaluate(vae, heldout, RESOLUTION, job.title, limit=IMAGES, perceptual=False).metrics
    metrics["gradient_share_dc"] = measure_gradient_share(vae, data)
    return {key: metrics[key] for key in KEYS}


@torch.no_grad()
def measure_gradient_share(vae: HeteroscedasticVAE, data: str) -> float | None:
    """Share of the squared gradient of the mean that falls on the mean colours of cells; None without bands.

    The gradient of a coefficient's NLL is residual / variance, and the expectation of its square 1 / variance.
    """
    shares = []
    for _, x in evaluation_images(open_source(data, "heldout"), RESOLUTION):
        decoded = vae.decode(vae.encode(x[None]).mean)
        if not isinstance(decoded, BandGaussian):
            return None
        power = (-decoded.band_logvar).exp()
        shares.append(float(power[..., ::CELL, ::CELL].sum() / power.sum()))
    return float(np.mean(shares))


def render(record: Json) -> str:
    """The record as Markdown."""
    return join_lines([
        "# Why the plain band likelihood loses the picture",
        "",
        f"{describe_origin(record)}: {record['steps']} steps on {record['data']}, seeds "
        f"{list_numbers(record['seeds'])}, held-out pictures at {RESOLUTION} pixels; {describe_machine(record)}. "
        "Mean over seeds [least, greatest].",
        "",
        seed_table("run", record["rows"], {key: key for key in KEYS}, ".3g"),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
