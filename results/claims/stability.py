"""Is training stable? Short runs over a grid of arms, learning rates and seeds, with and without outlier images.

Fixed before any run: `ARMS` x `RATES` x `SEEDS`, `STEPS` steps of the preset `small` with `BATCH` crops of 64 pixels,
on at most `TRAIN_IMAGES` training images, once as they are and once with every 20th replaced by uniform noise; judged
on `HELDOUT_IMAGES` clean held-out images. A finished run leaves `result.json` in its folder and is not repeated.
"""

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from jeppa.config import DataConfig, OptimConfig, VAERun
from jeppa.data import evaluation_images, fit_square, open_source, write_png
from jeppa.errors import TrainingError
from jeppa.lab.metrics import psnr
from jeppa.train import VAEObjective, train
from jeppa.vae import HeteroscedasticVAE
from results.claims.folder import CompareFolder, read_or_explain
from results.record import Json
from results.short_runs import single_threaded_processes

ARMS = ("shared", "nll", "faithful", "band-faithful")
RATES = (3e-4, 1e-2)
SEEDS = (0, 1, 2)
DATA = {"clean": "the images as they are", "outliers": "images of which every 20th is uniform noise"}
STEPS = 120
BATCH = 4
LOG_EVERY = 3
TRAIN_IMAGES = 200
HELDOUT_IMAGES = 8
SIDE = 128
OUTLIER_EVERY = 20
WORKERS = 2

LARGEST_LOSS = 3.0
"""A run has diverged if its held-out PSNR is more than so many dB below that of `shared` at the same rate and seed."""

SPIKE = 1.0
"""A run spikes if its bound rises by more than so many bits per dimension above its running minimum."""


@dataclass(frozen=True)
class Job:
    """One run of the grid."""

    data: str
    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.data}-{self.arm}-{self.rate:g}-{self.seed}"


def list_jobs() -> list[Job]:
    """The whole grid."""
    return [Job(data, arm, rate, seed) for data in DATA for rate in RATES for seed in SEEDS for arm in ARMS]


def run_grid(folder: CompareFolder, work: Path, report: Callable[[str], None]) -> dict[Job, Json]:
    """The result of every run, `{"psnr": dB or null, "bounds": [...]}`; runs without one are trained first."""
    write_data(folder, work)
    todo = [job for job in list_jobs() if not locate_result(work, job).exists()]
    if todo:
        with single_threaded_processes(WORKERS) as pool:
            futures = as_completed([pool.submit(run_job, job, work) for job in todo])
            for done, future in enumerate(futures, 1):
                name = read_or_explain(work, future.result)
                report(f"stability: {done} of {len(todo)} runs, {name}")
    return {job: json.loads(locate_result(work, job).read_text()) for job in list_jobs()}


def write_data(compared: CompareFolder, work: Path) -> None:
    """Write both data sets as small PNG files, once."""
    for kind in DATA:
        folder = work / "data" / kind
        if (folder / "complete").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        for split, count in (("train", TRAIN_IMAGES), ("val", HELDOUT_IMAGES)):
            refs = compared.open_split(split).refs
            (folder / split).mkdir(parents=True)
            for index, place in enumerate(np.linspace(0, len(refs) - 1, min(count, len(refs)))):
                pixels = fit_square(refs[round(place)].read_pixels(), 2 * SIDE)
                if kind == "outliers" and split == "train" and index % OUTLIER_EVERY == 0:
                    noise = np.random.default_rng(index).integers(0, 256, pixels.shape)
                    pixels = noise.astype(np.uint8)
                write_png(pixels, folder / split / f"{index:04d}.png")
        (folder / "complete").touch()


def run_job(job: Job, work: Path) -> str:
    """Train one run and write its result; returns its name. Its weights are not kept."""
    folder = work / "runs" / job.name
    shutil.rmtree(folder, ignore_errors=True)
    config = make_settings(job, work)
    objective = VAEObjective(config)
    level: float | None = None
    try:
        # Stops one step short of the configured end (the first record is the start): no export, no checkpoint.
        for _ in islice(train(objective, folder), STEPS + 1):
            pass
        level = measure_psnr(objective.model.eval(), config.data.data)
    except TrainingError:
        pass  # ten steps in a row were not finite; the result has no PSNR
    bounds = [json.loads(line).get("elbo_bpd") for line in (folder / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    folder.mkdir()
    locate_result(work, job).write_text(json.dumps({"psnr": level, "bounds": bounds}) + "\n")
    return job.name


def make_settings(job: Job, work: Path) -> VAERun:
    """Training settings of a run; everything but arm, rate, seed and data is the same for all."""
    optim = OptimConfig(
        steps=STEPS + 1, batch_size=BATCH, learning_rate=job.rate, warmup_steps=STEPS // 10, precision="fp32",
        log_every=LOG_EVERY, sample_every=2 * STEPS, save_every=2 * STEPS,
    )  # fmt: skip
    data = DataConfig(data=str(work / "data" / job.data), sizes=1)
    # Validated from plain values, as a likelihood that this version does not know is the user's error.
    return VAERun.model_validate({"seed": job.seed, "likelihood": job.arm, "optim": optim, "data": data})


@torch.no_grad()
def measure_psnr(vae: HeteroscedasticVAE, data: str) -> float | None:
    """Mean PSNR in dB of whole held-out squares with the weights as they are, None if not finite."""
    images = [x[None] for _, x in evaluation_images(open_source(data, "heldout"), SIDE)]
    value = float(torch.stack([psnr(x, vae.reconstruct(x).mean) for x in images]).mean())
    return value if math.isfinite(value) else None


def count_troubled(results: dict[Job, Json], arm: str, data: str) -> tuple[int, int, int]:
    """How many of the arm's runs diverged, spiked, and did either."""
    diverged, spiked, either = 0, 0, 0
    for job, result in results.items():
        if (job.arm, job.data) == (arm, data):
            has_fallen = has_diverged(result, results[replace(job, arm="shared")])
            has_risen = has_spiked(result["bounds"])
            diverged += has_fallen
            spiked += has_risen
            either += has_fallen or has_risen
    return diverged, spiked, either


def has_diverged(result: Json, twin: Json) -> bool:
    """Whether a run is not finite, or more than `LARGEST_LOSS` dB below its twin, if that is finite."""
    if result["psnr"] is None:
        return True
    return twin["psnr"] is not None and result["psnr"] < twin["psnr"] - LARGEST_LOSS


def has_spiked(bounds: list[float | None]) -> bool:
    """Whether the logged bound ever rises more than `SPIKE` above its running minimum, or is not a number.

    Each line is first replaced by the median of itself and its two neighbours. One unlucky batch, such as one with an
    outlier image, costs any model many bits; only a rise that lasts is a fault of training.
    """
    if any(value is None or not math.isfinite(value) for value in bounds):
        return True
    lines = np.array(bounds, dtype=np.float64)
    if len(lines) < 3:
        return False
    median = np.median(np.stack([lines[:-2], lines[1:-1], lines[2:]]), axis=0)
    return bool((median - np.minimum.accumulate(median) > SPIKE).any())


def locate_result(work: Path, job: Job) -> Path:
    """Path of a run's result."""
    return work / "runs" / job.name / "result.json"
