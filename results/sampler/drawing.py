"""Samples of one seed by one sampler, and what is kept of them: features, latents and scores of uncertainty."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.diffusion import SamplerStep, generators_for, guided, initial_noise
from jeppa.lab.features import load_features
from jeppa.pipeline import Model, load_model
from jeppa.vae import FACTOR
from sampler.runs import RESOLUTION, run_folder
from sampler.samplers import RIVALS, Sampler, rival_sample, steps_of

COUNT = 1000
BATCH = 100
FIRST_SEED = 1_000_000
"""Of the noise of seed 0; those of seed s start s * COUNT later, so no two samples share their noise."""
FEATURE_SIDE = 128
"""Three times faster than the 224 of the feature net's training, and enough for pictures of 64 pixels."""


def sample_file(work: Path, seed: int, sampler: Sampler) -> Path:
    """Where the samples of one sampler are."""
    return work / f"samples-{seed}" / f"{sampler.name}.npz"


def draw(sampler: Sampler, seed: int, work: Path) -> None:
    """Write features, latents and scores of `COUNT` samples, unless they are there already."""
    target = sample_file(work, seed, sampler)
    if target.exists():
        return
    torch.set_num_threads(1)
    model = _model(run_folder(work, seed))
    parts = [_batch(sampler, model, seed, start) for start in range(0, COUNT, BATCH)]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.rename(target)


@lru_cache(maxsize=1)
def _model(folder: Path) -> Model:
    return load_model(folder)


def _batch(sampler: Sampler, model: Model, seed: int, start: int) -> dict[str, NDArray[np.float32]]:
    first = FIRST_SEED + seed * COUNT + start
    generators = generators_for(range(first, first + BATCH))
    z_t = initial_noise(
        (model.codec.vae.config.latent_channels, RESOLUTION // FACTOR, RESOLUTION // FACTOR), generators
    )
    labels = torch.arange(start, start + BATCH) % len(model.labels)
    assert model.denoiser is not None
    denoise = guided(model.denoiser, labels, sampler.guidance)
    scores: dict[str, NDArray[np.float32]] = {}
    if sampler.title in RIVALS:
        z0 = rival_sample(sampler, model, denoise, z_t)
    else:
        steps = list(steps_of(sampler, model, denoise, z_t, generators))
        z0, scores = steps[-1].zt, uncertainties(steps)
    pixels = model.codec.decode(z0).mean
    return {"features": load_features()(pixels, FEATURE_SIDE).numpy(), "latents": z0.numpy(), **scores}


def uncertainties(steps: list[SamplerStep]) -> dict[str, NDArray[np.float32]]:
    """Candidates for a score of a sample's uncertainty, each `[B]`.

    All are means over elements: of the log-variance over all steps, of the variance over all steps, and of the
    log-variance in the first, the middle and the last third of the steps.
    """
    known = [step.x0_variance for step in steps if step.x0_variance is not None]
    variance = torch.stack(known).flatten(2)
    logs = variance.clamp(min=1e-12).log().mean(2)
    third = max(1, len(known) // 3)
    middle = (len(known) - third) // 2
    found: dict[str, Tensor] = {
        "log variance": logs.mean(0),
        "variance": variance.mean((0, 2)),
        "log variance, first third": logs[:third].mean(0),
        "log variance, middle third": logs[middle : middle + third].mean(0),
        "log variance, last third": logs[-third:].mean(0),
    }
    return {f"score: {key}": value.numpy() for key, value in found.items()}
