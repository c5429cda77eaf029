"""The learned variance: exact on Gaussian data in any number of steps, and without effect on the mean."""

import math

import pytest
import torch
from torch import Tensor

from jeppa.diffusion import (
    DDIM,
    Denoiser,
    Prediction,
    VarianceHead,
    alpha_bars,
    ddim_step,
    denoising_loss,
    generators_for,
    initial_noise,
    make_denoise,
    make_scheduler,
    make_unet,
    sample_ddim,
    x0_share,
)
from jeppa.errors import ConfigError

SCHEDULE = make_scheduler()
BARS = alpha_bars(SCHEDULE)
SHAPE, LARGE = (2, 4, 3), (4, 128, 128)
MEAN, STD = 0.5, 0.6


def net(zt: Tensor, t: Tensor) -> Prediction:
    """Acts on each element by itself."""
    mean = 0.7 * torch.tanh(zt + t.reshape(-1, 1, 1, 1) / 1000) - 0.1
    return Prediction(mean, torch.sin(3.0 * zt) - 2.0)


def without_variance(zt: Tensor, t: Tensor) -> Prediction:
    return Prediction(net(zt, t).mean)


def gaussian_oracle(zt: Tensor, t: Tensor) -> Prediction:
    """E[v|zt] and log Var[v|zt] of data N(MEAN, STD^2)."""
    a = BARS[t].reshape(-1, 1, 1, 1)
    total = STD**2 * a + 1 - a
    x0 = MEAN + STD**2 * a.sqrt() / total * (zt.double() - a.sqrt() * MEAN)
    logvar = (STD**2 / total).log().expand(zt.shape)
    return Prediction(((a.sqrt() * zt - x0) / (1 - a).sqrt()).float(), logvar.float())


def draw(denoise, settings: DDIM, seeds=(1, 2), shape=SHAPE) -> Tensor:
    generators = generators_for(seeds)
    *_, last = sample_ddim(denoise, initial_noise(shape, generators), SCHEDULE, settings, generators)
    return last.zt


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_gaussian_data_come_out_exactly_at_any_number_of_steps(steps: int, eta: float) -> None:
    """The reverse kernel of Gaussian data is the Gaussian with that mean and variance, whatever eta and stride.

    65,536 elements: five standard errors are 1.4 % of the deviation. Plain DDIM falls short of it.
    Red when c is squared once too often, misses a root or takes lambda from elsewhere, or the last draw is left out.
    """
    sample = draw(gaussian_oracle, DDIM(steps, eta, temperature=1.0, last=True), (1,), LARGE)
    assert sample.mean().item() == pytest.approx(MEAN, abs=0.014)
    assert sample.std().item() == pytest.approx(STD, rel=0.014)
    assert draw(gaussian_oracle, DDIM(steps, eta), (1,), LARGE).std().item() < 0.9 * STD


def test_last_draw_is_the_whole_variance_of_the_last_estimate() -> None:
    """c is 1 there. Red when `last` is ignored, or draws with another share."""
    with_draw = draw(gaussian_oracle, DDIM(3, temperature=1.0, last=True), (1,), LARGE)
    without = draw(gaussian_oracle, DDIM(3, temperature=1.0), (1,), LARGE)
    a = BARS[332].item()
    left = STD**2 * (1 - a) / (STD**2 * a + 1 - a)
    assert (with_draw - without).var().item() == pytest.approx(left, rel=0.03)
    assert x0_share(0.3, 1.0, 0.0) == 1.0


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_temperature_zero_is_plain_ddim_bitwise(eta: float) -> None:
    """Red when the learned part is added before the temperature is looked at."""
    plain = draw(without_variance, DDIM(5, eta))
    assert torch.equal(draw(net, DDIM(5, eta)), plain)
    assert torch.equal(draw(net, DDIM(5, eta, temperature=torch.zeros(1, 1, 4, 3), last=True)), plain)
    assert not torch.equal(draw(net, DDIM(5, eta, temperature=1.0)), plain)


