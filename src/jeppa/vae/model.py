"""A VAE whose encoder and decoder both give a mean and a variance.

An autoencoder, such as diffusers' AutoencoderKL, gives latents and the mean; a head beside it (`vae/sigma_head.py`)
gives the log-variance of every pixel. Kingma and Welling, arXiv 1312.6114; Rombach et al., arXiv 2112.10752 for the
architecture.

A stock pipeline of diffusers takes the model as `vae=`: `encode` and `decode` answer as those of AutoencoderKL do where
`return_dict` is given, and `vae/stock.py` has the other names that pipelines ask for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn import functional as F

from jeppa.config import CELL, PRESETS, Likelihood, TextureConfig, VAEConfig
from jeppa.distributions import DiagonalGaussian, Predictive, standard_normal
from jeppa.errors import ConfigError, DataError
from jeppa.vae.blending import Plane, gather_rows
from jeppa.vae.likelihoods import LIKELIHOODS
from jeppa.vae.nets import Codec, Net, adapt_net, build_net
from jeppa.vae.sigma_head import SigmaHead, bound_logvar
from jeppa.vae.stock import Posterior, StockInterface
from jeppa.vae.texture import TextureHead, add_texture
from jeppa.vae.tiling import Read, Tiling, margin_for, predict, reader, rows_in_tiles, tile_for

FACTOR = 8
"""Pixels along a side of a place of the latent, of all presets."""
POSTERIOR_LOGVAR_RANGE = (-30.0, 20.0)
ERROR_MEMORY = 0.98


@dataclass(frozen=True)
class Rows:
    """Rows of a reconstruction from `top` on: `mean` and `logvar` of its pixels, `[1,3,rows,W]` each."""

    top: int
    mean: Tensor
    logvar: Tensor


class HeteroscedasticVAE(StockInterface):
    """An autoencoder with a variance for every pixel.

    Inputs are copied from their device to that of the weights, and results are copied back, so that noise, tiles and
    files can stay on the CPU. Under bf16 autocast the results stay float32 and finite. Results of the tiny preset with
    random weights differ from full precision by less than 2 % (mean, root mean square) and 0.1 (log-variance, at most).

    Args:
        config: architecture, for example `PRESETS["small"]`, or a preset's name.
        likelihood: a name in `LIKELIHOODS`, which decides the family of p(x|z).
        texture: architecture of a texture head, or None for a VAE without.

    Attributes:
        settings: the architecture.
        vae: the autoencoder, see `vae/nets.py`; an AutoencoderKL is over `3 * pixel_unshuffle**2` channels.
        sigma_head: the head, or None when the likelihood has one variance for all pixels.
        texture_head: see `vae/texture.py`, or None.
        mean_square: running mean squared error of the reconstruction, the shared variance.
        tiling: how pictures larger than a tile are cut, or None; see `enable_tiling`.
    """

    mean_square: Tensor
    updates: Tensor

    def __init__(
        self,
        config: VAEConfig | str = "small",
        likelihood: Likelihood = "faithful",
        texture: TextureConfig | None = None,
    ) -> None:
        super().__init__()
        if isinstance(config, str):
            if config not in PRESETS:
                raise ConfigError(f"preset is {config!r}, but must be one of {', '.join(PRESETS)}")
            config = PRESETS[config]
        self.settings = config
        self.likelihood = likelihood
        self.vae: Net = build_net(config)
        self.arm = LIKELIHOODS[likelihood]
        self.sigma_head: SigmaHead | None = None
        if self.arm.variance == "head":
            self.sigma_head = SigmaHead(
                config.block_out_channels[0],
                config.pixel_unshuffle,
                config.sigma_channels,
                config.sigma_blocks,
                tails=self.arm.tails,
            )
        self.texture_head: TextureHead | None = None
        if texture is not None:
            self.add_texture_head(texture)
        self.tiling: Tiling | None = None
        self.register_buffer("mean_square", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def shared_logvar(self) -> Tensor:
        """Log-variance that fits all pixels best, scalar, softly bounded like the per-pixel one."""
        return _fit_logvar(self.mean_square)

    @property
    def codec(self) -> Codec:
        """What gives moments and mean: the adapter of `vae`."""
        return adapt_net(self.vae, self.settings.pixel_unshuffle)

    @property
    def deterministic(self) -> bool:
        """Whether the encoder gives no variance, so that there is no rate."""
        return self.settings.architecture == "taesd"

    @overload
    def encode(self, x: Tensor, return_dict: None = None) -> Posterior: ...
    @overload
    def encode(self, x: Tensor, return_dict: Literal[True]) -> AutoencoderKLOutput: ...
    @overload
    def encode(self, x: Tensor, return_dict: Literal[False]) -> tuple[DiagonalGaussianDistribution]: ...
    def encode(self, x: Tensor, return_dict: bool | None = None) -> Any:
        """Posterior q(z|x) of the raw latent.

        Args:
            x: `[B,3,H,W]` in [-1,1]; H and W multiples of `settings.multiple`, 8 for all presets.
            return_dict: None for a `Posterior`; True or False for the output of AutoencoderKL's `encode`.

        Returns:
            Gaussian over `[B,C,h,w]`, float32; h and w are `settings.factor` times smaller than H and W. That of a
            deterministic encoder has no variance worth the name (log-variance -30).

        Raises:
            DataError: other channels, or a side that is no such multiple (`reconstruct` pads for you).
        """
        multiple = self.settings.multiple
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % multiple or x.shape[3] % multiple or 0 in x.shape:
            raise DataError(
                f"image batch has shape {tuple(x.shape)}, but encode needs [B,3,H,W] with H and W multiples of "
                f"{multiple}: use reconstruct, which pads and crops, or pad_to_multiple"
            )
        found = self._encode(x) if self.tiling is None else predict(self._encode, x, self._scales(), self.tiling)
        posterior = Posterior(found.mean, found.logvar)
        if return_dict is None:
            return posterior
        moments = torch.cat([found.mean, found.logvar], dim=1).to(x.dtype)
        latent_dist = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

    @overload
    def decode(self, z: Tensor, return_dict: None = None, generator: Any = None) -> Predictive: ...
    @overload
    def decode(self, z: Tensor, return_dict: Literal[True], generator: Any = None) -> DecoderOutput: ...
    @overload
    def decode(self, z: Tensor, return_dict: Literal[False], generator: Any = None) -> tuple[Tensor]: ...
    def decode(self, z: Tensor, return_dict: bool | None = None, generator: Any = None) -> Any:
        """Likelihood p(x|z): reconstruction and its log-variance.

        The sigma head sees the mean with the gradient stopped, and for the faithful likelihoods the features too.

        Args:
            z: raw latent `[B,C,h,w]`.
            return_dict: None for the distribution; True or False for the output of AutoencoderKL's `decode`, which
                has the mean alone.
            generator: not used; pipelines pass one.

        Returns:
            Distribution over `[B,3,H,W]`, float32, of the likelihood's family; `logvar` has the shape of `mean`. H and
            W are `settings.factor` times h and w.
        """
        if return_dict is not None:
            sample = self.decode(z).mean.to(z.dtype)
            return DecoderOutput(sample=sample) if return_dict else (sample,)
        if self.tiling is None:
            return self._decode(z)
        return predict(self._decode, z, self._scales()[::-1], self.tiling)

    def add_texture_head(self, config: TextureConfig) -> TextureHead:
        """Put an untrained texture head beside the decoder, in place of any other.

        Raises:
            ConfigError: a latent is not 8 times smaller than a picture.
        """
        if self.settings.factor != CELL:
            raise ConfigError(
                f"the latents of this VAE are {self.settings.factor} times smaller than a picture, but a texture head "
                f"needs {CELL} times: leave texture out"
            )
        width, size = self.settings.block_out_channels[0], self.settings.pixel_unshuffle
        self.texture_config = config
        self.texture_head = TextureHead(width, size, config.channels, config.blocks, config.noise_channels)
        return self.texture_head

    def decode_texture(
        self, z: Tensor, k: float = 1.0, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> DiagonalGaussian:
        """The picture with texture in place of the mean, and the log-variance of p(x|z) around the mean.

        Args:
            z: raw latent `[B,C,h,w]`.
            k: no pixel leaves the mean by more than this many sigma; 0 gives the mean.
            generator: of the head's noise; one for the batch or one for each picture.

        Raises:
            ConfigError: there is no texture head.
        """
        if self.texture_head is None:
            raise ConfigError("this VAE has no texture head: train one with jeppa train texture, or leave texture out")
        noise = standard_normal(z.new_empty(len(z), self.texture_head.latent_noise_channels, *z.shape[2:]), generator)
        both = torch.cat([z.float(), noise], dim=1)
        if self.tiling is None:
            return self._decode_texture(both, k)
        return predict(partial(self._decode_texture, k=k), both, self._scales()[::-1], self.tiling)

    def reconstruct(self, x: Tensor) -> DiagonalGaussian:
        """Encode to the posterior mean and decode; returns mean and variance of pixels at the size of `x`.

        Args:
            x: `[B,3,H,W]` in [-1,1], any H and W from 1 up; padded to what `encode` needs and cropped back.
        """
        decoded = self.decode(self.encode(pad_to_multiple(x, self.settings.multiple)).mean)
        height, width = x.shape[2:]
        return DiagonalGaussian(decoded.mean[..., :height, :width], decoded.logvar[..., :height, :width])

    def reconstruct_rows(self, height: int, width: int, read: Read) -> Iterator[Rows]:
        """`reconstruct` of one picture, whose rows are yielded as they are finished.

        Neither the picture nor its reconstruction has to be in memory as a whole.

        Args:
            height: of the picture, from 1 up.
            width: of the picture.
            read: gives `[1,3,bottom-top,right-left]` in [-1,1] for (top, bottom, left, right).
        """
        if self.tiling is None:
            whole = self.reconstruct(read(0, height, 0, width))
            yield Rows(0, whole.mean, whole.logvar)
            return

        def read_padded(top: int, bottom: int, left: int, right: int) -> Tensor:
            return pad_to_multiple(read(top, min(bottom, height), left, min(right, width)), self.settings.multiple)

        pixels, places = self._scales()
        size = -(-height // pixels), -(-width // pixels)
        plane = Plane(*size, pixels, places)
        z = gather_rows(rows_in_tiles(self._encode, read_padded, plane, self.tiling), plane)
        for strip in rows_in_tiles(self._decode, reader(z.mean), Plane(*size, places, pixels), self.tiling):
            kept = (..., slice(0, height - strip.top), slice(0, width))
            yield Rows(strip.top, strip.mean[kept], strip.logvar[kept])

    def enable_tiling(self, tile: int | None = None, margin: int | None = None) -> None:
        """Encode and decode pictures larger than a tile in tiles, and halve batches that do not fit in memory.

        Like diffusers' `AutoencoderKL.enable_tiling`, this holds for `encode`, `decode` and all that is built on them.
        A picture within one tile is computed as before. Use it with a trained model only, because the statistics of
        group norm carry no gradient.

        Args:
            tile: longest side in pixels, a multiple of `settings.multiple`; from the width of the net unless given.
            margin: pixels left unused at an end that meets another tile, a multiple likewise; from the depth of the net
                unless given. A tile is at least five margins long.

        Raises:
            ConfigError: a side that is no such multiple, or a tile below five margins.
        """
        cell = self.settings.multiple
        sides = {"tile": tile, "margin": margin}
        for name, side in sides.items():
            if side is not None and (side % cell or side < cell):
                raise ConfigError(f"{name} is {side} pixels, but must be a multiple of {cell}")
        self.tiling = Tiling(
            tile_for(self.settings) if tile is None else tile // cell,
            margin_for(self.settings) if margin is None else margin // cell,
            cell,
        )

    def disable_tiling(self) -> None:
        """Encode and decode every picture in one piece again."""
        self.tiling = None

    def draw(
        self, x: Tensor, temperature: float = 1.0, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Tensor:
        """Reconstruction with a residual drawn from p(x|z), which puts some texture where texture was lost.

        Args:
            x: as for `reconstruct`.
            temperature: size of the residual; 0 gives the mean, 1 a fair draw.
            generator: one for the batch or one for each image.

        Returns:
            `[B,3,H,W]` float32, not clamped.
        """
        decoded = self.decode(self.encode(pad_to_multiple(x, self.settings.multiple)).mean)
        drawn = decoded.mean + temperature * (decoded.sample(generator) - decoded.mean)
        return drawn[..., : x.shape[2], : x.shape[3]]

    def predict(self, features: Tensor, mean: Tensor, device: torch.device) -> Predictive:
        """The distribution around a mean `[B,3,H,W]`, from the decoder features that it was made of; on `device`."""
        if self.sigma_head is None:
            shared = self.shared_logvar if self.arm.variance == "shared" else torch.zeros_like(self.mean_square)
            logvar, degrees = shared.expand_as(mean), None
        else:
            seen = features.detach() if self.arm.mean_of_shared else features
            logvar = self._predict_logvar(seen, mean.detach())
            degrees = self.sigma_head.degrees.to(device) if self.arm.tails else None
        return self.arm.distribution.from_elements(mean.to(device), logvar.to(device), self.settings.basis, degrees)

    def shared_logvar_after(self, error: Tensor) -> Tensor:
        """What `shared_logvar` will be after `track_error(error)`."""
        return _fit_logvar(self._mean_square_after(error))

    @torch.no_grad()
    def track_error(self, error: Tensor) -> None:
        """Move the running mean squared error towards that of one more batch, a scalar."""
        self.mean_square.copy_(self._mean_square_after(error))
        self.updates += 1

    def _mean_square_after(self, error: Tensor) -> Tensor:
        memory = min(ERROR_MEMORY, 1.0 - 1.0 / (float(self.updates) + 1.0))
        return self.mean_square.mul(memory).add(error, alpha=1.0 - memory)

    def _predict_logvar(self, features: Tensor, mean: Tensor) -> Tensor:
        """Log-variance of each element; a picture of half a cell at its end (factor 4) is padded to whole ones."""
        assert self.sigma_head is not None
        height, width = mean.shape[2:]
        if height % CELL or width % CELL:
            features, mean = (pad_to_multiple(value, CELL * value.shape[2] // height) for value in (features, mean))
        logvar: Tensor = self.sigma_head(features, mean, self.shared_logvar)[..., :height, :width]
        return logvar

    def _scales(self) -> tuple[int, int]:
        """Pixels and places of the latent along a side of a cell, the unit of tiles."""
        return self.settings.multiple, self.settings.multiple // self.settings.factor

    def _encode(self, x: Tensor) -> DiagonalGaussian:
        mean, logvar = self.codec.moments(x).to(x.device).float().chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(*POSTERIOR_LOGVAR_RANGE))

    def _decode(self, z: Tensor) -> Predictive:
        features, mean = self.codec.features_and_mean(z)
        return self.predict(features, mean, z.device)

    def _decode_texture(self, both: Tensor, k: float) -> DiagonalGaussian:
        channels = self.settings.latent_channels
        z, noise = both.split([channels, both.shape[1] - channels], dim=1)
        features, mean = self.codec.features_and_mean(z)
        decoded = self.predict(features, mean, z.device)
        assert self.texture_head is not None
        direction = self.texture_head(features, noise.to(features.device)).to(z.device)
        return DiagonalGaussian(add_texture(decoded.mean, decoded.logvar, direction, k), decoded.logvar)


def pad_to_multiple(x: Tensor, multiple: int = FACTOR) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `multiple`; `[B,3,H,W]`."""
    height, width = x.shape[2:]
    if height % multiple == width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _fit_logvar(mean_square: Tensor) -> Tensor:
    return bound_logvar(mean_square.clamp(min=1e-12).log())
