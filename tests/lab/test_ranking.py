"""Does sigma rank the errors: naive numpy loops, perfect and useless sigmas."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from jeppa.distributions import DiagonalGaussian
from jeppa.lab.calibration import (
    REMOVED,
    ause,
    block_spearman,
    constant_logvar,
    oracle_sparsification,
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


def test_an_oracle_sigma_has_no_sparsification_error():
    """Red when the most certain pixels are removed first, or channels are not pooled."""
    x, mean, _ = calibrated()
    oracle = (x - mean).square().mean(1, keepdim=True).log()
    torch.testing.assert_close(ause(x, mean, oracle), torch.zeros(2), atol=1e-5, rtol=0)


def test_sparsification_equals_a_naive_loop():
    """Red when the share kept is off by one, the root or the normalisation is missing."""
    x, mean, logvar = calibrated(batch=1, height=7, width=9)
    logvar = logvar + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    error = (x - mean).double().square().mean(1).flatten().numpy()
    order = np.argsort(-logvar.double().exp().mean(1).flatten().numpy())
    expected = [np.sqrt(error[order[math.floor(share * 63 + 1e-9) :]].mean() / error.mean()) for share in REMOVED]
    found = sparsification(x, mean, logvar)
    assert found.shape == (1, len(REMOVED))
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.filterwarnings("error")
def test_a_constant_sigma_removes_nothing_of_the_error():
    """Ties count as in random order: 1 throughout. Red when ties keep raster order (errors here rise in it)."""
    x, mean, _ = calibrated()
    constant = torch.full((2, 1, 1, 1), -3.0)
    torch.testing.assert_close(sparsification(x, mean, constant), torch.ones(2, len(REMOVED)))
    area = ause(x, mean, constant)
    torch.testing.assert_close(area, 1 - oracle_sparsification(x, mean).mean(1))
    assert (area > 0.3).all()


def test_ause_puts_the_true_sigma_between_the_oracle_and_a_constant():
    """Red when a curve is not of sigma."""
    x, mean, logvar = calibrated()
    assert (ause(x, mean, logvar) > 0).all()
    assert (ause(x, mean, logvar) < 0.5 * ause(x, mean, torch.zeros(()))).all()
    assert (ause(x, mean, -logvar) > ause(x, mean, torch.zeros(()))).all()


def test_an_exact_reconstruction_has_no_ause():
    """NaN for that image only. Red when 0 / 0 is hidden."""
    x, mean, logvar = calibrated()
    x[0] = mean[0]
    assert ause(x, mean, logvar).isnan().tolist() == [True, False]
