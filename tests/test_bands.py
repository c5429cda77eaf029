import math

import pytest
import torch

from jeppa.distributions import (
    LEAST_DF,
    BandGaussian,
    DiagonalGaussian,
    DiagonalStudentT,
    from_bands,
    pixel_variance,
    to_bands,
)

BASES = ("dct", "lapped")


@pytest.mark.parametrize("basis", BASES)
def test_the_transform_is_orthonormal(basis):
    """Red when a basis function, or a colour, has another length than 1."""
    x = torch.randn(2, 3, 40, 24)
    coefficients = to_bands(x, basis)
    torch.testing.assert_close(coefficients.square().sum(), x.square().sum(), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(from_bands(coefficients, basis), x, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_a_grey_picture_is_one_coefficient_a_cell(basis):
    coefficients = to_bands(torch.full((1, 3, 32, 24), 0.5), basis)
    expected = torch.zeros_like(coefficients)
    expected[0, 0, ::8, ::8] = 0.5 * math.sqrt(3.0) * 8.0
    torch.testing.assert_close(coefficients, expected, rtol=0.0, atol=1e-5)


def test_dct_is_that_of_scipy():
    from scipy.fft import dctn

    grey = torch.randn(8, 8)
    brightness = to_bands(grey.expand(1, 3, 8, 8), "dct")[0, 0] / math.sqrt(3.0)
    torch.testing.assert_close(brightness, torch.from_numpy(dctn(grey.numpy(), norm="ortho")), rtol=0.0, atol=1e-5)


def test_only_the_lapped_basis_reaches_into_the_next_cell():
    """A coefficient of the second cell: red when the lapping is left out, or reaches over more than half a cell."""
    one = torch.zeros(1, 3, 8, 32)
    one[0, 0, 0, 9] = 1.0
    touched = {basis: from_bands(one, basis)[0, 0].abs().amax(0) > 1e-6 for basis in BASES}
    assert touched["dct"].nonzero().flatten().tolist() == list(range(8, 16))
    assert touched["lapped"].nonzero().flatten().tolist() == list(range(4, 20))


@pytest.mark.parametrize("basis", BASES)
def test_pixel_variance_is_that_of_draws(basis):
    """Red when the basis functions are not squared, or the colours are left out."""
    band_logvar = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    many = BandGaussian(torch.zeros(1, 3, 16, 16), band_logvar, basis)
    draws = torch.cat([many.sample(torch.Generator().manual_seed(i)) for i in range(4000)])
    ratio = draws.var(0) / many.var[0]
    assert (ratio - 1.0).abs().mean().item() < 0.03
    torch.testing.assert_close(pixel_variance(band_logvar.exp(), basis).sum(), band_logvar.exp().sum())


def test_a_white_band_gaussian_is_the_pixel_one():
    x, mean = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    white = torch.full_like(mean, -1.3)
    expected = DiagonalGaussian(mean, white).log_prob(x)
    for basis in BASES:
        torch.testing.assert_close(BandGaussian(mean, white, basis).log_prob(x), expected, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(BandGaussian(mean, white, basis).logvar, white, rtol=0.0, atol=1e-4)


def test_log_prob_is_that_of_the_dense_covariance():
    """Against torch.distributions with the covariance written out: red when log|det| is not 0."""
    mean = torch.zeros(1, 3, 8, 8)
    band_logvar = torch.randn(1, 3, 8, 8)
    banded = BandGaussian(mean, band_logvar, "lapped")
    rows = torch.stack([from_bands(unit.view(1, 3, 8, 8), "lapped").flatten() for unit in torch.eye(192)])
    covariance = rows.T @ torch.diag(band_logvar.exp().flatten()) @ rows
    dense = torch.distributions.MultivariateNormal(torch.zeros(192), covariance)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(banded.log_prob(x), dense.log_prob(x.flatten())[None], rtol=1e-4, atol=0.0)
    torch.testing.assert_close(banded.var.flatten(), covariance.diag(), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("df", [3.0, 8.0, 50.0])
def test_student_t_is_that_of_torch_with_the_wanted_variance(df):
    """Red when the scale is taken for the standard deviation."""
    mean, logvar, x = torch.randn(3, 2, 3, 8, 8).unbind(0)
    ours = DiagonalStudentT(mean, logvar, torch.tensor(df))
    scale = (0.5 * logvar).exp() * math.sqrt((df - 2.0) / df)
    peer = torch.distributions.StudentT(df, mean, scale)
    torch.testing.assert_close(ours.log_prob(x), peer.log_prob(x).flatten(1).sum(1), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(peer.variance, ours.var, rtol=1e-5, atol=0.0)


def test_student_t_draws_have_the_wanted_distribution():
    from scipy import stats

    zero = torch.zeros(1, 3, 64, 64)
    for df, student in (
        (5.0, DiagonalStudentT(zero, zero, torch.tensor(5.0))),
        (5.0, BandGaussian(zero, zero, "dct", torch.tensor(5.0))),
    ):
        draw = student.sample(torch.Generator().manual_seed(0))
        elements = draw if isinstance(student, DiagonalStudentT) else to_bands(draw, "dct")
        peer = stats.t(df, scale=math.sqrt((df - 2.0) / df))
        assert stats.kstest(elements.flatten().numpy(), peer.cdf).pvalue > 0.01


def test_draws_do_not_depend_on_their_batch():
    mean = torch.zeros(2, 3, 16, 16)
    for family in (
        lambda m: BandGaussian(m, m, "lapped"),
        lambda m: BandGaussian(m, m, "lapped", torch.tensor(4.0)),
        lambda m: DiagonalStudentT(m, m, torch.tensor(4.0)),
    ):
        both = family(mean).sample([torch.Generator().manual_seed(i) for i in (7, 8)])
        alone = family(mean[:1]).sample([torch.Generator().manual_seed(8)])
        torch.testing.assert_close(both[1:], alone, rtol=0.0, atol=1e-6)


def test_few_degrees_of_freedom_keep_a_finite_variance():
    zero = torch.zeros(1, 3, 8, 8)
    assert torch.isfinite(DiagonalStudentT(zero, zero, torch.tensor(LEAST_DF)).log_prob(zero + 100.0)).all()
