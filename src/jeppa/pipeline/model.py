"""A working model: a VAE with its latent statistics and, from a diffusion run, the denoiser."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from jeppa.config import MAX_SIDE
from jeppa.data.decode import Pixels
from jeppa.data.images import to_x
from jeppa.diffusion import (
    DDIM,
    Denoise,
    Denoiser,
    SamplerStep,
    generators_for,
    guided,
    initial_noise,
    invert_ddim,
    sample_ddim,
)
from jeppa.errors import CheckpointError, ConfigError
from jeppa.gaussian import DiagonalGaussian
from jeppa.latent import LatentCodec
from jeppa.pipeline.batches import at_once, told_plainly
from jeppa.pipeline.preview import Preview, preview
from jeppa.pipeline.uncertainty import Uncertainty
from jeppa.sampling import DDIMSettings, SamplerSettings
from jeppa.vae import FACTOR, Rows


@dataclass(frozen=True)
class Sample:
    """A generated picture.

    Args:
        seed: of its noise.
        x: the picture, `[3,H,W]`.
        uncertainty: the denoiser's, see `Uncertainty`; None from one without a variance.
    """

    seed: int
    x: Tensor
    uncertainty: float | None


@dataclass(frozen=True)
class Model:
    """A loaded VAE with its latent statistics and, from a diffusion run, the denoiser.

    Args:
        path: where it came from.
        codec: the frozen VAE.
        denoiser: net and variance head with averaged weights, or None for a VAE run.
        schedule: its noise schedule.
        labels: class names in order, empty for an unconditional model.
        resolution: side of the training crops in pixels.
        notes: how its nets run on this machine, a line for each.
    """

    path: Path
    codec: LatentCodec
    denoiser: Denoiser | None
    schedule: DDIMScheduler
    labels: tuple[str, ...]
    resolution: int
    notes: tuple[str, ...] = ()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> DiagonalGaussian:
        """Reconstruction and its log-variance at the size of `x` (`[B,3,H,W]` in [-1,1]), from the latent mean."""
        return self.codec.vae.reconstruct(x)

    @torch.no_grad()
    def reconstruct_rows(self, pixels: Pixels) -> Iterator[Rows]:
        """`reconstruct` of one picture, uint8 `[H,W,3]` of any size, in rows as they are finished, in flat memory."""
        height, width, _ = pixels.shape

        def read(top: int, bottom: int, left: int, right: int) -> Tensor:
            return to_x(pixels[top:bottom, left:right])[None]

        yield from self.codec.vae.reconstruct_rows(height, width, read)

    @torch.no_grad()
    def draw(self, x: Tensor, temperature: float, seed: int) -> Tensor:
        """Reconstructions `[B,3,H,W]` with drawn residuals; picture i has seed `seed` + i, see the VAE's `draw`."""
        return self.codec.vae.draw(x, temperature, generators_for(range(seed, seed + len(x))))

    def sample(
        self, seeds: Sequence[int], settings: SamplerSettings, mask: Tensor | None = None
    ) -> Iterator[SamplerStep]:
        """DDIM in latent space, one sample for each seed; the last step's `zt` is the standardised latent.

        Everything is checked at the call, before the first step.

        Args:
            seeds: one for each sample.
            settings: how to sample.
            mask: `[H,W]` in [0,1], the size of the pictures made: the temperature's factor at each place, for the
                learned variance; None for 1 everywhere.

        Raises:
            CheckpointError: the model has no denoiser.
            ConfigError: settings out of range, an unknown label, a learned variance without a variance head, or a mask
                of another size or without a learned variance.
        """
        denoise = self._denoise(settings.label, len(seeds), settings.guidance)
        temperature = self._temperature(settings, mask)
        ddim = DDIM(settings.steps, settings.eta, temperature=temperature, last=settings.last_draw)
        side = self.side(settings.resolution) // FACTOR
        generators = generators_for(seeds)
        noise = initial_noise((self.codec.vae.config.latent_channels, side, side), generators)
        return sample_ddim(denoise, noise, self.schedule, ddim, generators)

    def previews(
        self, seeds: Sequence[int], settings: SamplerSettings, mask: Tensor | None = None
    ) -> Iterator[Preview]:
        """`sample` with every step's estimate and its sigma map in pixels; the samples are the same."""
        return (preview(self.codec, step) for step in self.sample(seeds, settings, mask))

    def generate(
        self,
        seeds: Sequence[int],
        settings: SamplerSettings,
        mask: Tensor | None = None,
        watch: Callable[[SamplerStep], None] | None = None,
    ) -> Iterator[Sample]:
        """Pictures in order of `seeds`, made in batches so that memory stays flat for any number.

        Args:
            seeds: ascending, such as a range; at least one.
            settings: as for `sample`, checked at the call.
            mask: as for `sample`.
            watch: called with every step of every batch.

        Raises:
            CheckpointError: as for `sample`.
            ConfigError: as for `sample`.
        """
        self.sample([seeds[0], seeds[-1]], settings, mask)  # for its checks alone: no step is asked for
        return self._generate(seeds, settings, mask, watch)

    def sample_from(self, noise: Tensor, settings: DDIMSettings) -> Iterator[SamplerStep]:
        """Plain DDIM from given noise, `[B,C,h,w]`; errors as for `sample`."""
        return sample_ddim(self._denoise(settings.label, len(noise)), noise, self.schedule, DDIM(settings.steps))

    def invert(self, z0: Tensor, settings: DDIMSettings) -> Tensor:
        """The noise that `sample_from` takes to the standardised latents `z0`, `[B,C,h,w]`; errors as for `sample`."""
        return invert_ddim(self._denoise(settings.label, len(z0)), z0, self.schedule, settings.steps)

    def side(self, wanted: int | None = None) -> int:
        """Side of the pictures made, in pixels: the one that is wanted, or the training resolution.

        Raises:
            ConfigError: it is no multiple of 8, or out of range.
        """
        side = self.resolution if wanted is None else wanted
        if side % FACTOR or not FACTOR <= side <= MAX_SIDE:
            raise ConfigError(f"resolution is {side}, but must be a multiple of {FACTOR} from {FACTOR} to {MAX_SIDE}")
        return side

    def check_variance(self, wanted_for: str) -> None:
        """Refuse a model whose denoiser has no variance head.

        Raises:
            CheckpointError: there is no denoiser.
            ConfigError: it has no head; names what it is wanted for, and the remedy.
        """
        if self._denoiser().head is None:
            raise ConfigError(
                f"{self.path}: its denoiser has no variance head, which {wanted_for} needs: add one with jeppa train "
                f"diffusion --denoiser {self.path} --data DIR --out RUN, or leave {wanted_for} out"
            )

    def _generate(
        self,
        seeds: Sequence[int],
        settings: SamplerSettings,
        mask: Tensor | None,
        watch: Callable[[SamplerStep], None] | None,
    ) -> Iterator[Sample]:
        count = at_once(self.side(settings.resolution))
        for start in range(0, len(seeds), count):
            batch = seeds[start : start + count]
            running = Uncertainty()
            for step in self.sample(batch, settings, mask):
                if step.x0_variance is not None:
                    running.add(step)
                if watch is not None:
                    watch(step)
            scores = running.score().tolist() or [None] * len(batch)
            pictures = self.codec.decode(step.zt).mean
            for seed, x, score in zip(batch, pictures, scores, strict=True):
                yield Sample(seed, x, score)

    def _denoiser(self) -> Denoiser:
        if self.denoiser is None:
            raise CheckpointError(f"{self.path}: a VAE without a denoiser; train one with jeppa train diffusion")
        return self.denoiser

    def _denoise(self, label: str | None, count: int, guidance: float = 1.0) -> Denoise:
        denoiser = self._denoiser()
        if label is None:
            return told_plainly(guided(denoiser, None, guidance))
        if label not in self.labels:
            known = f"choose one of {', '.join(self.labels)}" if self.labels else "leave --label out"
            raise ConfigError(f"label is {label!r}, which {self.path} does not know: {known}")
        return told_plainly(guided(denoiser, torch.full((count,), self.labels.index(label)), guidance))

    def _temperature(self, settings: SamplerSettings, mask: Tensor | None) -> float | Tensor:
        """Of the sampler: 0 without a learned variance; with a mask, one for each place, `[1,1,h,w]`."""
        if settings.variance == "none":
            if mask is not None:
                raise ConfigError("a mask is for the learned variance: add --variance learned, or leave the mask out")
            return 0.0
        self.check_variance("--variance learned")
        if mask is None:
            return settings.temperature
        side = self.side(settings.resolution)
        if mask.shape != (side, side):
            height, width = mask.shape
            raise ConfigError(
                f"mask is {width}x{height} pixels, but the pictures made are {side}x{side}: scale it to that size, or "
                "set --resolution"
            )
        return settings.temperature * F.avg_pool2d(mask[None, None], FACTOR)
