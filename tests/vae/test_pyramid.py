"""The pyramid: linear at its start, exact in tiles, plain areas plain, and a VAE that stock diffusers takes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jeppa.config import VAEConfig, parse
from jeppa.errors import ConfigError
from jeppa.vae import HeteroscedasticVAE, load_folder, save_folder
from jeppa.vae.pyramid import PyramidAutoencoder

CONFIG = VAEConfig(
    architecture="pyramid", pixel_unshuffle=2, block_out_channels=(16, 24, 32), layers_per_block=1, sigma_channels=16,
    sigma_blocks=1,
)  # fmt: skip

RECEPTIVE = 14 * 8
"""Pixels by which a place of the decoder sees: 8 and 8x8 of its coarsest level, 6x4, 4x2 and 2, rounded up to cells."""


@pytest.fixture
def photos() -> Tensor:
    """Smooth random pictures, `[8,3,64,64]`."""
    noise = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=64, mode="bicubic").clamp(-1.0, 1.0)


@pytest.fixture
def trained() -> Iterator[HeteroscedasticVAE]:
    """With random weights in every layer, also in those that start at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HeteroscedasticVAE(CONFIG, "faithful").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
        yield model


def test_starts_as_the_linear_decoder_that_is_nearest_to_the_pictures(photos: Tensor) -> None:
    net = PyramidAutoencoder(block_out_channels=(12, 16, 24, 32))
    net.start_linear(photos)
    z = net.moments(photos)[:, :4]
    error = (net.features_and_mean(z)[1] - photos).square().mean()
    assert error < 0.2 * photos.var()
    with torch.no_grad():
        net.decoder.linear.weight += 1e-2 * torch.randn(net.decoder.linear.weight.shape)
    assert (net.features_and_mean(z)[1] - photos).square().mean() > error


def test_latents_have_unit_variance_at_the_start(photos: Tensor) -> None:
    net = PyramidAutoencoder(block_out_channels=(12, 16, 24, 32))
    net.start_linear(photos)
    torch.testing.assert_close(net.moments(photos)[:, :4].var((0, 2, 3)), torch.ones(4), rtol=0.05, atol=0.0)


def test_tiles_are_exact_with_the_receptive_field_for_a_margin(trained: HeteroscedasticVAE) -> None:
    x = torch.rand(1, 3, 880, 32, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
    with torch.no_grad():
        whole = trained.reconstruct(x)
        trained.enable_tiling(5 * RECEPTIVE, RECEPTIVE)
        tiled = trained.reconstruct(x)
    assert (tiled.mean - whole.mean).abs().max() < 1e-5
    assert (tiled.logvar - whole.logvar).abs().max() < 1e-4


def test_the_latent_of_a_constant_picture_is_constant_up_to_its_border(trained: HeteroscedasticVAE) -> None:
    with torch.no_grad():
        mean = trained.encode(torch.full((1, 3, 128, 128), 0.25)).mean
    torch.testing.assert_close(mean, mean[..., :1, :1].expand_as(mean), atol=1e-5, rtol=0.0)


def test_a_folder_comes_back_equal(trained: HeteroscedasticVAE, tmp_path: Path) -> None:
    save_folder(trained, (0.0,) * 4, (1.0,) * 4, tmp_path)
    again, _ = load_folder(tmp_path)
    x = torch.rand(1, 3, 32, 40) * 2.0 - 1.0
    with torch.no_grad():
        assert again.reconstruct(x).mean.equal(trained.reconstruct(x).mean)


def test_its_answers_are_those_of_autoencoder_kl(trained: HeteroscedasticVAE) -> None:
    net, x = trained.vae, torch.rand(1, 3, 32, 32)
    assert isinstance(net, PyramidAutoencoder)
    posterior = net.encode(x).latent_dist
    assert posterior.mode().equal(trained.encode(x).mean)
    assert net.decode(posterior.mode()).sample.equal(net.decode(posterior.mode(), return_dict=False)[0])
    assert 2 ** (len(net.config.block_out_channels) - 1) == 8  # how pipelines find the factor


def test_checkpointed_gradients_are_the_same(trained: HeteroscedasticVAE) -> None:
    x = torch.rand(1, 3, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        trained.zero_grad()
        if checkpointing:
            trained.vae.enable_gradient_checkpointing()
        trained.train().decode(trained.encode(x).mean).mean.square().mean().backward()
        gradients.append([p.grad.clone() for p in trained.vae.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))


def test_other_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="pyramid has three levels"):
        parse(VAEConfig, {**CONFIG.model_dump(), "pixel_unshuffle": 4, "block_out_channels": (16, 24)}, "test")
