"""Precision and recall of generated pictures: how many look real, and how much of what is real they cover.

A set of features stands for a manifold: the union of balls around its points, each reaching to the k-th nearest other
point. Kynkäänniemi et al., arXiv 1904.06991. Values depend on the number of pictures and on the features, so only those
of equal counts compare.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3


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
    within_real = (between <= _reach(real, neighbours)).any(1)
    within_generated = (between <= _reach(generated, neighbours)[:, None]).any(0)
    return PrecisionRecall(float(within_real.double().mean()), float(within_generated.double().mean()))


def _reach(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, `[N]`; the nearest is the point itself."""
    distances = torch.cdist(features.double(), features.double())
    return distances.kthvalue(neighbours + 1, dim=1).values
