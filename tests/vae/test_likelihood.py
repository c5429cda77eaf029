import math

import pytest
import torch
from torch import nn

from jeppa.data import known_gaussian
from jeppa.gaussian import DiagonalGaussian
from jeppa.vae import LIKELIHOODS
from jeppa.vae.sigma import bounded_logvar

STEPS = 400


def test_shared_nll_is_lowest_at_the_mean_squared_error():
    """Red when log variance or log 2 pi is left out."""
    x = torch.randn(4, 3, 8, 8) * 0.2
    decoded = DiagonalGaussian(torch.zeros_like(x), torch.zeros_like(x))
    best = x.square().mean().log()
    at_best = LIKELIHOODS["shared"](x, decoded, best).mean()
    assert at_best < LIKELIHOODS["shared"](x, decoded, best + 0.1).mean()
    assert at_best < LIKELIHOODS["shared"](x, decoded, best - 0.1).mean()
    dims = x[0].numel()
    assert at_best.item() == pytest.approx(0.5 * dims * (math.log(2.0 * math.pi) + best.item() + 1.0), rel=1e-5)


def test_fixed_is_half_the_squared_error_plus_a_constant():
    x = torch.randn(2, 3, 8, 8)
    decoded = DiagonalGaussian(torch.zeros_like(x), torch.full_like(x, -5.0))
    expected = 0.5 * x.square().flatten(1).sum(1) + 0.5 * x[0].numel() * math.log(2.0 * math.pi)
    torch.testing.assert_close(LIKELIHOODS["fixed"](x, decoded, torch.tensor(-3.0)), expected)


def test_faithful_recovers_a_known_sigma():
    """A pointwise net that sees the true mean learns the true sigma within 10 %, chi2 in 0.9 to 1.1.

    Red when the variance term is weighted by the variance, or the residual is not squared.
    """
    torch.manual_seed(0)
    train, test = known_gaussian(64, 32, seed=0), known_gaussian(16, 32, seed=1)
    layers = [nn.Conv2d(3, 48, 1), nn.SiLU(), nn.Conv2d(48, 48, 1), nn.SiLU(), nn.Conv2d(48, 3, 1)]
    net = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    shared = torch.tensor(-4.0)

    def predict(mean: torch.Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(mean, bounded_logvar(net(mean) + shared))

    for step in range(STEPS):
        rows = slice(step % 4 * 16, step % 4 * 16 + 16)
        loss = LIKELIHOODS["faithful"](train.x[rows], predict(train.mean[rows]), shared).mean()
        optimizer.zero_grad()
        (loss / train.x[0].numel()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        learned = predict(test.mean)
    relative = (0.5 * (learned.logvar - test.logvar)).exp()
    assert (relative - 1.0).abs().mean().item() < 0.10
    chi2 = ((test.x - test.mean).square() / learned.var).mean().item()
    assert 0.9 < chi2 < 1.1
