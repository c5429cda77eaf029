"""Do samples show the class that was asked for? By a classifier that saw real training pictures only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jeppa.lab.statistics import bootstrap_mean
from shipped.distances import Features
from shipped.pictures import Labels

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 3


def train_classifier(features: Features, mirrored: Features, labels: Labels) -> GridSearchCV:
    """Logistic regression on features of pictures and of their mirror images.

    Its regularisation is chosen by cross-validation among the training pictures; a picture and its mirror image are
    in one fold.
    """
    steps = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(steps, {"logisticregression__C": STRENGTHS}, cv=folds)
    groups = np.tile(np.arange(len(labels)), 2)
    return search.fit(np.concatenate([features, mirrored]), np.tile(labels, 2), groups=groups)


def accuracies(
    classifier: GridSearchCV, sets: Mapping[str, tuple[Features, Labels]]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Accuracy of each set with its bootstrap interval, and for every picture 1 where the class was found, else 0."""
    right = {name: (classifier.predict(rows) == labels).astype(float) for name, (rows, labels) in sets.items()}
    return {name: estimate(values) for name, values in right.items()}, right


def chance(labels: Labels) -> dict[str, float]:
    """What guessing gives: any class, and always the most frequent one."""
    counts = np.unique(labels, return_counts=True)[1]
    return {"any": 1.0 / len(counts), "most_frequent": float(counts.max() / counts.sum())}


def estimate(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean with its bootstrap interval, as JSON."""
    found = bootstrap_mean(values)
    return {"mean": found.mean, "ci95": [found.lo, found.hi], "count": found.count}
