"""A pyramid autoencoder of our own, beside diffusers' AutoencoderKL.

It works on three levels, without statistics over space. It has the interface of diffusers' AutoencoderKL
(3-channel pixels, latents 8 times smaller), so a stock pipeline takes it as `vae=`. The latent and the picture are each
a sum: the best linear map of overlapping patches, plus what a residual net adds to it. The last convolutions of that
net start at zero, so training starts from the linear VAE (Tipping and Bishop, JRSS B 61, 1999) instead of from noise.

Its norms are over the channels of one place (layer norm; Ba et al., arXiv 1607.06450). A place therefore depends on its
receptive field alone, and a tile with enough margin is exact. Borders are padded by repeating their pixels, which does
not darken them. The linear path stays float32 under autocast and in bf16, so that plain areas are not rounded to bf16.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jeppa.vae.linear_start import LEAST_VARIANCE, principal_components

FACTOR = 8
PIXELS = 3
GAIN = 0.25
"""Factor of what the nets add: Adam moves all weights about equally far, and over a thousand feed one output."""
RIDGE = 1e-3
"""Ridge of the linear decoder's least squares, as a share of the mean square of a latent."""


class PyramidAutoencoder(ModelMixin, ConfigMixin):
    """Encoder and decoder on the grids of 2, 4 and 8 pixels.

    Args:
        in_channels, out_channels: 3.
        block_out_channels: width of each level, the finest first; the first of the four is 12, the channels of 2x2
            pixels taken as one.
        layers_per_block: residual blocks of the encoder on the grid of 2 pixels. Each coarser level has one more, and
            the decoder one more than the encoder on each.
        latent_channels: of the latent.
        sample_size, scaling_factor, shift_factor, latents_mean, latents_std, force_upcast: as in AutoencoderKL.
    """

    __module__ = "jeppa"  # the name that a pipeline's model_index.json has
    _supports_gradient_checkpointing = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = PIXELS,
        out_channels: int = PIXELS,
        block_out_channels: tuple[int, ...] = (12, 64, 112, 160),
        layers_per_block: int = 1,
        latent_channels: int = 4,
        sample_size: int = 512,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        widths = block_out_channels[1:]
        self.encoder = _Encoder(widths, layers_per_block, latent_channels)
        self.decoder = _Decoder(widths, layers_per_block, latent_channels)

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance of the latent, float32 `[B,2C,H/8,W/8]`, of pictures `[B,3,H,W]` in [-1,1]."""
        moments: Tensor = self.encoder(x)
        return moments

    def features_and_mean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B,F,4h,4w]` of the decoder and the picture `[B,3,8h,8w]`, float32, of a latent `[B,C,h,w]`."""
        features, mean = self.decoder(z)
        return features, mean

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Posterior of the latent, as AutoencoderKL gives it."""
        posterior = DiagonalGaussianDistribution(self.moments(x).to(x.dtype))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """The picture, as AutoencoderKL gives it."""
        sample = self.features_and_mean(z)[1].to(z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Encode and decode, as AutoencoderKL does; the mean of the latent is taken, or a draw from its posterior."""
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict=return_dict)

    @torch.no_grad()
    def start_linear(self, images: Tensor) -> None:
        """Make the linear path the best linear VAE of `images` `[B,3,H,W]`; the nets still add nothing.

        The encoder takes the principal components of 8x8 patches, scaled to unit variance; the decoder is the least
        squares estimate of a patch from the 3x3 latents around it, so neighbouring patches meet without a step.
        """
        latents = self.config.latent_channels
        components = principal_components(images, FACTOR, latents)
        whitening = components.directions / components.variances.sqrt()[:, None]
        encoder, decoder = self.encoder.linear, self.decoder.linear
        encoder.weight.zero_()
        encoder.weight[:, :, 1, 1] = whitening
        encoder.bias.copy_(-(whitening @ components.mean))
        bias = self.encoder.conv_out.bias
        assert bias is not None
        bias[latents:] = (components.residual / components.variances).log() / GAIN
        z = encoder(F.pixel_unshuffle(images, FACTOR))
        decoder.weight.zero_()
        weight, bias = _least_squares(z, F.pixel_unshuffle(images, FACTOR))
        decoder.weight.copy_(weight)
        decoder.bias.copy_(bias)


