"""Let a VAE start as the best linear VAE instead of with random weights.

The best linear VAE is probabilistic PCA: it encodes the leading principal components of each 8x8 patch (Tipping
and Bishop, JRSS B 61, 1999; Lucas et al., arXiv 1911.02469, theorem 1). An AutoencoderKL of one level sees a patch
as one pixel of 192 channels, so its first and last convolutions can hold the components exactly, if the layers
between them pass values on. They do: the residual branches start at zero, and the last normalisation and activation
are made linear by carrying each value v as a pair (v, -v), since silu(v) - silu(-v) = v, beside a pair of large
constants that keeps the statistics of the normalisation group from depending on the picture.

Training from this start needs a fraction of the steps: `results/ablations.md`.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from jeppa.errors import ConfigError

ANCHOR = 4.0
IDLE_GAIN = 0.1
# About the variance of rounding to 8 bits. Flat pictures have no variance, but its log and inverse are needed.
LEAST_VARIANCE = 1e-4


@dataclass(frozen=True)
class Components:
    """Principal components of flattened patches.

    Args:
        mean: mean patch, `[D]`.
        directions: orthonormal rows, `[C,D]`, the largest variance first.
        variances: along each direction, `[C]`.
        residual: mean variance of the other directions, scalar.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    residual: Tensor


def principal_components(images: Tensor, patch: int, count: int) -> Components:
    """Leading components of the `patch` x `patch` patches of images `[B,3,H,W]`, computed in float64."""
    flat = F.pixel_unshuffle(images, patch).permute(0, 2, 3, 1).reshape(-1, 3 * patch * patch).double()
    mean = flat.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    leading = variances[-count:].flip(0).clamp(min=LEAST_VARIANCE)
    residual = variances[:-count].mean().clamp(min=LEAST_VARIANCE)
    directions = vectors[:, -count:].T.flip(0)
    return Components(mean.float(), directions.float(), leading.float(), residual.float())


@torch.no_grad()
def start_linear(vae: AutoencoderKL, components: Components) -> None:
    """Set the weights of a one-level `vae` to the linear VAE of `components`; unused channels stay random.

    Raises:
        ConfigError: the architecture has several levels, or groups too few or too small to carry the pairs.
    """
    encoder, decoder = vae.encoder, vae.decoder
    latents = vae.config.latent_channels
    group = encoder.conv_norm_out.num_channels // encoder.conv_norm_out.num_groups
    if len(vae.config.block_out_channels) > 1 or group < 4 or encoder.conv_norm_out.num_groups < latents:
        raise ConfigError("a linear start needs one level and a group of at least 4 channels for each latent channel")
    for block in (encoder, decoder):
        for name, parameter in block.named_parameters():
            if ".conv2." in name:
                parameter.zero_()
    scale = components.variances.sqrt()
    whitening = components.directions / scale[:, None]
    gain = _carry(encoder.conv_in, whitening, -(whitening @ components.mean), group)
    _collect(encoder.conv_out, torch.eye(2 * latents, latents) * gain, group)
    encoder.conv_out.bias[latents:] = (components.residual / components.variances).log()
    gain = _carry(decoder.conv_in, torch.eye(latents), torch.zeros(latents), group)
    _collect(decoder.conv_out, components.directions.T * scale * gain, group)
    decoder.conv_out.bias.copy_(components.mean)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.out_channels)[..., None, None])
        conv.bias.zero_()


def _carry(conv: nn.Conv2d, rows: Tensor, offsets: Tensor, group: int) -> float:
    """Let group j of the output hold (v, -v, anchor, -anchor) with v = rows[j] . input + offsets[j].

    Returns:
        The factor that undoes the normalisation of v, which has about unit variance.
    """
    assert conv.bias is not None
    for j, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        first = j * group
        conv.weight[first : first + 4] = 0.0
        conv.weight[first, :, 1, 1] = row
        conv.weight[first + 1, :, 1, 1] = -row
        conv.bias[first : first + 4] = torch.stack([offset, -offset, torch.tensor(ANCHOR), torch.tensor(-ANCHOR)])
    return math.sqrt((2.0 * ANCHOR**2 + 2.0) / group)


def _collect(conv: nn.Conv2d, columns: Tensor, group: int) -> None:
    """Let the output be columns @ v, read from the pairs; other inputs get small weights, so that they can learn."""
    assert conv.bias is not None
    conv.weight *= IDLE_GAIN
    conv.bias.zero_()
    for j, column in enumerate(columns.T):
        first = j * group
        conv.weight[:, first : first + 4] = 0.0
        conv.weight[:, first, 1, 1] = column
        conv.weight[:, first + 1, 1, 1] = -column
