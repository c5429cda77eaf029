"""Figures of the sampler study from saved features: Frechet distances, precision and recall, rejection.

For precision and recall a set of features stands for a manifold: the union of balls around its points, each reaching to
the k-th nearest other point (Kynkäänniemi et al., arXiv 1904.06991). Values depend on the number of pictures and on the
features, so only sets of equal size compare.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.data import evaluation_images, open_source
from jeppa.lab.metrics import frechet_distance, load_features
from jeppa.vae.codec import LatentCodec
from results.record import Json
from results.sampler.drawing import COUNT, FEATURE_SIDE, RESOLUTION, locate_samples
from results.sampler.samplers import Sampler

HALF = COUNT // 2
KEPT = 0.8
RANDOM_SUBSETS = 40
NEIGHBOURS = 3

Features = NDArray[Any]
"""Of N pictures, float32 `[N,D]`."""


@dataclass(frozen=True)
class Real:
    """Training pictures in random order.

    Args:
        features: of `2 * HALF` pictures, `[N,D]`.
        reconstructed: features of their reconstructions by the VAE, in the same order.
    """

    features: Features
    reconstructed: Features

    def measure_floors(self) -> dict[str, float]:
        """Frechet distances of one half of the pictures to the other: as they are, and reconstructed by the VAE."""
        return {
            "real": frechet_distance(self.features[:HALF], self.features[HALF:]),
            "reconstructed_to_real": compare_halves(np.roll(self.reconstructed, HALF, axis=0), self.features),
            "reconstructed": frechet_distance(self.reconstructed[:HALF], self.reconstructed[HALF:]),
        }


def compute_real_features(data: Path, codec: LatentCodec, cache: Path) -> Real:
    """Features of training pictures, read from `cache` if it exists.

    The pictures are those that the denoiser learned from, but whole centred squares in place of crops.
    """
    if not cache.exists():
        source = open_source(data, "train")
        order = np.random.default_rng(0).permutation(len(source))[:COUNT]
        pictures = [x for _, x in evaluation_images(source, RESOLUTION)]
        net, parts = load_features(), []
        for start in range(0, COUNT, 100):
            x = torch.stack([pictures[i] for i in order[start : start + 100]])
            reconstruction = codec.decode(codec.encode(x).mean).mean
            parts.append((net(x, FEATURE_SIDE).numpy(), net(reconstruction, FEATURE_SIDE).numpy()))
        features, reconstructed = (np.concatenate(batches) for batches in zip(*parts, strict=True))
        np.savez(cache, features=features, reconstructed=reconstructed)
    saved = np.load(cache)
    return Real(saved["features"], saved["reconstructed"])


def compare_halves(first: Features, second: Features) -> float:
    """Mean Frechet distance of first half to first half and of second to second: sets as large as for the floors."""
    middle = len(first) // 2
    distances = frechet_distance(first[:middle], second[:HALF]), frechet_distance(first[middle:], second[HALF:])
    return sum(distances) / 2.0


def measure(work: Path, sampler: Sampler, real: Real, seed: int) -> dict[str, float]:
    """`fd` to real pictures; `fd_reconstructed`, `precision` and `recall` to their reconstructions."""
    features = np.load(locate_samples(work, seed, sampler))["features"]
    manifold = precision_recall(torch.from_numpy(real.reconstructed), torch.from_numpy(features))
    return {
        "fd": compare_halves(features, real.features),
        "fd_reconstructed": compare_halves(features, real.reconstructed),
        "precision": manifold.precision,
        "recall": manifold.recall,
    }


def measure_rejection(work: Path, sampler: Sampler, seed: int, score: str, real: Real) -> Json:
    """The least uncertain 80 % of the samples against random 80 %: `fd` to reconstructions, and `recall`, of both."""
    saved = np.load(locate_samples(work, seed, sampler))
    features, kept = saved["features"], int(KEPT * COUNT)
    order = np.argsort(saved[f"score: {score}"], kind="stable")[:kept]
    rng = np.random.default_rng(seed)
    subsets = [rng.permutation(COUNT)[:kept] for _ in range(RANDOM_SUBSETS)]
    return {
        "fd": compare_halves(features[rng.permutation(order)], real.reconstructed),
        "fd_random": [compare_halves(features[subset], real.reconstructed) for subset in subsets],
        "recall": measure_recall(features[order], real),
        "recall_random": [measure_recall(features[subset], real) for subset in subsets],
    }


def measure_recall(features: Features, real: Real) -> float:
    """Recall of samples against the reconstructions of real pictures."""
    return precision_recall(torch.from_numpy(real.reconstructed), torch.from_numpy(features)).recall


@dataclass(frozen=True)
class PrecisionRecall:
    """Quality and diversity, each 0 to 1.

    Args:
        precision: share of generated pictures that lie within the manifold of the real ones.
        recall: share of real pictures that lie within the manifold of the generated ones.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision and recall of `generated` against `real`.

    Args:
        real: features `[N,D]`, N above `neighbours`.
        generated: features `[M,D]`, M above `neighbours`.
        neighbours: k, at least 1.

    Raises:
        ValueError: if a set is too small for k, or the widths differ.

    Source: arXiv 1904.06991, eq. 1 and 2.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features have shapes {tuple(real.shape)} and {tuple(generated.shape)}, but must be [N,D]")
    fewest = min(len(real), len(generated))
    if not 1 <= neighbours < fewest:
        raise ValueError(f"neighbours is {neighbours}, but must be at least 1 and below the {fewest} pictures")
    between = torch.cdist(generated.double(), real.double())
    within_real = (between <= find_reach(real, neighbours)).any(1)
    within_generated = (between <= find_reach(generated, neighbours)[:, None]).any(0)
    return PrecisionRecall(float(within_real.double().mean()), float(within_generated.double().mean()))


def find_reach(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, `[N]`; every point itself is its nearest."""
    distances = torch.cdist(features.double(), features.double())
    return distances.kthvalue(neighbours + 1, dim=1).values
