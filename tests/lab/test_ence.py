"""ENCE and reliability from histograms: equal to sorting all pixels, and right about calibrated predictions."""

import math

import numpy as np
import pytest
import torch

from jeppa.lab.calibration import chi2
from jeppa.lab.statistics import (
    BINS,
    DRAWN,
    ERROR,
    bootstrap_ence,
    ence,
    histogram,
    mean_chi2,
    reliability,
    replace_variance,
    rescale,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def residuals(images=6, side=96, factor=1.0, seed=0):
    """Log-variances spread over 6 nats, squared residuals `factor` sigma large, and those of calibrated draws."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 3, side, side)
    logvar = -9.0 + 6.0 * torch.rand(shape, generator=generator) ** 2
    squared, drawn = (logvar.exp() * torch.randn(shape, generator=generator).square() for _ in range(2))
    return logvar, factor**2 * squared, drawn


def histograms(logvar, squared, drawn):
    parts = zip(logvar.split(1), squared.split(1), drawn.split(1), strict=True)
    return np.stack([histogram(one, one, error, draw) for one, error, draw in parts])


def direct(logvar, squared):
    """Root mean predicted variance and error of equal-count bins, in grey levels, by sorting everything."""
    order = logvar.flatten().argsort()
    roots = [
        torch.stack([part.mean() for part in values.flatten()[order].double().tensor_split(BINS)]).sqrt() * 127.5
        for values in (logvar.double().exp(), squared)
    ]
    return roots[0].numpy(), roots[1].numpy()


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_summed_histograms_equal_sorting_all_pixels(factor):
    """Red when a column, a border of bins or the unit is wrong."""
    logvar, squared, drawn = residuals(factor=factor)
    curve = reliability(histograms(logvar, squared, drawn).sum(0))
    sigma, error = direct(logvar, squared)
    np.testing.assert_allclose(curve.sigma, sigma, rtol=0.02)
    np.testing.assert_allclose(curve.error, error, rtol=0.02)
    expected = (np.abs(sigma - error) / sigma).mean()
    assert ence(histograms(logvar, squared, drawn).sum(0)) == pytest.approx(expected, rel=0.02, abs=0.002)


def test_a_calibrated_prediction_is_at_its_reference_and_far_below_a_constant():
    """Red when the reference has another number of pixels, or the constant its own bins."""
    every = histograms(*residuals())
    total = every.sum(0)
    learned, reference = ence(total), ence(total, DRAWN)
    assert learned == pytest.approx(reference, abs=0.006)
    constant = ence(replace_variance(total, total[:, ERROR].sum() / total[:, 0].sum()))
    assert constant > 20 * learned


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 1.0), (0.5, 0.5), (1.1, 0.1)])
def test_ence_of_an_error_of_f_sigma_is_f_minus_one(factor, expected):
    """Red when divided by the error instead of sigma, or variances are compared instead of roots."""
    assert ence(histograms(*residuals(factor=factor)).sum(0)) == pytest.approx(expected, abs=0.01)


def test_bins_of_a_coarse_sigma_share_a_fine_bin_in_proportion():
    """Two sigmas, 2 and 4 levels, a quarter and three quarters of the pixels. Red when a whole bin goes to one side."""
    logvar = torch.full((1, 1, 4, 4), 2 * math.log(4 / 127.5))
    logvar[..., :1] = 2 * math.log(2 / 127.5)
    curve = reliability(histogram(logvar, logvar, logvar.exp(), logvar.exp()))
    np.testing.assert_allclose(curve.sigma, [2.0] * 5 + [4.0] * 15, rtol=1e-5)
    np.testing.assert_allclose(curve.error, curve.sigma, rtol=1e-5)


def test_values_beyond_the_range_stay_in_the_sums():
    """Red when they are dropped."""
    logvar = torch.tensor([-40.0, 30.0, 0.0]).view(1, 1, 1, 3)
    found = histogram(logvar, logvar, torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3))
    assert found[[0, -1], 0].tolist() == [1.0, 1.0]
    assert found.sum(0)[[0, ERROR]].tolist() == [3.0, 3.0]


def test_the_interval_is_that_of_whole_images():
    """Images differ, so it is much wider than pixels suggest; it repeats. Red when pixels are resampled."""
    logvar, squared, drawn = residuals(images=12)
    scale = torch.linspace(0.5, 3.0, 12).view(-1, 1, 1, 1)
    found = bootstrap_ence(histograms(logvar, scale * squared, drawn))
    assert found.lo < found.mean < found.hi
    assert found.hi - found.lo > 0.1
    assert found == bootstrap_ence(histograms(logvar, scale * squared, drawn))
    alone = bootstrap_ence(histograms(logvar[:1], squared[:1], drawn[:1]))
    assert math.isnan(alone.lo)
    assert math.isfinite(alone.mean)


def test_equal_images_have_an_interval_of_no_width():
    """Red when a resample has another number of images."""
    one = histograms(*residuals(images=1))
    found = bootstrap_ence(np.repeat(one, 5, axis=0), resamples=20)
    assert (found.lo, found.hi) == (pytest.approx(found.mean), pytest.approx(found.mean))


def test_rescaling_a_histogram_equals_rescaling_each_pixel():
    """Red when the slope acts on the wrong side of the reference, or chi2 is not weighted by count."""
    logvar, squared, drawn = residuals(images=1)
    assert mean_chi2(histograms(logvar, squared, drawn)[0]) == pytest.approx(
        chi2(squared.sqrt(), torch.zeros_like(squared), logvar).item(), rel=0.005
    )
    changed = -6.0 + 0.4 + 1.3 * (logvar + 6.0)
    moved = rescale(histograms(logvar, squared, drawn), -6.0, 0.4, 1.3)
    assert mean_chi2(moved[0]) == pytest.approx(
        chi2(squared.sqrt(), torch.zeros_like(squared), changed).item(), rel=0.005
    )
