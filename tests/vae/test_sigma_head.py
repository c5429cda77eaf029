"""The rising curve: the identity bit for bit until it is bent, then straight between its knots."""

import numpy as np
import pytest
import torch

from jeppa.vae import KNOTS, SigmaHead
from jeppa.vae.sigma_head import LOGVAR_RANGE, RisingCurve


def bent() -> RisingCurve:
    curve = RisingCurve(*LOGVAR_RANGE)
    generator = torch.Generator().manual_seed(0)
    steps = torch.rand(2, KNOTS, generator=generator) + 0.1
    curve.bend(*(steps.cumsum(1) - 6.0))
    return curve


def test_at_first_it_changes_nothing():
    x = torch.linspace(-20.0, 10.0, 1001)
    assert torch.equal(RisingCurve(*LOGVAR_RANGE)(x), x)


def test_between_knots_it_is_straight_and_beyond_them_a_shift():
    """Red when a piece has its neighbour's slope, or the ends go on with theirs."""
    curve, x = bent(), torch.linspace(-12.0, 4.0, 4001)
    expected = np.interp(x, curve.knots, curve.values)
    expected += np.minimum(x.numpy() - curve.knots[0].item(), 0.0) + np.maximum(x.numpy() - curve.knots[-1].item(), 0.0)
    np.testing.assert_allclose(curve(x).numpy(), expected, atol=1e-5)


def test_the_gradient_is_the_slope():
    curve = bent()
    x = (curve.knots[:-1] + 0.01).requires_grad_()
    curve(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, curve.values.diff() / curve.knots.diff(), rtol=1e-5, atol=1e-6)


def test_knots_that_do_not_rise_are_refused():
    curve = RisingCurve(*LOGVAR_RANGE)
    with pytest.raises(ValueError, match="rise"):
        curve.bend(curve.knots.clone(), curve.values.flip(0))


def test_a_head_bends_its_log_variance_and_straightens_again():
    """Red when the curve is not applied, or an answer leaves the promised range."""
    head = SigmaHead(8, 8, channels=8, blocks=0)
    torch.nn.init.normal_(head.out.weight, std=0.1)
    features, mean, shared = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 32, 32), torch.tensor(-4.0)
    before = head(features, mean, shared)
    curve = bent()
    head.curve.bend(curve.knots, curve.values)
    torch.testing.assert_close(head(features, mean, shared), curve(before).clamp(*LOGVAR_RANGE))
    head.curve.bend(curve.knots, curve.values - 20.0)
    assert head(features, mean, shared).detach().min().item() == LOGVAR_RANGE[0]
    head.curve.straighten()
    assert torch.equal(head(features, mean, shared), before)
