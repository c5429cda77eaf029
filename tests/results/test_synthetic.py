"""The stated mean and variance are the true ones."""

import math

import pytest
import torch

from jeppa.errors import ConfigError
from results.synthetic import known_gaussian, known_logvar


def test_residuals_have_exactly_the_stated_variance() -> None:
    images = known_gaussian(8, 64, seed=0)
    residual = (images.x - images.mean) * (-0.5 * images.logvar).exp()
    count = residual.numel()
    # chi2 / n has standard deviation sqrt(2 / n); five of them
    assert abs(residual.square().mean().item() - 1.0) < 5 * math.sqrt(2 / count)
    assert abs(residual.mean().item()) < 5 / math.sqrt(count)
    low = images.logvar < images.logvar.median()
    for part in (residual[low], residual[~low]):
        assert abs(part.square().mean().item() - 1.0) < 5 * math.sqrt(2 / part.numel())


def test_sigma_spans_one_to_25_levels_and_follows_the_mean() -> None:
    images = known_gaussian(4, 64, seed=1)
    sigma = 127.5 * (0.5 * images.logvar).exp()
    assert 0.999 <= sigma.min() < 1.1
    assert 23 < sigma.max() <= 25.01
    assert torch.equal(images.logvar, known_logvar(images.mean))
    grey = known_logvar(torch.tensor([-0.5, 0.0, 0.5]))
    assert torch.allclose(127.5 * (0.5 * grey).exp(), torch.tensor([1.0, 5.0, 25.0]))


def test_mean_is_smooth_and_in_range_and_x_is_not_clipped() -> None:
    images = known_gaussian(16, 64, seed=2)
    assert {t.dtype for t in (images.x, images.mean, images.logvar)} == {torch.float32}
    assert {t.shape for t in (images.x, images.mean, images.logvar)} == {(16, 3, 64, 64)}
    assert images.mean.abs().max() <= 0.8001
    assert images.mean.diff(dim=3).abs().max() < 0.15
    assert images.x.abs().max() > images.mean.abs().max()


def test_an_image_does_not_depend_on_how_many_are_drawn() -> None:
    assert torch.equal(known_gaussian(5, 16, seed=3).x[:2], known_gaussian(2, 16, seed=3).x)
    assert not torch.equal(known_gaussian(2, 16, seed=3).x, known_gaussian(2, 16, seed=4).x)


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="count is 0"):
        known_gaussian(0, 8, seed=0)
