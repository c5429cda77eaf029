"""The loss of v is SNR + 1 times that of x0; timesteps cover the schedule; labels drop at their rate."""

import math

import pytest
import torch

from jeppa.diffusion import (
    Prediction,
    add_noise,
    alpha_bars,
    denoising_loss,
    drop_labels,
    make_scheduler,
    sample_timesteps,
    target,
)
from jeppa.errors import ConfigError

BARS = alpha_bars(make_scheduler())


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z0, noise = torch.randn(2, size, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return z0, noise, torch.tensor([0, 300, 700, 999])


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_loss_is_zero_for_the_true_answer_and_one_value_a_sample(kind) -> None:
    """Red when the target or the noised input is taken at another timestep, or `kind` is ignored."""
    z0, noise, t = batch()

    def oracle(zt: torch.Tensor, asked: torch.Tensor) -> Prediction:
        torch.testing.assert_close(zt, add_noise(z0, noise, BARS[t]))
        assert torch.equal(asked, t)
        return Prediction(target(kind, z0, noise, BARS[t]), None, kind)

    terms = denoising_loss(oracle, z0, t, noise, BARS, kind)
    assert list(terms) == ["mse"]
    assert torch.equal(terms["mse"], torch.zeros(4))


def test_loss_of_predicting_zero_is_about_one_for_each_sample() -> None:
    """E v^2 = 1 on unit-variance latents. Red when the reduction is a sum, or over the batch too."""
    z0, noise, t = batch()
    loss = denoising_loss(lambda zt, _: Prediction(torch.zeros_like(zt)), z0, t, noise, BARS)["mse"]
    assert loss.shape == (4,)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.ones(4), atol=0.15, rtol=0.0)


def test_loss_is_snr_plus_one_times_the_x0_error() -> None:
    """The documented weighting. Red when the loss is weighted by timestep, or compares eps or x0."""
    z0, noise, t = batch()
    bars = BARS[t]
    loss = denoising_loss(lambda zt, _: Prediction(0.5 * zt), z0, t, noise, BARS)["mse"]
    zt = add_noise(z0, noise, bars)
    x0_error = (Prediction(0.5 * zt).x0(zt, bars) - z0).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, (x0_error / (1 - bars)).float(), atol=0.0, rtol=1e-3)


def test_variance_terms_are_the_density_of_the_error_and_leave_the_mean_alone() -> None:
    """Against torch.distributions. Red when log 2 pi or the half is dropped, or the error is not detached."""
    z0, noise, t = batch()
    mean, logvar = torch.full_like(z0, 0.3, requires_grad=True), torch.full_like(z0, -0.7, requires_grad=True)
    terms = denoising_loss(lambda *_: Prediction(mean, logvar), z0, t, noise, BARS)
    v = target("v_prediction", z0, noise, BARS[t])
    density = torch.distributions.Normal(0.3, math.exp(-0.35)).log_prob(v).mean((1, 2, 3))
    torch.testing.assert_close(terms["variance_nll"], -density, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(terms["chi2"], (v - 0.3).square().mean((1, 2, 3)) * math.exp(0.7), atol=1e-4, rtol=0.0)
    terms["variance_nll"].sum().backward()
    assert mean.grad is None
    assert logvar.grad.abs().max() > 0
    assert not terms["chi2"].requires_grad


@pytest.mark.parametrize(("size", "train_steps"), [(1, 1000), (8, 1000), (7, 1000), (1000, 1000), (32, 10)])
def test_every_equal_part_of_the_schedule_gets_its_share_of_each_batch(size: int, train_steps: int) -> None:
    """Any window of width T/B, from any point around, holds 1 (up to the rounding to whole timesteps).

    Red when draws are independent, or the offset is not wrapped around.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        t = sample_timesteps(size, train_steps, generator)
        assert t.dtype == torch.long
        assert t.shape == (size,)
        assert 0 <= t.min() <= t.max() < train_steps
        ordered = t.sort().values
        gaps = torch.cat([ordered.diff(), ordered[:1] + train_steps - ordered[-1:]])
        assert (gaps - train_steps / size).abs().max() < 1.0 + 1e-9


def test_each_timestep_is_uniform_by_itself() -> None:
    """Red when the offset spans one interval only, so that a row keeps its part of the schedule."""
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([sample_timesteps(4, 10, generator)[0] for _ in range(5000)])
    shares = torch.bincount(first, minlength=10) / 5000
    assert (shares - 0.1).abs().max() < 0.02


def test_labels_drop_at_the_given_rate_and_only_to_the_null_label() -> None:
    """Red when the comparison is turned around, or the labels are changed in place."""
    labels = torch.arange(20_000) % 5
    before = labels.clone()
    generator = torch.Generator().manual_seed(0)
    dropped = drop_labels(labels, 5, 0.1, generator)
    assert torch.equal(labels, before)
    changed = dropped != labels
    assert (dropped[changed] == 5).all()
    assert changed.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_labels(labels, 5, 0.0, generator), labels)
    assert (drop_labels(labels, 5, 1.0, generator) == 5).all()


def test_bad_numbers_are_one_line() -> None:
    """Red when a check is removed."""
    generator = torch.Generator()
    with pytest.raises(ConfigError, match=r"label drop probability is 1\.5, but must lie in 0 to 1: use 0\.1"):
        drop_labels(torch.tensor([0]), 1, 1.5, generator)
    with pytest.raises(ConfigError, match="batch is 0 and train_steps 1000, but both"):
        sample_timesteps(0, 1000, generator)
