import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from jeppa.config import PRESETS, Likelihood
from jeppa.errors import ConfigError, DataError
from jeppa.vae import LIKELIHOODS, HeteroscedasticVAE, load_folder, pad_to_multiple, save_folder
from jeppa.vae.linear_start import principal_components, start_linear
from jeppa.vae.sigma_head import SigmaHead, bound_logvar, log_contrast

WITH_HEAD = {name: arm for name, arm in LIKELIHOODS.items() if arm.has_head}
FAITHFUL = [name for name, arm in WITH_HEAD.items() if arm.mean_of_shared]
JOINT = [name for name, arm in WITH_HEAD.items() if not arm.mean_of_shared]


def test_every_likelihood_that_can_be_asked_for_is_registered():
    """Red when a name is known to the command line and not to the model, or the other way round."""
    assert set(LIKELIHOODS) == set(get_args(Likelihood))
    assert FAITHFUL == ["faithful", "band-faithful", "band-t-faithful"]


@pytest.fixture(scope="module")
def tiny() -> HeteroscedasticVAE:
    torch.manual_seed(0)
    return HeteroscedasticVAE("tiny").eval()


@pytest.mark.parametrize("preset", ["tiny", "small"])
@torch.no_grad()
def test_512_pixels_give_64_by_64_by_4_and_back(preset: str):
    """Red when a level is added or left out."""
    model = HeteroscedasticVAE(preset).eval()
    posterior = model.encode(torch.zeros(1, 3, 512, 512))
    assert posterior.mean.shape == posterior.logvar.shape == (1, 4, 64, 64)
    decoded = model.decode(posterior.mean)
    assert decoded.mean.shape == decoded.logvar.shape == (1, 3, 512, 512)


@pytest.mark.slow
@torch.no_grad()
def test_512_pixels_give_64_by_64_by_4_and_back_in_the_sd_preset():
    model = HeteroscedasticVAE("sd").eval()
    posterior = model.encode(torch.zeros(1, 3, 512, 512))
    assert posterior.mean.shape == (1, 4, 64, 64)
    assert model.decode(posterior.mean).logvar.shape == (1, 3, 512, 512)


@torch.no_grad()
def test_the_sd_preset_shrinks_eightfold():
    model = HeteroscedasticVAE("sd").eval()
    posterior = model.encode(torch.zeros(1, 3, 32, 32))
    assert posterior.mean.shape == (1, 4, 4, 4)
    assert model.decode(posterior.mean).mean.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (13, 21), (1, 1), (64, 40)])
@torch.no_grad()
def test_any_size_comes_back_at_its_own_size(tiny: HeteroscedasticVAE, size: tuple[int, int]):
    """Red when the crop after decoding is left out."""
    decoded = tiny.reconstruct(torch.zeros(2, 3, *size))
    assert decoded.mean.shape == decoded.logvar.shape == (2, 3, *size)
    assert decoded.mean.isfinite().all()


def test_padding_repeats_the_edge():
    padded = pad_to_multiple(torch.arange(15.0).view(1, 1, 3, 5))
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 7, 7] == 14.0


@torch.no_grad()
def test_mean_and_latent_are_those_of_the_stock_autoencoder(tiny: HeteroscedasticVAE):
    """Red when decode skips a block or the head touches the mean."""
    x = torch.rand(2, 3, 32, 32) * 2.0 - 1.0
    pixels = torch.nn.functional.pixel_unshuffle(x, tiny.settings.pixel_unshuffle)
    stock = tiny.vae.encode(pixels).latent_dist
    posterior = tiny.encode(x)
    assert torch.equal(posterior.mean, stock.mean)
    assert torch.equal(posterior.logvar, stock.logvar)
    expected = torch.nn.functional.pixel_shuffle(tiny.vae.decode(stock.mean).sample, tiny.settings.pixel_unshuffle)
    assert torch.equal(tiny.decode(stock.mean).mean, expected)


