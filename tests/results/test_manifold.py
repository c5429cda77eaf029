import pytest
import torch

from results.sampler.measuring import precision_recall


def points(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_precision_asks_the_generated_and_recall_the_real() -> None:
    """Two real clusters, of which one is generated, with one stray: precision 3/4, recall 1/2.

    Red when real and generated swap, or a ball reaches from the wrong set.
    """
    real, generated = points(0.0, 0.1, 0.2, 10.0, 10.1, 10.2), points(0.05, 0.12, 0.18, 5.0)
    found = precision_recall(real, generated, neighbours=1)
    assert found.precision == pytest.approx(0.75)
    assert found.recall == pytest.approx(0.5)


def test_a_point_is_not_its_own_neighbour() -> None:
    """Red when the radius is taken to the k-th nearest point with the point itself among them: it would be 0."""
    found = precision_recall(points(0.0, 1.0, 2.0), points(0.4, 1.4, 2.4), neighbours=1)
    assert found.precision == 1.0


def test_the_same_distribution_has_both_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(400, 4, generator=generator) for _ in range(2))
    found = precision_recall(real, generated)
    assert min(found.precision, found.recall) > 0.8
    assert precision_recall(real, 0.1 * generated).recall < 0.3
    assert precision_recall(real, 5.0 * generated).precision < 0.3


def test_bad_features_are_one_line() -> None:
    with pytest.raises(ValueError, match="neighbours is 3, but must be at least 1 and below the 3 pictures"):
        precision_recall(points(0.0, 1.0, 2.0), points(0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="features have shapes"):
        precision_recall(torch.zeros(5, 2), torch.zeros(5, 3))