def test_temperature_as_a_mask_leaves_other_places_bitwise_plain() -> None:
    """Red when a place's noise leaks to another, or the tensor is reduced to one number."""
    mask = torch.zeros(4, 3)
    mask[1:3, 1] = 1.0
    plain, masked = draw(net, DDIM(5)), draw(net, DDIM(5, temperature=mask, last=True))
    whole = draw(net, DDIM(5, temperature=torch.ones(4, 3), last=True))
    inside = mask.bool().expand_as(plain)
    assert torch.equal(masked[~inside], plain[~inside])
    assert torch.equal(masked[inside], whole[inside])
    torch.testing.assert_close(whole, draw(net, DDIM(5, temperature=1.0, last=True)))
    assert (masked[inside] != plain[inside]).all()


def test_variance_moves_no_mean() -> None:
    """The step without its noise is the same for every variance, and noise enters as an odd function.

    Red when the direction to eps shrinks with the learned variance, as it does with eta's.
    """
    x0, eps, noise = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    zero = torch.zeros_like(x0)
    plain = ddim_step(x0, eps, 0.2, 0.6, 0.5, zero)
    for variance in (0.0, 0.1, 1.0):
        known = torch.full_like(x0, variance)
        assert torch.equal(ddim_step(x0, eps, 0.2, 0.6, 0.5, zero, known), plain)
        up, down = (ddim_step(x0, eps, 0.2, 0.6, 0.5, sign * noise, known) for sign in (1, -1))
        torch.testing.assert_close((up + down) / 2, plain)


def test_deviation_of_the_learned_part_is_proportional_to_the_temperature() -> None:
    """At eta 0. Red when the temperature is not squared inside the root."""
    x0, eps, noise = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    known = torch.full_like(x0, 0.3)
    moved = [ddim_step(x0, eps, 0.2, 0.6, 0.0, noise, known, heat) for heat in (0.0, 0.5, 2.0)]
    torch.testing.assert_close(moved[2] - moved[0], 4.0 * (moved[1] - moved[0]))
    torch.testing.assert_close(moved[2] - moved[0], 2.0 * x0_share(0.2, 0.6, 0.0) * math.sqrt(0.3) * noise)


def test_each_step_reports_the_bounded_variance_of_its_estimate() -> None:
    """Red when a step yields the logvar, or the variance of another timestep."""
    z_t = initial_noise(SHAPE, generators_for([1]))
    for step in sample_ddim(gaussian_oracle, z_t, SCHEDULE, DDIM(4)):
        a = BARS[step.t].item()
        left = STD**2 * (1 - a) / (STD**2 * a + 1 - a)
        torch.testing.assert_close(step.x0_variance, torch.full_like(z_t, left))
    assert next(sample_ddim(without_variance, z_t, SCHEDULE, DDIM(4))).x0_variance is None


def test_temperature_errors_are_one_line() -> None:
    """Red when a check is removed."""
    z_t = torch.zeros(2, *SHAPE)
    for bad in (-0.5, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"^temperature is {bad}, but must be 0 or more: use 0 .*$"):
            DDIM(5, temperature=bad)
    with pytest.raises(ConfigError, match=r"temperature is -1\.0 to 2\.0, but must be 0 or more"):
        DDIM(5, temperature=torch.tensor([-1.0, 2.0]))
    with pytest.raises(
        ConfigError, match="temperature is above 0, which draws noise, but there are 0 generators for 2"
    ):
        sample_ddim(net, z_t, SCHEDULE, DDIM(5, temperature=1.0))
    with pytest.raises(ConfigError, match="predicts no variance: set it to 0, or train a variance head"):
        draw(without_variance, DDIM(5, temperature=1.0))
    with pytest.raises(ConfigError, match=r"temperature is 1\.0, which adds noise in each step: pass noise"):
        ddim_step(z_t, z_t, 0.1, 0.2, 0.0, None, torch.ones_like(z_t))


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """A net with classes, a half-resolution level, and a head that is no longer at its start."""
    torch.manual_seed(0)
    unet = make_unet(
        sample_size=4,
        latent_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention=(False, False),
        num_classes=2,
    )
    made = Denoiser(unet, "epsilon", 8)
    torch.nn.init.normal_(made.head.out.weight, std=0.1)
    return made


