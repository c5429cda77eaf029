"""The autoencoders that a `HeteroscedasticVAE` stands on, and what it asks of them.

An encoder gives moments of the latent, a decoder gives features, for the sigma head, and the mean. Everything else
about a net is its own business.
"""

from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jeppa.config import VAEConfig
from jeppa.vae.pyramid import PyramidAutoencoder

Net: TypeAlias = AutoencoderKL | PyramidAutoencoder


def build_net(config: VAEConfig) -> Net:
    """The net of an architecture, with random weights."""
    if config.architecture == "pyramid":
        return PyramidAutoencoder(
            block_out_channels=(12, *config.block_out_channels),
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
        )
    levels = len(config.block_out_channels)
    channels = 3 * config.pixel_unshuffle**2
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=512,
        force_upcast=False,
        mid_block_add_attention=config.mid_block_attention,
    )


def encode_moments(net: Net, x: Tensor, pixel_unshuffle: int) -> Tensor:
    """Mean and log-variance of the latent side by side, `[B,2C,H/8,W/8]` on the net's device, of `x` `[B,3,H,W]`."""
    if isinstance(net, PyramidAutoencoder):
        pyramid: Tensor = net.moments(x.to(net.device))
        return pyramid
    pixels = F.pixel_unshuffle(x.to(net.device, net.dtype), pixel_unshuffle)
    moments: Tensor = net.quant_conv(net.encoder(pixels))
    return moments


def decode_features(net: Net, z: Tensor, pixel_unshuffle: int) -> tuple[Tensor, Tensor]:
    """Features and the mean `[B,3,8h,8w]`, float32, on the net's device, of a latent `[B,C,h,w]`."""
    if isinstance(net, PyramidAutoencoder):
        decoded: tuple[Tensor, Tensor] = net.features_and_mean(z.to(net.device))
        return decoded
    decoder: Any = net.decoder
    hidden = decoder.conv_in(net.post_quant_conv(z.to(net.device, net.dtype)))
    for block in (decoder.mid_block, *decoder.up_blocks):
        recompute = decoder.gradient_checkpointing and torch.is_grad_enabled()
        hidden = checkpoint(block, hidden, use_reentrant=False) if recompute else block(hidden)
    features = decoder.conv_act(decoder.conv_norm_out(hidden))
    return features, F.pixel_shuffle(decoder.conv_out(features), pixel_unshuffle).float()


def encoder_parts(net: Net) -> tuple[torch.nn.Module, ...]:
    """What has to stay as it is for latents to stay what they are."""
    return (net.encoder,) if isinstance(net, PyramidAutoencoder) else (net.encoder, net.quant_conv)
