"""Calibration of sigma: theorems on residuals drawn from the predicted distribution, and numerical integrals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from jeppa.distributions import DiagonalGaussian
from jeppa.lab.calibration import (
    COVERAGE_LEVELS,
    block_spearman,
    chi2,
    coverage,
    crps,
    pit,
    pixel_spearman,
    sparsification,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LOG_4 = math.log(4.0)


def calibrated(batch=2, height=96, width=96, seed=0):
    """x drawn from N(mean, exp(logvar)) with a logvar that is smooth and spans a factor of 20 in sigma."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(batch, 3, height, width, generator=generator) - 0.5
    logvar = torch.linspace(-9.0, -3.0, width).expand(batch, 1, height, width)
    return DiagonalGaussian(mean, logvar).sample(generator), mean, logvar


def test_chi2_of_calibrated_residuals_is_one():
    """Red when the variance is not inverted, or is a standard deviation."""
    torch.testing.assert_close(chi2(*calibrated()), torch.ones(2), atol=0.03, rtol=0)


def test_doubling_sigma_quarters_chi2():
    """Red when logvar is read as log sigma."""
    x, mean, logvar = calibrated()
    torch.testing.assert_close(chi2(x, mean, logvar + LOG_4), chi2(x, mean, logvar) / 4)


def test_chi2_of_an_image_does_not_depend_on_its_batch():
    """Red when the batch is pooled."""
    x, mean, logvar = calibrated()
    x[1] = mean[1] + 3 * (x[1] - mean[1])
    torch.testing.assert_close(chi2(x, mean, logvar), torch.tensor([1.0, 9.0]), atol=0.0, rtol=0.03)


@pytest.mark.parametrize("level", COVERAGE_LEVELS)
def test_calibrated_intervals_hold_their_level(level):
    """Red when a one-sided quantile is used, or logvar is read as log sigma."""
    torch.testing.assert_close(coverage(*calibrated(), level), torch.full((2,), level), atol=0.012, rtol=0)


def test_coverage_of_a_doubled_sigma_is_that_of_the_doubled_quantile():
    """erf(2 * 0.67449 / sqrt 2) = 0.8227. Red when the interval does not scale with sigma."""
    x, mean, logvar = calibrated()
    torch.testing.assert_close(coverage(x, mean, logvar + LOG_4, 0.5), torch.full((2,), 0.8227), atol=0.012, rtol=0)


def test_coverage_is_two_sided():
    """A mean may be too low or too high. Red when only one end of the interval is checked."""
    x, mean, logvar = calibrated()
    shift = 3 * (0.5 * logvar).exp()
    for moved in (mean + shift, mean - shift):
        assert (coverage(x, moved, logvar, 0.95) < 0.2).all()


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_coverage_refuses_impossible_levels(level):
    """Red when the check is dropped or lets an end in."""
    with pytest.raises(ValueError, match=f"level is {level}"):
        coverage(*calibrated(), level)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (2, 1, 1, 1), (2, 1, 37, 29), (2, 3, 37, 29)])
def test_a_logvar_that_broadcasts_equals_its_expansion(shape):
    """Red when a function forgets to expand logvar."""
    x, mean, _ = calibrated(height=37, width=29)
    logvar = -4.0 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
    full = logvar.expand_as(mean).clone()
    for measure in (
        chi2,
        block_spearman,
        pixel_spearman,
        sparsification,
        crps,
        pit,
        lambda *args: coverage(*args, 0.9),
    ):
        torch.testing.assert_close(measure(x, mean, logvar), measure(x, mean, full), equal_nan=True)


@pytest.mark.parametrize(
    "measure", [chi2, crps, pit, block_spearman, sparsification, lambda *args: coverage(*args, 0.9)]
)
def test_pairs_that_would_broadcast_are_refused(measure):
    """Red when check_same_shape is dropped."""
    x, mean, logvar = calibrated()
    with pytest.raises(ValueError, match="give both as one"):
        measure(x, mean[:1], logvar)


def heavy_tailed(df, batch=2, height=96, width=96, seed=0):
    """Like `calibrated`, with residuals of a Student-t whose variance is exp(logvar)."""
    _, mean, logvar = calibrated(batch, height, width, seed)
    noise = np.random.default_rng(seed).standard_t(df, mean.shape) * math.sqrt((df - 2.0) / df)
    return mean + (0.5 * logvar).exp() * torch.from_numpy(noise).float(), mean, logvar


