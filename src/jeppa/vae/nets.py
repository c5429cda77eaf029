"""The nets that a `HeteroscedasticVAE` can be built on, behind one small protocol.

A `HeteroscedasticVAE` asks two things of its net: the encoder gives the moments of the latent, and the decoder gives
the mean and the features that the sigma head reads. `Codec` is that protocol, and each net has an adapter to it: our
pyramid, and of diffusers AutoencoderKL (Stable Diffusion, SDXL, SD3, FLUX) and AutoencoderTiny (TAESD and its kin).

The adapters call the layers of the net in the order in which the net itself calls them, so encode and decode are bit
for bit those of the net.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jeppa.config import VAEConfig
from jeppa.vae.pyramid import PyramidAutoencoder

Net: TypeAlias = AutoencoderKL | AutoencoderTiny | PyramidAutoencoder
NO_VARIANCE = -30.0
"""Log-variance of a latent that is exact."""
TINY_RANGE = 3.0
"""An AutoencoderTiny softly bounds the latents that it decodes to this."""


class Codec(Protocol):
    """What a `HeteroscedasticVAE` asks of its net."""

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance side by side, `[B,2C,h,w]` on the net's device, of pictures `[B,3,H,W]` in [-1,1]."""

    def features_and_mean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the picture `[B,3,H,W]`, float32, on the net's device, of a latent `[B,C,h,w]`."""

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """The modules that have to be frozen so that the latents of pictures stay the same."""


def build_net(config: VAEConfig) -> Net:
    """The net of an architecture, with random weights."""
    if config.architecture == "pyramid":
        return PyramidAutoencoder(
            block_out_channels=(12, *config.block_out_channels),
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
        )
    if config.tiny is not None:
        return AutoencoderTiny(latent_channels=config.latent_channels, **config.tiny.model_dump())
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
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.post_quant_conv,
        mid_block_add_attention=config.mid_block_attention,
    )


def adapt_net(net: Net, pixel_unshuffle: int) -> Codec:
    """The adapter of a net.

    Args:
        net: whose layers are called.
        pixel_unshuffle: side in pixels of the blocks that an AutoencoderKL takes as one.
    """
    if isinstance(net, PyramidAutoencoder):
        return PyramidCodec(net)
    return TinyCodec(net) if isinstance(net, AutoencoderTiny) else KLCodec(net, pixel_unshuffle)


@dataclass(frozen=True)
class KLCodec:
    """Adapter for diffusers' AutoencoderKL, see `Codec`."""

    net: AutoencoderKL
    pixel_unshuffle: int

    def moments(self, x: Tensor) -> Tensor:
        """See `Codec`."""
        hidden = self.net.encoder(F.pixel_unshuffle(x.to(self.net.device, self.net.dtype), self.pixel_unshuffle))
        moments: Tensor = hidden if self.net.quant_conv is None else self.net.quant_conv(hidden)
        return moments

    def features_and_mean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`; the features are those before the last convolution."""
        decoder: Any = self.net.decoder
        hidden = z.to(self.net.device, self.net.dtype)
        if self.net.post_quant_conv is not None:
            hidden = self.net.post_quant_conv(hidden)
        hidden = decoder.conv_in(hidden)
        for block in (decoder.mid_block, *decoder.up_blocks):
            recompute = decoder.gradient_checkpointing and torch.is_grad_enabled()
            hidden = checkpoint(block, hidden, use_reentrant=False) if recompute else block(hidden)
        features = decoder.conv_act(decoder.conv_norm_out(hidden))
        return features, F.pixel_shuffle(decoder.conv_out(features), self.pixel_unshuffle).float()

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """See `Codec`."""
        quantised = () if self.net.quant_conv is None else (self.net.quant_conv,)
        return (self.net.encoder, *quantised)


@dataclass(frozen=True)
class TinyCodec:
    """Adapter for diffusers' AutoencoderTiny, see `Codec`; its latent has no variance."""

    net: AutoencoderTiny

    def moments(self, x: Tensor) -> Tensor:
        """See `Codec`; the log-variance is `NO_VARIANCE`."""
        z = self._pass_through(self.net.encoder, x.to(self.net.device, self.net.dtype).add(1).div(2))
        return torch.cat([z, torch.full_like(z, NO_VARIANCE)], dim=1)

    def features_and_mean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`; the features are those before the last convolution."""
        bounded = torch.tanh(z.to(self.net.device, self.net.dtype) / TINY_RANGE) * TINY_RANGE
        features = self._pass_through(self.net.decoder, bounded, stop=-1)
        return features, self.net.decoder.layers[-1](features).mul(2).sub(1).float()

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """See `Codec`."""
        return (self.net.encoder,)

    def _pass_through(self, half: Any, hidden: Tensor, stop: int | None = None) -> Tensor:
        for layer in half.layers[:stop]:
            recompute = half.gradient_checkpointing and torch.is_grad_enabled()
            hidden = checkpoint(layer, hidden, use_reentrant=False) if recompute else layer(hidden)
        return hidden


@dataclass(frozen=True)
class PyramidCodec:
    """Adapter for our pyramid, see `Codec`."""

    net: PyramidAutoencoder

    def moments(self, x: Tensor) -> Tensor:
        """See `Codec`."""
        return self.net.moments(x.to(self.net.device))

    def features_and_mean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        return self.net.features_and_mean(z.to(self.net.device))

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """See `Codec`."""
        return (self.net.encoder,)