@pytest.mark.parametrize("likelihood", FAITHFUL)
def test_the_variance_term_sends_no_gradient_into_encoder_features_or_mean(likelihood: Likelihood):
    """Red when the detach of the features, or of the mean, is removed."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("tiny", likelihood)
    assert model.sigma_head is not None
    torch.nn.init.normal_(model.sigma_head.out.weight)
    x = torch.rand(2, 3, 32, 32)
    decoded = model.decode(model.encode(x).mean)
    decoded.logvar.sum().backward()
    assert all(parameter.grad is None for parameter in model.vae.parameters())
    assert model.sigma_head.from_features.weight.grad is not None


@pytest.mark.parametrize("likelihood", JOINT)
def test_in_a_joint_likelihood_the_head_shapes_the_features(likelihood: Likelihood):
    """Red when the features of a joint arm are stopped, or its mean is not."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("tiny", likelihood)
    assert model.sigma_head is not None
    torch.nn.init.normal_(model.sigma_head.out.weight)
    decoded = model.decode(torch.randn(2, 4, 4, 4))
    decoded.logvar.sum().backward()
    assert model.vae.decoder.conv_in.weight.grad is not None
    assert model.vae.decoder.conv_out.weight.grad is None


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_every_likelihood_reconstructs_draws_and_comes_back_from_its_folder(likelihood: Likelihood, tmp_path: Path):
    """Red when the tails of a Student-t, or the basis of the bands, are not saved."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("tiny", likelihood).eval()
    model.mean_square.fill_(0.02)
    if model.sigma_head is not None:
        torch.nn.init.normal_(model.sigma_head.out.weight, std=0.05)
    x = torch.rand(2, 3, 20, 33) * 2.0 - 1.0
    save_folder(model, (0.0,) * 4, (1.0,) * 4, tmp_path)
    again, _ = load_folder(tmp_path)
    first, second = model.reconstruct(x), again.reconstruct(x)
    assert first.logvar.shape == first.mean.shape == x.shape
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.logvar, second.logvar)
    drawn = [one.draw(x, 1.0, torch.Generator().manual_seed(3)) for one in (model, again)]
    assert torch.equal(*drawn)
    assert torch.equal(model.draw(x, 0.0), first.mean)


@pytest.mark.parametrize("likelihood", FAITHFUL)
def test_the_faithful_gradient_of_the_mean_is_that_of_the_shared_likelihood(likelihood: Likelihood):
    """Red when the mean is not stopped in the variance term of `faithful`."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("tiny", likelihood)
    x, decoded = torch.rand(2, 3, 32, 32), model.decode(torch.randn(2, 4, 4, 4))
    mean = decoded.mean
    total = model.arm.loss(x, decoded, model.shared_logvar).sum()
    (gradient,) = torch.autograd.grad(total, mean)
    expected = (mean - x) / model.shared_logvar.exp()
    torch.testing.assert_close(gradient, expected)


def test_an_untrained_head_gives_the_shared_sigma():
    model = HeteroscedasticVAE("tiny")
    model.mean_square.fill_(0.02)
    decoded = model.decode(torch.randn(1, 4, 4, 4))
    torch.testing.assert_close(decoded.logvar, model.shared_logvar.expand_as(decoded.logvar), atol=1e-3, rtol=0.0)


def test_the_running_error_is_the_mean_at_first_and_a_moving_average_later():
    """Red when the first value is mixed with the initial 1."""
    model = HeteroscedasticVAE("tiny")
    model.track_error(torch.tensor(0.01))
    assert model.mean_square.item() == pytest.approx(0.01, rel=1e-5)
    model.track_error(torch.tensor(0.09))
    assert model.mean_square.item() == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize("raw", [-1e4, -50.0, -12.0, 0.0, 50.0, 1e4])
def test_log_sigma_stays_between_floor_and_ceiling_with_a_finite_gradient(raw: float):
    """Red when either soft clip is removed."""
    value = torch.tensor(raw, requires_grad=True)
    bounded = bound_logvar(value)
    bounded.backward()
    assert -12.0 <= bounded.item() <= 4.0
    assert value.grad is not None
    assert value.grad.isfinite()


def test_just_below_the_floor_a_gradient_still_leads_back():
    """Red when the soft clip is a hard one: a pixel that once hit the floor would never leave it."""
    value = torch.tensor(-14.0, requires_grad=True)
    bound_logvar(value).backward()
    assert value.grad is not None
    assert value.grad.item() > 0.05


