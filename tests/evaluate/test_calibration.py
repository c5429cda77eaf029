"""Calibration of sigma: theorems on residuals drawn from the predicted Gaussian, and naive numpy loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.filters import sobel

from jeppa.evaluate.calibration import (
    COVERAGE_LEVELS,
    VARIANCE_FLOOR,
    block_spearman,
    chi2,
    constant_logvar,
    coverage,
    mean_square_error,
    pixel_spearman,
    reliability,
    sobel_logvar,
)
from jeppa.gaussian import DiagonalGaussian

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
    for measure in (chi2, block_spearman, pixel_spearman, lambda *args: coverage(*args, 0.9)):
        torch.testing.assert_close(measure(x, mean, logvar), measure(x, mean, full), equal_nan=True)
    torch.testing.assert_close(reliability(x, mean, logvar).error, reliability(x, mean, full).error)


@pytest.mark.parametrize("measure", [chi2, block_spearman, reliability, lambda *args: coverage(*args, 0.9)])
def test_pairs_that_would_broadcast_are_refused(measure):
    """Red when check_same_shape is dropped."""
    x, mean, logvar = calibrated()
    with pytest.raises(ValueError, match="give both as one"):
        measure(x, mean[:1], logvar)


def naive_block_spearman(x, mean, logvar, block):
    x, mean, variance = x.double().numpy(), mean.double().numpy(), logvar.double().exp().numpy()
    sigmas, errors = [], []
    for top in range(0, x.shape[1] - block + 1, block):
        for left in range(0, x.shape[2] - block + 1, block):
            window = np.s_[:, top : top + block, left : left + block]
            sigmas.append(np.sqrt(variance[window].mean()))
            errors.append(np.abs(x[window] - mean[window]).mean())
    return spearmanr(sigmas, errors).statistic


@pytest.mark.parametrize("block", [1, 5, 8])
def test_block_spearman_equals_a_naive_loop(block):
    """Size 37x45 has incomplete blocks. Red when they are kept, sigma is pooled, or the error is squared."""
    x, mean, logvar = calibrated(height=37, width=45)
    logvar = logvar + 3.0 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    expected = [naive_block_spearman(*one, block) for one in zip(x, mean, logvar, strict=True)]
    torch.testing.assert_close(
        block_spearman(x, mean, logvar, block), torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0
    )
    if block == 1:
        torch.testing.assert_close(pixel_spearman(x, mean, logvar), block_spearman(x, mean, logvar, 1))


def test_tied_sigmas_get_average_ranks():
    """Two sigmas, two errors, in full agreement: 1. Red when ties are ranked in order of appearance."""
    step = (torch.arange(64) >= 24).float().expand(1, 3, 64, 64)
    x, mean, logvar = 0.1 + 0.5 * step, torch.zeros(1, 3, 64, 64), 2.0 * step
    assert block_spearman(x, mean, logvar).item() == pytest.approx(1.0)
    assert block_spearman(x, mean, -logvar).item() == pytest.approx(-1.0)


def test_pixel_spearman_depends_on_the_order_of_sigma_only():
    """Red when values are correlated instead of ranks."""
    x, mean, logvar = calibrated()
    expected = pixel_spearman(x, mean, logvar)
    for changed in (logvar + LOG_4, 0.3 * logvar, logvar.exp()):
        torch.testing.assert_close(pixel_spearman(x, mean, changed), expected)
    torch.testing.assert_close(pixel_spearman(x, mean, -logvar), -expected)


def test_blocks_show_a_perfect_sigma_better_than_pixels():
    """Red when pooling is dropped or residuals keep their sign (they cancel)."""
    args = calibrated()
    assert (block_spearman(*args) > 0.95).all()
    assert (pixel_spearman(*args) < block_spearman(*args)).all()


@pytest.mark.filterwarnings("error")
def test_a_constant_sigma_or_error_has_no_rank_correlation():
    """NaN, without a warning, for the affected image only. Red when the guard on constants is dropped."""
    x, mean, logvar = calibrated(height=37, width=45)
    assert block_spearman(x, mean, constant_logvar(x, mean)).isnan().all()
    assert pixel_spearman(x, mean, torch.full_like(mean, -3.3)).isnan().all()
    x[0] = mean[0]
    assert block_spearman(x, mean, logvar).isnan().tolist() == [True, False]


def test_block_spearman_refuses_images_below_one_block():
    """Red when the check is dropped."""
    x = torch.zeros(1, 3, 8, 7)
    with pytest.raises(ValueError, match="8x7, smaller than one block of 8x8"):
        block_spearman(x, x, x)


def test_baselines_have_the_mean_variance_of_the_error():
    """Red when the scale is the standard deviation, or is of the batch and not of the image."""
    x, mean, _ = calibrated()
    x[1] = mean[1] + 3 * (x[1] - mean[1])
    error = mean_square_error(x, mean)
    torch.testing.assert_close(error, (x - mean).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(chi2(x, mean, constant_logvar(x, mean)), torch.ones(2))
    torch.testing.assert_close(sobel_logvar(mean, error).exp().mean(dim=(1, 2, 3)), error)


def test_sobel_sigma_is_proportional_to_the_gradient_of_scikit_image():
    """Contrast is so low that the floor counts. Red when a kernel or its scale is wrong, or zeros are padded."""
    grey = 0.5 + 0.02 * torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    logvar = sobel_logvar(grey.expand(2, 3, 20, 30), torch.full((2,), 0.01))
    for one, image in zip(logvar[:, 0], grey[:, 0], strict=True):
        # scikit-image takes the root of the mean over the two axes of weights that sum to 1 over two pixels
        energy = 0.5 * torch.from_numpy(sobel(image.double().numpy())).square() + VARIANCE_FLOOR
        torch.testing.assert_close(one.exp(), (0.01 * energy / energy.mean()).float(), atol=1e-6, rtol=1e-3)


def test_sobel_baselines_stay_finite_on_flat_and_exact_images():
    """Red when a floor is dropped (log 0)."""
    flat = torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(sobel_logvar(flat, torch.tensor([0.04])).exp(), torch.full((1, 1, 16, 16), 0.04))
    assert sobel_logvar(flat, torch.zeros(1)).isfinite().all()
    assert constant_logvar(flat, flat).isfinite().all()


def test_sobel_ranks_errors_that_live_on_edges():
    """Red when the map is inverted, or shifted against the image."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.0, 1.0, 96).square()  # the gradient, and so the sigma, grows to the right
    mean = ramp.expand(1, 3, 96, 96)
    x = mean + 0.1 * ramp * torch.randn(mean.shape, generator=generator)
    assert block_spearman(x, mean, sobel_logvar(mean, mean_square_error(x, mean))).item() > 0.9


