"""Between images and the latents that a denoiser sees: a frozen VAE and per-channel shift and scale.

A denoiser expects data of about unit variance; a VAE's latent has whatever scale training gave it. The shift and
the scale are measured over training images and travel with the checkpoint. Rombach et al., arXiv 2112.10752,
appendix G, measure one scale for all channels; here each channel has its own, as in EDM2 (arXiv 2312.02696).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from jeppa.config import Settings
from jeppa.gaussian import DiagonalGaussian, Predictive
from jeppa.vae import HeteroscedasticVAE, save_folder


class LatentStats(Settings):
    """Per-channel mean (`shift`) and standard deviation (`scale`) of the raw latent z."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if len(self.shift) != len(self.scale) or min(self.scale, default=0.0) <= 0.0:
            raise ValueError("shift and scale need one entry for each latent channel, every scale above 0")
        return self


def measure(vae: HeteroscedasticVAE, batches: Iterable[Tensor]) -> LatentStats:
    """Statistics of z ~ q(z|x) over `batches` of images `[B,3,H,W]`, accumulated in float64.

    The variance is that of a sampled latent: the variance of the posterior means plus the mean posterior variance.

    Raises:
        ValueError: if there is no batch.
    """
    device = next(vae.parameters()).device
    total, squared, count = torch.zeros(()), torch.zeros(()), 0
    with torch.no_grad():
        for x in batches:
            posterior = vae.encode(x.to(device))
            mean, var = posterior.mean.double().cpu(), posterior.var.double().cpu()
            total = total + mean.sum((0, 2, 3))
            squared = squared + (mean.square() + var).sum((0, 2, 3))
            count += mean[:, 0].numel()
    if count == 0:
        raise ValueError("no images to measure the latent's shift and scale on")
    shift = total / count
    scale = (squared / count - shift.square()).clamp(min=1e-12).sqrt()
    return LatentStats(shift=tuple(shift.tolist()), scale=tuple(scale.tolist()))


class LatentCodec:
    """A frozen VAE with its latent statistics: images to standardised latents z0 and back.

    Pictures larger than a tile are encoded and decoded in tiles, batches that do not fit in memory in parts; see
    `HeteroscedasticVAE.enable_tiling`.
    """

    def __init__(self, vae: HeteroscedasticVAE, stats: LatentStats) -> None:
        self.vae = vae.eval().requires_grad_(False)
        if vae.tiling is None:
            vae.enable_tiling()
        self.stats = stats
        self._shift = torch.tensor(stats.shift).view(1, -1, 1, 1)
        self._scale = torch.tensor(stats.scale).view(1, -1, 1, 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Posterior over the standardised latent, `[B,C,H/8,W/8]`, of images `[B,3,H,W]` in [-1,1]."""
        with torch.no_grad():
            raw = self.vae.encode(x)
        return DiagonalGaussian(self.standardise(raw.mean), raw.logvar - 2.0 * self._scale.to(x.device).log())

    def decode(self, z0: Tensor) -> Predictive:
        """Pixels `[B,3,8h,8w]` and their log-variance from a standardised latent `[B,C,h,w]`."""
        with torch.no_grad():
            return self.vae.decode(self.raw(z0))

    def save(self, folder: Path) -> None:
        """Export VAE and statistics into a folder that exists; diffusers opens it."""
        save_folder(self.vae, self.stats.shift, self.stats.scale, folder)

    def standardise(self, z: Tensor) -> Tensor:
        """Raw latent to about zero mean and unit variance per channel."""
        return (z - self._shift.to(z.device)) / self._scale.to(z.device)

    def raw(self, z0: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return z0 * self._scale.to(z0.device) + self._shift.to(z0.device)
