"""A VAE whose encoder and decoder both answer with a mean and a variance.

diffusers' AutoencoderKL gives latents and the mean; a separate head (`vae/sigma_head.py`) gives the log-variance of
every pixel. Kingma and Welling, arXiv 1312.6114; Rombach et al., arXiv 2112.10752 for the architecture.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jeppa.config import PRESETS, Likelihood, VAEConfig
from jeppa.distributions import BandGaussian, DiagonalGaussian, DiagonalStudentT, Predictive
from jeppa.errors import ConfigError, DataError
from jeppa.vae.blending import Plane, gathered
from jeppa.vae.likelihoods import LIKELIHOODS
from jeppa.vae.sigma_head import SigmaHead, bounded_logvar
from jeppa.vae.tiling import Read, Tiling, margin_for, predict, reader, rows_in_tiles, tile_for

FACTOR = 8
POSTERIOR_LOGVAR_RANGE = (-30.0, 20.0)
ERROR_MEMORY = 0.98


@dataclass(frozen=True)
class Rows:
    """Rows of a reconstruction from `top` on: `mean` and `logvar` of its pixels, `[1,3,rows,W]` each."""

    top: int
    mean: Tensor
    logvar: Tensor


class HeteroscedasticVAE(nn.Module):
    """AutoencoderKL with a variance for every pixel.

    Inputs are taken from any device to that of the weights, and answers go back to it, so that noise, tiles and files
    can stay on the CPU. Under bf16 autocast the answers stay float32 and finite. Those of the tiny preset with random
    weights differ from full precision by less than 2 % (mean, root mean square) and 0.1 (log-variance, at most).

    Args:
        config: architecture, for example `PRESETS["small"]`, or a preset's name.
        likelihood: a name of `LIKELIHOODS`; it decides the family of p(x|z).

    Attributes:
        vae: the diffusers AutoencoderKL, over `3 * pixel_unshuffle**2` channels.
        sigma_head: the head, or None when the likelihood has one variance for all pixels.
        mean_square: running mean squared error of the reconstruction, the shared variance.
        tiling: how pictures larger than a tile are cut, or None; see `enable_tiling`.
    """

    mean_square: Tensor
    updates: Tensor

    def __init__(self, config: VAEConfig | str = "small", likelihood: Likelihood = "faithful") -> None:
        super().__init__()
        if isinstance(config, str):
            if config not in PRESETS:
                raise ConfigError(f"preset is {config!r}, but must be one of {', '.join(PRESETS)}")
            config = PRESETS[config]
        self.config = config
        self.likelihood = likelihood
        self.vae = _autoencoder(config)
        self.arm = LIKELIHOODS[likelihood]
        self.sigma_head: SigmaHead | None = None
        if self.arm.family != "constant":
            self.sigma_head = SigmaHead(
                config.block_out_channels[0],
                config.pixel_unshuffle,
                config.sigma_channels,
                config.sigma_blocks,
                tails=self.arm.family in ("student-t", "band-t"),
            )
        self.tiling: Tiling | None = None
        self.register_buffer("mean_square", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def shared_logvar(self) -> Tensor:
        """Log-variance that fits all pixels best, scalar, softly bounded like the per-pixel one."""
        return _fitting_logvar(self.mean_square)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Posterior q(z|x) of the raw latent.

        Args:
            x: `[B,3,H,W]` in [-1,1]; H and W multiples of 8.

        Returns:
            Gaussian over `[B,C,H/8,W/8]`, float32.

        Raises:
            DataError: other channels, or a side that 8 does not divide (`reconstruct` pads for you).
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % FACTOR or x.shape[3] % FACTOR or 0 in x.shape:
            raise DataError(
                f"image batch has shape {tuple(x.shape)}, but encode needs [B,3,H,W] with H and W multiples of "
                f"{FACTOR}: use reconstruct, which pads and crops, or pad_to_multiple"
            )
        if self.tiling is None:
            return self._encode(x)
        return predict(self._encode, x, (FACTOR, 1), self.tiling)

    def decode(self, z: Tensor) -> Predictive:
        """Likelihood p(x|z): reconstruction and its log-variance.

        The sigma head sees the mean with the gradient stopped, and for the faithful likelihoods the features too.

        Args:
            z: raw latent `[B,C,h,w]`.

        Returns:
            Distribution over `[B,3,8h,8w]`, float32, of the likelihood's family; `logvar` has the shape of `mean`.
        """
        if self.tiling is None:
            return self._decode(z)
        return predict(self._decode, z, (1, FACTOR), self.tiling)

    def reconstruct(self, x: Tensor) -> DiagonalGaussian:
        """Encode to the posterior mean and decode, at the size of `x`, whatever that is: mean and variance of pixels.

        Args:
            x: `[B,3,H,W]` in [-1,1], any H and W from 1 up; padded to multiples of 8 and cropped back.
        """
        decoded = self.decode(self.encode(pad_to_multiple(x)).mean)
        height, width = x.shape[2:]
        return DiagonalGaussian(decoded.mean[..., :height, :width], decoded.logvar[..., :height, :width])

    def reconstruct_rows(self, height: int, width: int, read: Read) -> Iterator[Rows]:
        """`reconstruct` of one picture in rows as they are finished: neither picture nor answer need ever be whole.

        Args:
            height: of the picture, from 1 up.
            width: of the picture.
            read: gives `[1,3,bottom-top,right-left]` in [-1,1] for (top, bottom, left, right).
        """
        if self.tiling is None:
            whole = self.reconstruct(read(0, height, 0, width))
            yield Rows(0, whole.mean, whole.logvar)
            return

        def padded(top: int, bottom: int, left: int, right: int) -> Tensor:
            return pad_to_multiple(read(top, min(bottom, height), left, min(right, width)))

        size = -(-height // FACTOR), -(-width // FACTOR)
        z = gathered(rows_in_tiles(self._encode, padded, Plane(*size, FACTOR, 1), self.tiling), Plane(*size, FACTOR, 1))
        for strip in rows_in_tiles(self._decode, reader(z.mean), Plane(*size, 1, FACTOR), self.tiling):
            kept = (..., slice(0, height - strip.top), slice(0, width))
            yield Rows(strip.top, strip.mean[kept], strip.logvar[kept])

    def enable_tiling(self, tile: int | None = None, margin: int | None = None) -> None:
        """Encode and decode pictures larger than a tile in tiles, and halve batches that do not fit in memory.

        Like diffusers' `AutoencoderKL.enable_tiling`, for `encode`, `decode` and all that is built on them; a picture
        within one tile is not touched. Meant for a trained model: group norm's statistics carry no gradient.

        Args:
            tile: longest side in pixels, a multiple of 8; from the width of the net unless given.
            margin: pixels left unused at an end that meets another tile, a multiple of 8; from the depth of the net
                unless given. A tile has at least five.

        Raises:
            ConfigError: a side that 8 does not divide, or a tile below five margins.
        """
        sides = {"tile": tile, "margin": margin}
        for name, side in sides.items():
            if side is not None and (side % FACTOR or side < FACTOR):
                raise ConfigError(f"{name} is {side} pixels, but must be a multiple of {FACTOR}")
        self.tiling = Tiling(
            tile_for(self.config) if tile is None else tile // FACTOR,
            margin_for(self.config) if margin is None else margin // FACTOR,
        )

    def disable_tiling(self) -> None:
        """Encode and decode every picture in one piece again."""
        self.tiling = None

    def draw(
        self, x: Tensor, temperature: float = 1.0, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """Reconstruction with a residual drawn from p(x|z): lost texture comes back as some texture of its kind.

        Args:
            x: as for `reconstruct`.
            temperature: size of the residual; 0 gives the mean, 1 a fair draw.
            generator: one for the batch or one for each image.

        Returns:
            `[B,3,H,W]` float32, not clamped.
        """
        decoded = self.decode(self.encode(pad_to_multiple(x)).mean)
        drawn = decoded.mean + temperature * (decoded.sample(generator) - decoded.mean)
        return drawn[..., : x.shape[2], : x.shape[3]]

    def shared_logvar_after(self, error: Tensor) -> Tensor:
        """What `shared_logvar` will be once `track_error` was told `error`."""
        return _fitting_logvar(self._mean_square_after(error))

    @torch.no_grad()
    def track_error(self, error: Tensor) -> None:
        """Move the running mean squared error towards that of one more batch, a scalar."""
        self.mean_square.copy_(self._mean_square_after(error))
        self.updates += 1

    def _mean_square_after(self, error: Tensor) -> Tensor:
        memory = min(ERROR_MEMORY, 1.0 - 1.0 / (float(self.updates) + 1.0))
        return self.mean_square.mul(memory).add(error, alpha=1.0 - memory)

    def _encode(self, x: Tensor) -> DiagonalGaussian:
        pixels = F.pixel_unshuffle(x.to(self.vae.device, self.vae.dtype), self.config.pixel_unshuffle)
        moments = self.vae.quant_conv(self.vae.encoder(pixels)).to(x.device).float()
        mean, logvar = moments.chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(*POSTERIOR_LOGVAR_RANGE))

    def _decode(self, z: Tensor) -> Predictive:
        decoder = self.vae.decoder
        hidden = decoder.conv_in(self.vae.post_quant_conv(z.to(self.vae.device, self.vae.dtype)))
        for block in (decoder.mid_block, *decoder.up_blocks):
            recompute = decoder.gradient_checkpointing and torch.is_grad_enabled()
            hidden = checkpoint(block, hidden, use_reentrant=False) if recompute else block(hidden)
        features = decoder.conv_act(decoder.conv_norm_out(hidden))
        mean = F.pixel_shuffle(decoder.conv_out(features), self.config.pixel_unshuffle).float()
        if self.sigma_head is None:
            constant = self.shared_logvar if self.likelihood == "shared" else torch.zeros_like(self.mean_square)
            return DiagonalGaussian(mean.to(z.device), constant.to(z.device).expand_as(mean))
        logvar = self.sigma_head(features.detach() if self.arm.stopped else features, mean.detach(), self.shared_logvar)
        mean, logvar = mean.to(z.device), logvar.to(z.device)
        if self.arm.family in ("band", "band-t"):
            degrees = self.sigma_head.degrees.to(z.device) if self.arm.family == "band-t" else None
            return BandGaussian(mean, logvar, self.config.basis, degrees)
        if self.arm.family == "student-t":
            return DiagonalStudentT(mean, logvar, self.sigma_head.degrees.to(z.device))
        return DiagonalGaussian(mean, logvar)


def pad_to_multiple(x: Tensor, multiple: int = FACTOR) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `multiple`; `[B,3,H,W]`."""
    height, width = x.shape[2:]
    if height % multiple == width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _fitting_logvar(mean_square: Tensor) -> Tensor:
    return bounded_logvar(mean_square.clamp(min=1e-12).log())


def _autoencoder(config: VAEConfig) -> AutoencoderKL:
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