@pytest.mark.parametrize("df", [3.0, 6.0])
@pytest.mark.parametrize("level", COVERAGE_LEVELS)
def test_student_t_intervals_hold_their_level(level, df):
    """Red when the quantile is Gaussian, or the variance is taken for the squared scale."""
    torch.testing.assert_close(coverage(*heavy_tailed(df), level, df), torch.full((2,), level), atol=0.012, rtol=0)


def test_a_gaussian_interval_around_heavy_tails_is_too_wide_in_the_middle():
    """Red when `df` is ignored by the quantile (then both agree)."""
    args = heavy_tailed(3.0)
    assert (coverage(*args, 0.5) > coverage(*args, 0.5, 3.0) + 0.1).all()


@pytest.mark.parametrize("df", [None, 3.0, 8.0])
def test_pit_of_matching_predictions_is_flat(df):
    """Each of 20 shares is 5 %. Red when F is of another family or scale, or bins are unequal."""
    args = calibrated() if df is None else heavy_tailed(df)
    shares = pit(*args, df)
    assert shares.shape == (2, 20)
    torch.testing.assert_close(shares, torch.full((2, 20), 0.05), atol=0.006, rtol=0)


def test_pit_is_a_bowl_for_a_small_sigma_and_leans_for_a_shifted_mean():
    """Red when F is 1 - F, or standardises the wrong way round."""
    x, mean, logvar = calibrated()
    bowl = pit(x, mean, logvar - LOG_4)
    assert (bowl[:, [0, -1]] > 3 * bowl[:, [9]]).all()
    low_mean = pit(x, mean - (0.5 * logvar).exp(), logvar)
    assert (low_mean[:, -1] > 5 * low_mean[:, 0]).all()


def test_pit_counts_every_value_even_far_outside():
    """Red when F = 1 falls beyond the last bin."""
    x = torch.tensor([-50.0, 50.0]).view(1, 1, 1, 2)
    assert pit(x, torch.zeros_like(x), torch.zeros(()), bins=4).tolist() == [[0.5, 0.0, 0.0, 0.5]]


@pytest.mark.parametrize("df", [None, 3.0, 8.0])
def test_crps_is_the_integral_of_the_squared_distance_of_distribution_functions(df):
    """In grey levels. Red when 127.5 is dropped, the family is another, or variance is taken for squared scale."""
    sigma, error = 4.0, 6.0
    spread = sigma if df is None else sigma * math.sqrt((df - 2.0) / df)
    predicted = stats.norm(0.0, spread) if df is None else stats.t(df, 0.0, spread)
    below = quad(lambda y: predicted.cdf(y) ** 2, -np.inf, error)[0]
    above = quad(lambda y: predicted.sf(y) ** 2, error, np.inf)[0]
    x = torch.full((2, 3, 4, 4), error / 127.5)
    logvar = torch.tensor(2 * math.log(sigma / 127.5))
    torch.testing.assert_close(crps(x, torch.zeros_like(x), logvar, df), torch.full((2,), below + above))


def test_crps_of_a_certain_prediction_is_the_absolute_error():
    """Red when the score is not averaged, or is of the square."""
    x = torch.tensor([3.0, -5.0]).view(1, 1, 1, 2) / 127.5
    assert crps(x, torch.zeros_like(x), torch.tensor(-60.0)).item() == pytest.approx(4.0, rel=1e-4)


def test_crps_is_least_for_the_true_sigma():
    """It is a proper score. Red when the sign or the scale of sigma is wrong."""
    x, mean, logvar = calibrated()
    best = crps(x, mean, logvar)
    for shift in (-LOG_4 / 2, LOG_4 / 2):
        assert (crps(x, mean, logvar + shift) > best).all()


@pytest.mark.parametrize("measure", [crps, pit, lambda *args: coverage(*args[:3], 0.9, args[3])])
def test_a_student_t_without_variance_is_refused(measure):
    """Red when the check lets 2 in."""
    with pytest.raises(ValueError, match=r"df is 2.0"):
        measure(*calibrated(), 2.0)
