"""Frechet distances of sets of equal size, which alone compare: few pictures bias the distance upward."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from jeppa.lab.features import frechet_distance, load_features
from shipped.pictures import Pictures

DRAWS = 20
TRAINING, ROUND_TRIP = "training pictures", "their reconstructions"
"""Rows that show what is possible at all: another draw from the data, and what the VAE leaves of one."""

Features = NDArray[np.float32]
Distances = dict[str, dict[str, list[float]]]
"""Row, column, and the distance of each draw."""


def features_of(pictures: Pictures, mirrored: bool = False) -> Features:
    """Features of EfficientNet-Lite0 at its own 224 pixels, `[N,1280]`."""
    net = load_features()
    return torch.cat([net(x.flip(3) if mirrored else x) for x in pictures.batches()]).numpy()


@dataclass(frozen=True)
class Against:
    """A column: what sets are compared with.

    Args:
        count: pictures on either side.
        heldout: held-out pictures, or training pictures that are not on the other side.
    """

    count: int
    heldout: bool

    def __str__(self) -> str:
        """Its title."""
        return f"{self.count} {'held-out' if self.heldout else 'training'} pictures"


def columns(train: int, heldout: int, samples: int) -> tuple[Against, ...]:
    """Held-out sets are small, so the training pictures are asked twice: with as many, and with as many as there are.

    Sets of the last are half of the samples at most, else all draws would be nearly the same set.
    """
    few = min(heldout, samples, train // 2)
    many = max(few, min(train, samples) // 2)
    return tuple(dict.fromkeys((Against(few, True), Against(few, False), Against(many, False))))


def distances(
    train: Features, reconstructed: Features, heldout: Features, samples: Mapping[str, Features], draws: int = DRAWS
) -> Distances:
    """Distances of random sets to held-out and to training pictures, never with a picture on both sides.

    Within a draw all samplers give the samples of the same seeds against the same pictures, so that their differences
    are those of a pair.

    Args:
        train: features of the training pictures.
        reconstructed: of what the VAE makes of them, in the same order.
        heldout: of the held-out pictures.
        samples: of each sampler, the same seeds in the same order.
        draws: how many random sets.
    """
    size = min(map(len, samples.values()))
    asked = columns(len(train), len(heldout), size)
    found: Distances = {row: {str(one): [] for one in asked} for row in (TRAINING, ROUND_TRIP, *samples)}
    for seed, against in product(range(draws), asked):
        rng, count = np.random.default_rng(seed), against.count
        order = rng.permutation(len(train))
        other = heldout[rng.permutation(len(heldout))[:count]] if against.heldout else train[order[-count:]]
        chosen = rng.permutation(size)[:count]
        sets = {TRAINING: train[order[:count]], ROUND_TRIP: reconstructed[order[:count]]}
        for row, features in (sets | {name: features[chosen] for name, features in samples.items()}).items():
            found[row][str(against)].append(frechet_distance(features, other))
    return found
