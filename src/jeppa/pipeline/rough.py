"""A decoder that costs next to nothing, to watch samples form: the best affine map of 3x3 places to a cell of pixels.

The real decoder takes several steps' time of a small denoiser, and its sigma map several decodings more. The affine map
is fitted once for a VAE, by least squares, to what its decoder makes of built-in photographs. A variance of the latent
goes through an affine map exactly: for y = sum_i w_i z_i with independent z_i, var y = sum_i w_i^2 var z_i. What the
decoder itself is unsure of is added, fitted in the same way as one log-variance for each cell.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.data.images import fit_square, to_x
from jeppa.data.sources import open_source
from jeppa.vae.codec import LatentCodec

PHOTOS = 4
SIDE = 192
RIDGE = 1e-3
"""Ridge of the least squares, as a share of the mean square of a latent."""


@dataclass(frozen=True)
class RoughDecoder:
    """An affine map of standardised latents.

    Args:
        weight: of 3x3 places to the pixels of a place in three colours, `[3 * 64, C, 3, 3]` for 8x8 of them.
        bias: `[3 * 64]`.
        weight_logvar: to the mean log-variance of a cell, `[1, C, 3, 3]`.
        bias_logvar: `[1]`.
    """

    weight: Tensor
    bias: Tensor
    weight_logvar: Tensor
    bias_logvar: Tensor

    @torch.no_grad()
    def mean(self, z0: Tensor) -> Tensor:
        """About the decoder's mean of `[B,C,h,w]`: `[B,3,8h,8w]`."""
        cells = F.conv2d(_bordered(z0.float()), self.weight, self.bias)
        return F.pixel_shuffle(cells, math.isqrt(cells.shape[1] // 3)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def sigma(self, z0: Tensor, variance: Tensor) -> Tensor:
        """About the standard deviation of a cell's pixels when z0 has this variance: `[B,1,h,w]`."""
        through = F.conv2d(_bordered(variance.float()), self.weight.square()).mean(1, keepdim=True)
        own = F.conv2d(_bordered(z0.float()), self.weight_logvar, self.bias_logvar).exp()
        return (through + own).sqrt()


@torch.no_grad()
def fit_rough_decoder(codec: LatentCodec) -> RoughDecoder:
    """The affine map that comes nearest to the decoder on built-in photographs."""
    rows, pixels, logvars = [], [], []
    device = next(codec.vae.parameters()).device
    for ref in open_source("builtin:photos").refs[:PHOTOS]:
        z0 = codec.encode(to_x(fit_square(ref.read_pixels(), SIDE))[None].to(device)).mean
        decoded = codec.decode(z0)
        factor = decoded.mean.shape[-1] // z0.shape[-1]
        rows.append(_by_place(F.unfold(_bordered(z0.float()), 3)))
        pixels.append(_by_place(F.pixel_unshuffle(decoded.mean.float(), factor).flatten(2)))
        logvars.append(_by_place(F.avg_pool2d(decoded.var.log().float().mean(1, keepdim=True), factor).flatten(2)))
    z = torch.cat(rows)
    z = torch.cat([z, torch.ones_like(z[:, :1])], 1).double()
    targets = torch.cat([torch.cat(pixels), torch.cat(logvars)], 1).double()
    gram = z.T @ z
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(gram, z.T @ targets).T.float()
    weight, bias = solved[:, :-1].unflatten(1, (-1, 3, 3)).contiguous(), solved[:, -1].contiguous()
    return RoughDecoder(weight[:-1], bias[:-1], weight[-1:], bias[-1:])


def _by_place(values: Tensor) -> Tensor:
    """`[1,K,N]` as `[N,K]`."""
    return values[0].T


def _bordered(z: Tensor) -> Tensor:
    return F.pad(z, (1, 1, 1, 1), mode="replicate")
