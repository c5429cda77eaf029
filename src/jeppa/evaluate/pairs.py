"""Two models on the same pictures: the mean of a difference is far surer than the difference of two means."""

from collections.abc import Iterable

import numpy as np

from jeppa.evaluate.bootstrap import Estimate, bootstrap_mean
from jeppa.evaluate.run import Evaluation


def paired_differences(a: Evaluation, b: Evaluation, keys: Iterable[str]) -> dict[str, Estimate]:
    """Mean over pictures of `a` less `b`, with its 95 % bootstrap interval.

    Args:
        a: of one model.
        b: of another one, on the same pictures in the same order.
        keys: figures; those that fewer than two pictures have from both are left out.

    Raises:
        ValueError: the pictures differ.
    """
    if [row["name"] for row in a.rows] != [row["name"] for row in b.rows]:
        raise ValueError("the two evaluations are of different pictures")
    found = {}
    for key in keys:
        values = [(one.get(key), other.get(key)) for one, other in zip(a.rows, b.rows, strict=True)]
        differences = [one - other for one, other in values if one is not None and other is not None]
        if len(differences) > 1:
            found[key] = bootstrap_mean(np.array(differences))
    return found