class _Encoder(nn.Module):
    """Picture to mean and log-variance of the latent."""

    def __init__(self, widths: Sequence[int], layers: int, latents: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.latents = latents
        self.linear = _Linear(PIXELS * FACTOR**2, latents)
        self.conv_in = _convolution(4 * PIXELS, widths[0])
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            blocks: list[nn.Module] = [_PyramidBlock(width) for _ in range(layers + level)]
            if level + 1 < len(widths):
                blocks.append(_convolution(width, widths[level + 1], stride=2))
            self.down_blocks.append(nn.Sequential(*blocks))
        self.norm_out = _PlaceNorm(widths[-1])
        self.conv_out = _zero_weights(_convolution(widths[-1], 2 * latents))

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear(F.pixel_unshuffle(x.float(), FACTOR))
        hidden = self.conv_in(F.pixel_unshuffle(x.to(self.conv_in.weight.dtype), 2))
        hidden = _pass_through(self.down_blocks, hidden, self.gradient_checkpointing)
        added = GAIN * self.conv_out(F.silu(self.norm_out(hidden))).float()
        return torch.cat([linear + added[:, : self.latents], added[:, self.latents :]], dim=1)


class _Decoder(nn.Module):
    """Latent to features and picture."""

    def __init__(self, widths: Sequence[int], layers: int, latents: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.linear = _Linear(latents, PIXELS * FACTOR**2)
        self.conv_in = _convolution(latents, widths[-1])
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks: list[nn.Module] = [_PyramidBlock(widths[level]) for _ in range(layers + level + 1)]
            if level:
                blocks += [nn.Conv2d(widths[level], 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
            self.up_blocks.append(nn.Sequential(*blocks))
        self.norm_out = _PlaceNorm(widths[0])
        self.conv_out = _zero_weights(_convolution(widths[0], 4 * PIXELS))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        linear = F.pixel_shuffle(self.linear(z.float()), FACTOR)
        hidden = self.conv_in(z.to(self.conv_in.weight.dtype))
        features = F.silu(self.norm_out(_pass_through(self.up_blocks, hidden, self.gradient_checkpointing)))
        return features, linear + GAIN * F.pixel_shuffle(self.conv_out(features).float(), 2)


class _Linear(nn.Module):
    """A convolution over 3x3 places that is always computed in float32."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight[:, :, 1, 1], std=inputs**-0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            padded = F.pad(hidden.float(), (1, 1, 1, 1), mode="replicate")
            return F.conv2d(padded, self.weight.float(), self.bias.float())


class _PlaceNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of `[B,C,H,W]`."""

    def forward(self, hidden: Tensor) -> Tensor:
        # The CPU kernel takes float32 weights with bf16 input; its backward pass is then twice as fast.
        weight, bias = (value if hidden.is_cpu else value.to(hidden.dtype) for value in (self.weight, self.bias))
        with torch.autocast(hidden.device.type, enabled=False):
            places = hidden.permute(0, 2, 3, 1)
            return F.layer_norm(places, self.normalized_shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class _PyramidBlock(nn.Module):
    """Two convolutions beside the identity; a new block is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _PlaceNorm(channels)
        self.conv1 = _convolution(channels, channels)
        self.conv2 = _zero_weights(_convolution(channels, channels))

    def forward(self, hidden: Tensor) -> Tensor:
        update: Tensor = self.conv2(F.silu(self.conv1(self.norm(hidden))))
        return hidden + update


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="replicate")


def _zero_weights(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def _pass_through(blocks: nn.ModuleList, hidden: Tensor, recompute: bool) -> Tensor:
    for block in blocks:
        keep = not (recompute and torch.is_grad_enabled())
        hidden = block(hidden) if keep else checkpoint(block, hidden, use_reentrant=False)
    return hidden


def _least_squares(z: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[P,C,3,3]` and bias `[P]` of the convolution of z `[B,C,h,w]` nearest to `patches` `[B,P,h,w]`."""
    around = F.unfold(F.pad(z, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1).double()
    rows = torch.cat([around, torch.ones_like(around[:, :1])], dim=1)
    targets = patches.flatten(2).transpose(1, 2).flatten(0, 1).double()
    gram = rows.T @ rows
    gram.diagonal()[:-1].add_(RIDGE * len(rows) * max(float(around.square().mean()), LEAST_VARIANCE))
    solution = torch.linalg.solve(gram, rows.T @ targets)
    weight = solution[:-1].T.reshape(patches.shape[1], z.shape[1], 3, 3)
    return weight.float(), solution[-1].float()
