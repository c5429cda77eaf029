"""Why does `band` trained by its plain likelihood lose the picture, and what saves it?

    python results/collapse.py [--data builtin:photos]

Trains for 300 steps: `shared`; `band` from the linear start; `band` from the finished `shared`; the
same two starts with the weights variance^0.5 of `band-beta`; `band-faithful`. Measures held-out pictures at 192 pixels
and writes `collapse.json` and `collapse.md` beside this file.

The figure that explains it is how the gradient of the mean is shared out: the likelihood weighs a band by 1/variance,
so the mean colour of a cell, which varies most, gets `gradient_share_dc` of the squared gradient. Under the squared
error its share is that of its variance.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from jeppa.config import DataConfig, Likelihood, OptimConfig, VAERun
from jeppa.data import evaluation_images, open_source
from jeppa.distributions import CELL, BandGaussian
from jeppa.lab.demo import COLOUR_JITTER
from jeppa.lab.evaluate import evaluate
from jeppa.machine import commit, machine
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train
from jeppa.vae import HeteroscedasticVAE

HERE = Path(__file__).parent
STEPS = 300
SEEDS = (0, 1, 2)
RESOLUTION = 192
IMAGES = 24
KEYS = ("psnr", "rate_bpd", "elbo_bpd", "chi2", "gradient_share_dc")


@dataclass(frozen=True)
class Job:
    """One run: a likelihood and whether it goes on from the `shared` run of its seed."""

    likelihood: Likelihood
    warm: bool
    seed: int

    @property
    def title(self) -> str:
        """As the table names it."""
        return f"{self.likelihood}{', started from shared' if self.warm else ''}"


def jobs(warm: bool) -> list[Job]:
    """The runs of the first round, or those that start from its `shared` runs."""
    names: tuple[Likelihood, ...] = ("band", "band-beta") if warm else ("shared", "band", "band-beta", "band-faithful")
    return [Job(name, warm, seed) for name in names for seed in SEEDS]


def run(job: Job, data: str, folder: Path) -> dict[str, float | None]:
    """Train one VAE and measure it."""
    torch.set_num_threads(1)
    optim = OptimConfig(steps=STEPS, batch_size=8, ema_decay=0.99, sample_every=STEPS, save_every=STEPS)
    jitter = COLOUR_JITTER if data.startswith("builtin:") else 0.0
    crops = DataConfig(data=data, colour_jitter=jitter)
    config = VAERun(seed=job.seed, likelihood=job.likelihood, data=crops, optim=optim)
    target = folder / f"{job.likelihood}-{job.warm}-{job.seed}"
    start = folder / f"shared-False-{job.seed}" if job.warm else None
    for _ in train(VAEObjective(config, start), config, target):
        pass
    vae = load_model(target).codec.vae
    source = open_source(data, "heldout")
    found = evaluate(vae, source, RESOLUTION, job.title, limit=IMAGES, perceptual=False).metrics
    found["gradient_share_dc"] = gradient_share(vae, data)
    return {key: found[key] for key in KEYS}


@torch.no_grad()
def gradient_share(vae: HeteroscedasticVAE, data: str) -> float | None:
    """Share of the squared gradient of the mean that falls on the mean colours of cells; None without bands.

    The gradient of a coefficient's NLL is residual / variance, with expected square 1 / variance.
    """
    shares = []
    for _, x in evaluation_images(open_source(data, "heldout"), RESOLUTION):
        decoded = vae.decode(vae.encode(x[None]).mean)
        if not isinstance(decoded, BandGaussian):
            return None
        power = (-decoded.band_logvar).exp()
        shares.append(float(power[..., ::CELL, ::CELL].sum() / power.sum()))
    return float(np.mean(shares))


def main() -> None:
    """Train all and write the table."""
    parser = argparse.ArgumentParser(description="Why the plain band likelihood collapses.")
    parser.add_argument("--data", default="builtin:photos")
    data = parser.parse_args().data
    os.environ["OMP_NUM_THREADS"] = "1"  # read by each new process
    rows: dict[str, list[dict[str, float | None]]] = {}
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for warm in (False, True):
            todo = jobs(warm)
            found = pool.map(run, todo, [data] * len(todo), [Path(temporary)] * len(todo))
            for job, figures in zip(todo, found, strict=True):
                rows.setdefault(job.title, []).append(figures)
    record = {"command": "python results/collapse.py", "data": Path(data).name, "steps": STEPS, "seeds": SEEDS,
              "commit": commit(), "machine": machine(), "rows": rows}  # fmt: skip
    (HERE / "collapse.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "collapse.md").write_text(table(record))


def table(record: dict) -> str:
    """Markdown: the mean over seeds and, in brackets, the least and the greatest."""
    lines = [
        "# Why the plain band likelihood loses the picture",
        "",
        f"`{record['command']}` at commit {record['commit']}: {record['steps']} steps on {record['data']}, seeds "
        f"{', '.join(map(str, record['seeds']))}, held-out pictures at {RESOLUTION} pixels; "
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, torch {torch.__version__}. "
        "Mean over seeds [least, greatest].",
        "",
        "| run | " + " | ".join(KEYS) + " |",
        "|---|" + "---|" * len(KEYS),
    ]
    for title, runs in record["rows"].items():
        columns = [[one[key] for one in runs] for key in KEYS]
        cells = [
            "none" if None in values else f"{np.mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
            for values in columns
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
