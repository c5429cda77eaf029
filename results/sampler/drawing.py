"""The denoisers of the study, one for each seed, and what is kept of their samples: features, latents and scores."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.config import DataConfig, DenoiserConfig, DiffusionRun, OptimConfig
from jeppa.diffusion import SamplerStep, generators_for, initial_noise, make_denoise
from jeppa.lab.metrics import load_features
from jeppa.pipeline import Model, load_model
from jeppa.train import DiffusionObjective, train, with_classes
from jeppa.vae import FACTOR
from results.sampler.samplers import RIVALS, Sampler, run_rival, run_steps

RESOLUTION = 64
STEPS = 2500
MODEL = DenoiserConfig(block_out_channels=(32, 64, 64), attention=(False, True, True))
OPTIM = OptimConfig(
    steps=STEPS, batch_size=64, learning_rate=2e-3, ema_decay=0.998, precision="exact", log_every=100, save_every=500
)
COUNT = 1000
BATCH = 100
FIRST_SEED = 1_000_000
"""Seed of the noise of the first sample of seed 0; seed s starts s * COUNT later, so no two samples share noise."""
FEATURE_SIDE = 128
"""Pixels a side of the pictures that the feature net sees: three times faster than the 224 of its training, and enough
for pictures of 64 pixels."""


def train_denoiser(vae: Path, data: Path, work: Path, seed: int) -> None:
    """Train the denoiser of one seed with its variance head on latents of grocery pictures, or resume its run."""
    crops = DataConfig(data=str(data), resolution=RESOLUTION, min_view=0.9)
    config = with_classes(
        DiffusionRun(seed=seed, vae=str(vae), model=MODEL, classes=True, views=2514, data=crops, optim=OPTIM)
    )
    for _ in train(DiffusionObjective(config, load_model(vae).codec), locate_run(work, seed), resume=True):
        pass


def locate_run(work: Path, seed: int) -> Path:
    """Run folder of the denoiser of a seed."""
    return work / f"denoiser-{seed}"


def locate_samples(work: Path, seed: int, sampler: Sampler) -> Path:
    """File of the samples of one seed by one sampler."""
    return work / f"samples-{seed}" / f"{sampler.name}.npz"


def draw(work: Path, sampler: Sampler, seed: int) -> None:
    """Write features, latents and scores of `COUNT` samples, unless their file exists."""
    target = locate_samples(work, seed, sampler)
    if target.exists():
        return
    model = load_denoiser(locate_run(work, seed))
    parts = [draw_batch(sampler, model, seed, start) for start in range(0, COUNT, BATCH)]
    arrays: dict[str, Any] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.rename(target)


@lru_cache(maxsize=1)
def load_denoiser(folder: Path) -> Model:
    """The model of a run folder; the last one is kept."""
    return load_model(folder)


def draw_batch(sampler: Sampler, model: Model, seed: int, start: int) -> dict[str, NDArray[np.float32]]:
    """Features, latents and scores of the samples `start` to `start + BATCH - 1`."""
    first = FIRST_SEED + seed * COUNT + start
    generators = generators_for(range(first, first + BATCH))
    z_t = initial_noise(
        (model.codec.vae.config.latent_channels, RESOLUTION // FACTOR, RESOLUTION // FACTOR), generators
    )
    labels = torch.arange(start, start + BATCH) % len(model.labels)
    assert model.denoiser is not None
    denoise = make_denoise(model.denoiser, labels, sampler.guidance)
    scores: dict[str, NDArray[np.float32]] = {}
    if sampler.title in RIVALS:
        z0 = run_rival(sampler, model, denoise, z_t)
    else:
        steps = list(run_steps(sampler, model, denoise, z_t, generators))
        z0, scores = steps[-1].zt, score_uncertainty(steps)
    pixels = model.codec.decode(z0).mean
    return {"features": load_features()(pixels, FEATURE_SIDE).numpy(), "latents": z0.numpy(), **scores}


def score_uncertainty(steps: list[SamplerStep]) -> dict[str, NDArray[np.float32]]:
    """Candidates for a score of a sample's uncertainty, each `[B]`.

    All are means over elements and steps: of the log-variance over all steps, of the variance over all steps, and of
    the log-variance over the first, the middle and the last third of the steps.
    """
    variances = [step.x0_variance for step in steps if step.x0_variance is not None]
    variance = torch.stack(variances).flatten(2)
    logs = variance.clamp(min=1e-12).log().mean(2)
    third = max(1, len(variances) // 3)
    middle = (len(variances) - third) // 2
    scores: dict[str, Tensor] = {
        "log variance": logs.mean(0),
        "variance": variance.mean((0, 2)),
        "log variance, first third": logs[:third].mean(0),
        "log variance, middle third": logs[middle : middle + third].mean(0),
        "log variance, last third": logs[-third:].mean(0),
    }
    return {f"score: {key}": value.numpy() for key, value in scores.items()}
