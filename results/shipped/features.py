"""What a feature net sees of samples: Frechet distances to real pictures, and whether they show the class asked for.

Distances are between sets of equal size, since few pictures bias a distance upward. The class is decided by a
classifier of the same features that saw real training pictures only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jeppa.lab.metrics import frechet_distance, load_features
from jeppa.lab.statistics import bootstrap_mean
from results.shipped.pictures import Labels, Pictures

DRAWS = 20
TRAINING, ROUND_TRIP = "training pictures", "their reconstructions"
"""Rows that show what is possible at all: other pictures of the data, and what the VAE leaves of pictures."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 3

Features = NDArray[Any]
"""Of N pictures, float32 `[N,D]`."""
Distances = dict[str, dict[str, list[float]]]
"""By row and column, the distance of each random draw of both sets."""


def compute_features(pictures: Pictures, mirrored: bool = False) -> Features:
    """Features of EfficientNet-Lite0 at its own 224 pixels, `[N,1280]`."""
    net = load_features()
    return torch.cat([net(x.flip(3) if mirrored else x) for x in pictures.batches()]).numpy()


@dataclass(frozen=True)
class Reference:
    """What sets are compared with: a column of the table.

    Args:
        count: pictures on either side.
        heldout: True for held-out pictures, False for training pictures, none of which is on the other side.
    """

    count: int
    heldout: bool

    def __str__(self) -> str:
        """The title of the column."""
        return f"{self.count} {'held-out' if self.heldout else 'training'} pictures"


def choose_references(train: int, heldout: int, samples: int) -> tuple[Reference, ...]:
    """As many held-out pictures as there are, as many training pictures, and a larger set of training pictures.

    The last is half of the samples at most; otherwise all draws would be nearly the same set.
    """
    few = min(heldout, samples, train // 2)
    many = max(few, min(train, samples) // 2)
    return tuple(dict.fromkeys((Reference(few, True), Reference(few, False), Reference(many, False))))


def measure_distances(
    train: Features, reconstructed: Features, heldout: Features, samples: Mapping[str, Features], draws: int = DRAWS
) -> Distances:
    """Distances of random sets to held-out and to training pictures; no picture is ever on both sides.

    Within a draw the samples of all samplers have the same seeds and are compared with the same pictures, so their
    differences are paired.

    Args:
        train: features of the training pictures.
        reconstructed: features of their reconstructions by the VAE, in the same order.
        heldout: features of the held-out pictures.
        samples: features of each sampler's samples, with the same seeds in the same order.
        draws: number of random draws.
    """
    size = min(map(len, samples.values()))
    references = choose_references(len(train), len(heldout), size)
    distances: Distances = {
        row: {str(reference): [] for reference in references} for row in (TRAINING, ROUND_TRIP, *samples)
    }
    for seed, reference in product(range(draws), references):
        rng, count = np.random.default_rng(seed), reference.count
        order = rng.permutation(len(train))
        other = heldout[rng.permutation(len(heldout))[:count]] if reference.heldout else train[order[-count:]]
        chosen = rng.permutation(size)[:count]
        sets = {TRAINING: train[order[:count]], ROUND_TRIP: reconstructed[order[:count]]}
        for row, features in (sets | {name: features[chosen] for name, features in samples.items()}).items():
            distances[row][str(reference)].append(frechet_distance(features, other))
    return distances


def train_classifier(features: Features, mirrored: Features, labels: Labels) -> GridSearchCV:
    """Logistic regression on features of pictures and of their mirror images.

    Its regularisation is chosen by cross-validation; a picture and its mirror image are always in the same fold.
    """
    steps = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(steps, {"logisticregression__C": STRENGTHS}, cv=folds)
    groups = np.tile(np.arange(len(labels)), 2)
    return search.fit(np.concatenate([features, mirrored]), np.tile(labels, 2), groups=groups)


def measure_accuracies(
    classifier: GridSearchCV, sets: Mapping[str, tuple[Features, Labels]]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Accuracy of each set with its bootstrap interval, and for every picture 1 if its class was found, else 0."""
    right = {name: (classifier.predict(rows) == labels).astype(float) for name, (rows, labels) in sets.items()}
    return {name: estimate_mean(values) for name, values in right.items()}, right


def measure_chance(labels: Labels) -> dict[str, float]:
    """Accuracy of guessing: any class, or always the most frequent one."""
    counts = np.unique(labels, return_counts=True)[1]
    return {"any": 1.0 / len(counts), "most_frequent": float(counts.max() / counts.sum())}


def estimate_mean(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean with its bootstrap interval, as JSON."""
    estimate = bootstrap_mean(values)
    return {"mean": estimate.mean, "ci95": [estimate.lo, estimate.hi], "count": estimate.count}
