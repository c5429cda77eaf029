import math

import pytest
import torch

from jeppa.config import VAERun
from jeppa.distributions import DiagonalGaussian
from jeppa.train.kl import KLTerm, latent_summary
from jeppa.train.step import Terms

DIMS = 3 * 16 * 16


def posterior(scale: float = 1.0) -> DiagonalGaussian:
    mean = scale * torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    return DiagonalGaussian(mean, torch.full_like(mean, -2.0))


def step(term: KLTerm, latent: DiagonalGaussian) -> Terms:
    terms = term(latent, DIMS)
    term.advance(terms["rate"].mean())
    return terms


def test_weighted_is_beta_times_kl():
    term = KLTerm(VAERun(beta=0.7))
    found = term(posterior(), DIMS)
    torch.testing.assert_close(found["weighted"], 0.7 * posterior().kl())
    torch.testing.assert_close(found["rate"], posterior().kl() / DIMS / math.log(2.0))


def test_beta_zero_leaves_the_kl_out():
    assert KLTerm(VAERun(beta=0.0))(posterior(), DIMS)["weighted"].abs().max() == 0.0


def test_warm_up_raises_beta_in_equal_steps():
    term = KLTerm(VAERun(beta=2.0, kl_warmup_steps=4)).train()
    betas = [float(step(term, posterior())["beta"][0]) for _ in range(6)]
    assert betas == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_free_bits_take_the_gradient_from_cheap_channels_alone():
    """Red when the free bits are compared with the whole KL instead of each channel's."""
    mean = torch.zeros(4, 2, 2, 2)
    mean[:, 1] = 3.0
    mean.requires_grad_()
    term = KLTerm(VAERun(free_bits=1.0))
    term(DiagonalGaussian(mean, torch.zeros(4, 2, 2, 2)), DIMS)["weighted"].sum().backward()
    assert mean.grad[:, 0].abs().max() == 0.0
    torch.testing.assert_close(mean.grad[:, 1], torch.full((4, 2, 2), 3.0))


def test_a_part_has_the_free_bits_of_its_whole_batch():
    """Red when a part compares its own mean: one half is above the free bits, the other below, the whole above."""
    mean = torch.zeros(4, 2, 2, 2)
    mean[:2, 0] = 3.0
    term, latent = KLTerm(VAERun(free_bits=1.0)), DiagonalGaussian(mean, torch.zeros_like(mean))
    whole = term(latent, DIMS)
    means = {key: value.mean() for key, value in whole.items()}
    halves = [DiagonalGaussian(latent.mean[part], latent.logvar[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.cat([term(half, DIMS, means)["weighted"] for half in halves]), whole["weighted"])


@pytest.mark.parametrize("wanted", [0.01, 0.02])
def test_beta_moves_until_the_rate_is_held(wanted):
    """A latent whose standard deviation is learned: rate and beta settle, whatever beta started from."""
    term = KLTerm(VAERun(rate=wanted, beta=3.0)).train()
    logvar = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([logvar], 0.02)
    for _ in range(1500):
        latent = DiagonalGaussian(torch.zeros(4, 2, 2, 2), logvar.expand(4, 2, 2, 2))
        terms = step(term, latent)
        loss = (50.0 * logvar.exp() + terms["weighted"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(terms["rate"][0]) == pytest.approx(wanted, rel=0.02)


def test_its_state_goes_with_the_checkpoint():
    term = KLTerm(VAERun(rate=0.5)).train()
    for _ in range(5):
        step(term, posterior())
    other = KLTerm(VAERun(rate=0.5))
    other.load_state_dict(term.state_dict())
    assert float(other.beta) == float(term.beta) != 1.0


def test_active_units_count_channels_that_vary():
    term = KLTerm(VAERun())
    mean = torch.zeros(8, 3, 4, 4)
    mean[:, 0] = torch.randn(8, 4, 4)
    mean[:, 2] = 5.0
    terms = term(DiagonalGaussian(mean, torch.zeros_like(mean)), DIMS)
    figures = latent_summary({key: float(value.mean()) for key, value in terms.items()})
    assert figures["active_units"] == 1.0
    assert figures["kl_channel_1"] == 0.0
    assert figures["kl_channel_2"] == pytest.approx(12.5 / math.log(2.0))
