import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from jeppa.distributions import DiagonalGaussian, standard_normal


def some_gaussian(seed: int) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(3, 4, 5, 6, generator=generator)
    return DiagonalGaussian(mean, torch.randn(mean.shape, generator=generator) * 2.0 - 3.0)


def peer(gaussian: DiagonalGaussian) -> Normal:
    return Normal(gaussian.mean.double(), (0.5 * gaussian.logvar.double()).exp())


def test_log_prob_is_that_of_torch_summed_over_each_sample():
    """Red when LOG_2PI is dropped or the variance's sign in the exponent flips."""
    gaussian, x = some_gaussian(0), torch.randn(3, 4, 5, 6)
    expected = peer(gaussian).log_prob(x.double()).flatten(1).sum(1)
    torch.testing.assert_close(gaussian.log_prob(x).double(), expected, rtol=1e-5, atol=0.0)


def test_one_shared_logvar_counts_for_every_element():
    """Red when the sum runs over the logvar's own shape instead of the mean's."""
    mean = torch.zeros(2, 3, 4, 4)
    logvar = torch.tensor(-1.5)
    full = DiagonalGaussian(mean, logvar.expand_as(mean))
    x = torch.randn_like(mean)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).log_prob(x), full.log_prob(x))
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), full.kl())


def test_kl_to_the_standard_normal_is_that_of_torch():
    """Red when the -1 or the factor 1/2 is dropped."""
    gaussian = some_gaussian(1)
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    expected = kl_divergence(peer(gaussian), standard).flatten(1).sum(1)
    torch.testing.assert_close(gaussian.kl().double(), expected, rtol=1e-5, atol=0.0)


def test_kl_between_two_gaussians_is_that_of_torch():
    """Red when the two log-variances are exchanged."""
    a, b = some_gaussian(2), some_gaussian(3)
    expected = kl_divergence(peer(a), peer(b)).flatten(1).sum(1)
    torch.testing.assert_close(a.kl(b).double(), expected, rtol=1e-5, atol=0.0)


def test_samples_have_the_mean_and_the_variance():
    """Red when the noise is scaled by the variance instead of its root."""
    gaussian = DiagonalGaussian(torch.full((200_000, 1), 2.0), torch.full((200_000, 1), math.log(9.0)))
    drawn = gaussian.sample(torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.03)
    assert drawn.std().item() == pytest.approx(3.0, rel=0.01)


def test_a_sample_does_not_depend_on_its_batch():
    """Red when a list of generators is replaced by its first one."""
    like = torch.zeros(3, 4, 2, 2)
    together = standard_normal(like, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    alone = standard_normal(like[:1], [torch.Generator().manual_seed(6)])
    assert torch.equal(together[1:2], alone)


def test_quantiles_are_those_of_torch():
    """Red when the standard deviation is replaced by the variance."""
    gaussian = some_gaussian(4)
    for probability in (0.05, 0.5, 0.95):
        expected = peer(gaussian).icdf(torch.tensor(probability, dtype=torch.float64))
        torch.testing.assert_close(gaussian.quantile(probability).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 1.0, math.nan])
def test_a_quantile_outside_the_open_interval_is_refused(probability: float):
    with pytest.raises(ValueError, match="strictly between"):
        some_gaussian(0).quantile(probability)
