"""What diffusers asks of a VAE: the names by which a stock pipeline takes a `HeteroscedasticVAE` as `vae=`.

`encode` and `decode` of the model answer as those of AutoencoderKL do where `return_dict` is given; the rest is here.
"""

from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from torch import Tensor, nn

from jeppa.config import VAEConfig
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import ConfigError
from jeppa.vae.nets import Net


class Posterior(DiagonalGaussian):
    """q(z|x), which also answers as the output of AutoencoderKL's `encode` does."""

    @property
    def latent_dist(self) -> DiagonalGaussianDistribution:
        """The same distribution as diffusers has it; the two draw different samples from one generator."""
        return DiagonalGaussianDistribution(torch.cat([self.mean, self.logvar], dim=1))


class StockInterface(nn.Module):
    """The part of AutoencoderKL's interface that follows from `encode`, `decode` and the net of a model.

    Attributes:
        settings: the architecture.
        vae: the net, see `vae/nets.py`.
        encode, decode: see `HeteroscedasticVAE`.
    """

    settings: VAEConfig
    vae: Net
    encode: Any
    decode: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the autoencoder's weights."""
        dtype: torch.dtype = next(self.vae.parameters()).dtype
        return dtype

    @property
    def config(self) -> FrozenDict:
        """The autoencoder's configuration as a pipeline reads it, for pictures of three channels.

        Pipelines count the levels to know how much smaller a latent is, so a level is added for each halving that
        `pixel_unshuffle` does.
        """
        settings = self.settings
        finer = settings.pixel_unshuffle.bit_length() - 1
        widths = settings.block_out_channels[:1] * finer + settings.block_out_channels
        return FrozenDict({**self.vae.config, "in_channels": 3, "out_channels": 3, "block_out_channels": widths})

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode, as AutoencoderKL does.

        Args:
            sample: `[B,3,H,W]` in [-1,1], as for `encode`.
            sample_posterior: draw the latent instead of taking its mean.
            return_dict: as for AutoencoderKL.
            generator: of the draw.
        """
        posterior = self.encode(sample, return_dict=False)[0]
        z = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict=True) if return_dict else self.decode(z, return_dict=False)

    @classmethod
    def from_pretrained(
        cls, path: Path | str, subfolder: str | None = None, torch_dtype: torch.dtype | None = None
    ) -> Self:
        """Open an exported folder, a run folder, or a VAE of diffusers or LDM, see `jeppa.vae.foreign`; no download.

        Args:
            path: folder or `.safetensors` file on the disk.
            subfolder: of the folder.
            torch_dtype: number format of the weights; float32 unless given.

        Raises:
            CheckpointError: what is there is no VAE, damaged or hostile.
        """
        from jeppa.vae.foreign import load_vae  # which builds on this module

        model: Any = load_vae(Path(path) if subfolder is None else Path(path) / subfolder)[0]
        return model if torch_dtype is None else model.to(torch_dtype)  # type: ignore[no-any-return]

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the model into `folder`: `vae/`, which stock diffusers opens, the heads and `model.json` beside it.

        Args:
            folder: made if it is missing.
            safe_serialization, variant, max_shard_size: as diffusers has them, but only the values given here are
                possible.

        Raises:
            ConfigError: pickles, a variant or shards are asked for.
        """
        from jeppa.vae.codec import save_folder, statistics_of  # which build on this module

        if not safe_serialization or variant is not None or max_shard_size is not None:
            raise ConfigError(
                "save_pretrained writes one safetensors file for each part, so there are no pickles, variants or "
                "shards: leave safe_serialization, variant and max_shard_size out, or save the attribute vae alone"
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        stats, model = statistics_of(self.vae), cast(Any, self)
        save_folder(model, stats.shift, stats.scale, Path(folder), stats.kept)