def test_sigma_of_a_place_does_not_depend_on_the_size_of_the_crop():
    """Red when the head normalises over space."""
    torch.manual_seed(0)
    head = SigmaHead(feature_channels=8, feature_size=4, channels=8, blocks=1)
    torch.nn.init.normal_(head.out.weight, std=0.1)
    features, mean = torch.randn(1, 8, 64, 64), torch.randn(1, 3, 256, 256)
    whole = head(features, mean, torch.tensor(-3.0))
    part = head(features[..., :32, :32], mean[..., :128, :128], torch.tensor(-3.0))
    torch.testing.assert_close(whole[..., :72, :72], part[..., :72, :72])


@pytest.mark.parametrize("shape", [(1, 3, 12, 8), (1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_a_batch_that_cannot_be_encoded_is_refused_in_one_line(tiny: HeteroscedasticVAE, shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"needs \[B,3,H,W\]") as caught:
        tiny.encode(torch.zeros(shape))
    assert "\n" not in str(caught.value)


def test_contrast_does_not_see_the_colour_and_scales_by_a_shift():
    """Red when the difference filter does not sum to zero."""
    mean = 10.0 * torch.randn(1, 3, 32, 32)
    tint = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(log_contrast(mean + tint), log_contrast(mean), atol=1e-4, rtol=0.0)
    shift = log_contrast(4.0 * mean) - log_contrast(mean)
    torch.testing.assert_close(shift, torch.full_like(shift, math.log(4.0)), atol=0.05, rtol=0.0)


def test_a_linear_start_reconstructs_like_principal_components():
    """Red when a pair, an anchor's gain or the mean patch is left out."""
    torch.manual_seed(0)
    model = HeteroscedasticVAE("small").eval()
    base = torch.randn(4, 3 * 64) * torch.tensor([2.0, 1.0, 0.5, 0.3]).view(4, 1)
    weights = torch.randn(16, 4, 8, 8)
    x = torch.nn.functional.pixel_shuffle(torch.einsum("bchw,cd->bdhw", weights, base), 8) * 0.1 + 0.1
    parts = principal_components(x, 8, 4)
    start_linear(model.vae, parts)
    with torch.no_grad():
        mean = model.decode(model.encode(x).mean).mean
        noise_floor = model.encode(x).var.mean()
    assert ((mean - x).square().mean() / x.var()).item() < 0.03
    assert noise_floor < 0.01


def test_contrast_is_exact_under_autocast():
    """Red when the difference filter runs in bfloat16, whose steps are half a grey level."""
    mean = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = log_contrast(mean)
    assert torch.equal(lowered, log_contrast(mean))


@torch.no_grad()
def test_bf16_autocast_stays_near_fp32(tiny: HeteroscedasticVAE):
    """Mean within 3 levels and sigma within 10 % for random weights: bfloat16 keeps 8 bits."""
    x = torch.rand(2, 3, 32, 32) * 2.0 - 1.0
    exact = tiny.decode(tiny.encode(x).mean)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = tiny.decode(tiny.encode(x).mean)
    assert lowered.mean.dtype == lowered.logvar.dtype == torch.float32
    assert (lowered.mean - exact.mean).abs().mean().item() < 3.0 / 127.5
    assert (0.5 * (lowered.logvar - exact.logvar)).exp().sub(1.0).abs().max().item() < 0.1


@torch.no_grad()
def test_a_linear_start_from_flat_pictures_is_finite():
    """Red when the variances have no floor."""
    model = HeteroscedasticVAE("tiny").eval()
    flat = torch.linspace(-1.0, 1.0, 16).view(16, 1, 1, 1).expand(16, 3, 16, 16)
    start_linear(model.vae, principal_components(flat, 8, 4))
    posterior = model.encode(flat)
    assert posterior.logvar.isfinite().all()
    assert (model.decode(posterior.mean).mean - flat).abs().max().item() < 0.2


def test_a_linear_start_needs_one_level():
    model = HeteroscedasticVAE(
        PRESETS["tiny"].model_copy(update={"pixel_unshuffle": 4, "block_out_channels": (32, 32)})
    )
    with pytest.raises(ConfigError, match="one level"):
        start_linear(model.vae, principal_components(torch.randn(4, 3, 16, 16), 8, 4))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="tiny, small, sd"):
        HeteroscedasticVAE("large")


def test_sd_is_the_architecture_of_stable_diffusion():
    config = PRESETS["sd"]
    assert (config.pixel_unshuffle, config.block_out_channels, config.layers_per_block) == (1, (128, 256, 512, 512), 2)
