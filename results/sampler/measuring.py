"""Figures of the sampler study from saved features: Frechet distances, precision and recall, rejection."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from jeppa.data import evaluation_images, open_source
from jeppa.evaluate.features import frechet_distance, load_features
from jeppa.evaluate.manifold import precision_recall
from jeppa.latent import LatentCodec
from sampler.drawing import COUNT, FEATURE_SIDE, sample_file
from sampler.runs import RESOLUTION
from sampler.samplers import Sampler

HALF = COUNT // 2
KEPT = 0.8
RANDOM_SUBSETS = 20

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Real:
    """Features of `2 * HALF` training pictures in random order, and of their reconstructions by the VAE."""

    features: Features
    reconstructed: Features

    @property
    def floor(self) -> float:
        """Frechet distance of one half of the real pictures to the other."""
        return frechet_distance(self.features[:HALF], self.features[HALF:])

    @property
    def reconstruction_floor(self) -> float:
        """Frechet distance of one half's reconstructions to the other half, both ways."""
        return self.distance(np.concatenate([self.reconstructed[HALF:], self.reconstructed[:HALF]]))

    def distance(self, features: Features) -> float:
        """Frechet distance, the mean over two halves: `HALF` pictures against `HALF` real ones each, as in `floor`."""
        first = frechet_distance(features[:HALF], self.features[:HALF])
        return 0.5 * (first + frechet_distance(features[HALF:], self.features[HALF:]))


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


def figures(work: Path, sampler: Sampler, seed: int, real: Real) -> dict[str, float]:
    """`fd`, `precision` and `recall` of one sampler and seed."""
    features = np.load(sample_file(work, seed, sampler))["features"]
    both = precision_recall(torch.from_numpy(real.features), torch.from_numpy(features))
    return {"fd": real.distance(features), "precision": both.precision, "recall": both.recall}


def rejection(work: Path, sampler: Sampler, seed: int, score: str, real: Real) -> dict[str, float]:
    """The least uncertain 80 % against random 80 %: `fd` and `recall` of both, and the share of random sets beaten."""
    saved = np.load(sample_file(work, seed, sampler))
    features, kept = saved["features"], int(KEPT * COUNT)
    # One half at a time, so that a half of the kept ones meets a half of the real ones again.
    order = np.argsort(saved[f"score: {score}"], kind="stable")[:kept]
    rng = np.random.default_rng(seed)
    subsets = [rng.permutation(COUNT)[:kept] for _ in range(RANDOM_SUBSETS)]
    distances = [_subset_distance(features[subset], real) for subset in subsets]
    found = _subset_distance(features[rng.permutation(order)], real)
    recalls = [_recall(features[subset], real) for subset in subsets[:3]]
    low, high = np.quantile(distances, [0.025, 0.975])
    return {
        "fd": found, "fd_random": float(np.mean(distances)), "fd_random_lo": float(low), "fd_random_hi": float(high),
        "recall": _recall(features[order], real), "recall_random": float(np.mean(recalls)),
        "share_beaten": float(np.mean(found < np.asarray(distances))),
    }  # fmt: skip


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds."""
    found = np.asarray(list(values), dtype=np.float64)
    half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def _subset_distance(features: Features, real: Real) -> float:
    middle = len(features) // 2
    first = frechet_distance(features[:middle], real.features[:HALF])
    return 0.5 * (first + frechet_distance(features[middle:], real.features[HALF:]))


def _recall(features: Features, real: Real) -> float:
    return precision_recall(torch.from_numpy(real.features), torch.from_numpy(features)).recall