def test_reliability_of_calibrated_residuals_is_the_diagonal():
    """Red when bins are not sorted by sigma, or sigma and error differ in unit."""
    result = reliability(*calibrated())
    assert result.sigma.shape == result.error.shape == (20,)
    assert (result.sigma.diff() > 0).all()
    torch.testing.assert_close(result.error, result.sigma, rtol=0.06, atol=0)


def test_reliability_is_in_grey_levels_and_scales_with_sigma():
    """Sigma is 2 levels, the error 6. Red when 127.5 is dropped, or logvar is read as log sigma."""
    x = torch.full((1, 3, 8, 8), 6 / 127.5)
    result = reliability(x, torch.zeros_like(x), torch.tensor(2 * math.log(2 / 127.5)), bins=4)
    torch.testing.assert_close(result.sigma, torch.full((4,), 2.0))
    torch.testing.assert_close(result.error, torch.full((4,), 6.0))


def test_reliability_bins_hold_equal_counts():
    """Four sigmas, 1 to 4 levels, in two bins. Red when the mean is not of squares."""
    sigma = torch.tensor([4.0, 1.0, 2.0, 3.0]) / 127.5
    x = torch.zeros(1, 1, 2, 2)
    result = reliability(x, x, 2 * sigma.log().view(1, 1, 2, 2), bins=2)
    torch.testing.assert_close(result.sigma, torch.tensor([math.sqrt(2.5), math.sqrt(12.5)]))
    with pytest.raises(ValueError, match="bins is 5"):
        reliability(x, x, x, bins=5)