def test_untrained_head_says_an_error_of_the_size_of_the_data() -> None:
    """Red when the last convolution is not zero at the start."""
    head = VarianceHead(8, 16, 2, 8)
    logvar = head(torch.randn(1, 8, 5, 3), torch.randn(1, 2, 5, 3), torch.randn(1, 2, 5, 3), torch.randn(1, 16))
    assert torch.equal(logvar, torch.zeros(1, 2, 5, 3))


def test_head_gives_the_net_no_gradient(denoiser: Denoiser) -> None:
    """Nor the other way round. Red when features, mean or time embedding reach the head with their gradient."""
    z0, noise = torch.randn(2, 2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    bars = alpha_bars(make_scheduler(kind="epsilon"))
    terms = denoising_loss(make_denoise(denoiser), z0, torch.tensor([10, 900]), noise, bars, "epsilon")
    terms["variance_nll"].sum().backward(retain_graph=True)
    assert all(weight.grad is None for weight in denoiser.unet.parameters())
    assert denoiser.head.from_features.weight.grad.abs().max() > 0
    denoiser.zero_grad()
    terms["mse"].sum().backward()
    assert all(weight.grad is None for weight in denoiser.head.parameters())


@torch.no_grad()
def test_mean_is_bitwise_that_of_the_net_alone(denoiser: Denoiser) -> None:
    """And the hooks that listen are gone after the call. Red when the head changes what it listens to."""
    zt, t, labels = torch.randn(2, 2, 4, 4), torch.tensor([10, 900]), torch.tensor([0, 1])
    found = denoiser(zt, t, labels)
    assert found.kind == "epsilon"
    assert torch.equal(found.mean, denoiser.unet(zt, t, class_labels=labels).sample)
    assert torch.equal(found.mean, Denoiser(denoiser.unet, "epsilon", None)(zt, t, labels).mean)
    assert not denoiser.unet.conv_out._forward_pre_hooks
    assert not denoiser.unet.time_embedding._forward_hooks


@torch.no_grad()
def test_guidance_keeps_the_variance_of_the_conditional_prediction(denoiser: Denoiser) -> None:
    """Red when the halves of the batch are exchanged, or the logvar is extrapolated like the mean."""
    zt, t, labels = torch.randn(2, 2, 4, 4), torch.tensor([10, 900]), torch.tensor([0, 1])
    cond, null = make_denoise(denoiser, labels)(zt, t), make_denoise(denoiser)(zt, t)
    strong = make_denoise(denoiser, labels, 3.0)(zt, t)
    assert (cond.logvar - null.logvar).abs().max() > 1e-4
    torch.testing.assert_close(strong.logvar, cond.logvar)
    torch.testing.assert_close(strong.mean, null.mean + 3.0 * (cond.mean - null.mean), atol=1e-5, rtol=0.0)
    assert strong.kind == "epsilon"


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 4)])
@torch.no_grad()
def test_variance_of_odd_sizes_has_the_size_of_the_latent(denoiser: Denoiser, size: tuple[int, int]) -> None:
    """Red when the logvar is not cropped with the mean, or from the other side."""
    zt, t = torch.randn(2, 2, *size), torch.tensor([10, 900])
    found = make_denoise(denoiser)(zt, t)
    assert found.mean.shape == found.logvar.shape == zt.shape
    padded = torch.nn.functional.pad(zt, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    whole = make_denoise(denoiser)(padded, t).logvar
    torch.testing.assert_close(found.logvar, whole[..., : size[0], : size[1]])
