"""Figures of the sampler study from saved features: Frechet distances, precision and recall, rejection."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from jeppa.data import evaluation_images, open_source
from jeppa.evaluate.manifold import precision_recall
from jeppa.lab.features import frechet_distance, load_features
from jeppa.vae.codec import LatentCodec
from sampler.drawing import COUNT, FEATURE_SIDE, sample_file
from sampler.runs import RESOLUTION
from sampler.samplers import Sampler

HALF = COUNT // 2
KEPT = 0.8
RANDOM_SUBSETS = 40

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Real:
    """Features of `2 * HALF` training pictures in random order, and of their reconstructions by the VAE."""

    features: Features
    reconstructed: Features

    @property
    def floors(self) -> dict[str, float]:
        """Frechet distances of half the pictures to the other half: real to real, and what the VAE does to it."""
        return {
            "real": frechet_distance(self.features[:HALF], self.features[HALF:]),
            "reconstructed_to_real": halves_distance(_swapped(self.reconstructed), self.features),
            "reconstructed": frechet_distance(self.reconstructed[:HALF], self.reconstructed[HALF:]),
        }


def real_features(data: Path, codec: LatentCodec, cache: Path) -> Real:
    """Features of the training pictures, as the denoiser saw them but for the crop: the whole short side."""
    if not cache.exists():
        source = open_source(data, "train")
        order = np.random.default_rng(0).permutation(len(source))[:COUNT]
        pictures = [x for _, x in evaluation_images(source, RESOLUTION)]
        net, parts = load_features(), []
        for start in range(0, COUNT, 100):
            x = torch.stack([pictures[i] for i in order[start : start + 100]])
            again = codec.decode(codec.encode(x).mean).mean
            parts.append((net(x, FEATURE_SIDE).numpy(), net(again, FEATURE_SIDE).numpy()))
        features, reconstructed = (np.concatenate(one) for one in zip(*parts, strict=True))
        np.savez(cache, features=features, reconstructed=reconstructed)
    saved = np.load(cache)
    return Real(saved["features"], saved["reconstructed"])


def halves_distance(first: Features, second: Features) -> float:
    """Frechet distance, the mean of first half to first half and second to second: sets of the size of the floors."""
    middle = len(first) // 2
    both = frechet_distance(first[:middle], second[:HALF]), frechet_distance(first[middle:], second[HALF:])
    return sum(both) / 2.0


def figures(work: Path, sampler: Sampler, seed: int, real: Real) -> dict[str, float]:
    """`fd` to real pictures; `fd_reconstructed`, `precision` and `recall` to their reconstructions."""
    features = np.load(sample_file(work, seed, sampler))["features"]
    both = precision_recall(torch.from_numpy(real.reconstructed), torch.from_numpy(features))
    return {
        "fd": halves_distance(features, real.features),
        "fd_reconstructed": halves_distance(features, real.reconstructed),
        "precision": both.precision,
        "recall": both.recall,
    }


def rejection(work: Path, sampler: Sampler, seed: int, score: str, real: Real) -> dict[str, Any]:
    """The least uncertain 80 % against random 80 %: `fd` (to reconstructions) and `recall` of both."""
    saved = np.load(sample_file(work, seed, sampler))
    features, kept = saved["features"], int(KEPT * COUNT)
    order = np.argsort(saved[f"score: {score}"], kind="stable")[:kept]
    rng = np.random.default_rng(seed)
    subsets = [rng.permutation(COUNT)[:kept] for _ in range(RANDOM_SUBSETS)]
    return {
        "fd": halves_distance(features[rng.permutation(order)], real.reconstructed),
        "fd_random": [halves_distance(features[subset], real.reconstructed) for subset in subsets],
        "recall": _recall(features[order], real),
        "recall_random": [_recall(features[subset], real) for subset in subsets],
    }


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds."""
    found = np.asarray(list(values), dtype=np.float64)
    half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def _swapped(features: Features) -> Features:
    return np.concatenate([features[HALF:], features[:HALF]])


def _recall(features: Features, real: Real) -> float:
    return precision_recall(torch.from_numpy(real.reconstructed), torch.from_numpy(features)).recall
