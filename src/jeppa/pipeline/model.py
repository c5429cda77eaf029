"""A working model: a VAE with its latent statistics and, from a diffusion run, the denoiser.

How many pictures are made at once: a VAE works in tiles, so its memory stays flat. A denoiser does not: its attention
sees the whole picture, and what it keeps grows with the pixels of all pictures of a batch.

How unsure the denoiser was of a sample is one number for each, for ranking and rejection. Of five candidates the mean
variance found bad samples best, ahead of means of its logarithm over all steps or the first, middle or last third of
them (`results/sampler.md`).

A preview shows a sampling step: the decoded estimate, and how far off every pixel of it may be. That is the law of
total variance, over what the denoiser does not know about x0 and what the decoder does not know about x:

    Var[x] = E[Var[x|x0]] + Var[E[x|x0]],    x0 ~ N(estimate, Var[x0|zt]).

The first part is the decoder's variance at the estimate. The second is measured with K antithetic pairs, half the
difference of D(estimate + s) and D(estimate - s) squared, with s the deviation times a random sign for each element.
That is exact in the mean for a decoder that is linear over this distance. Signs need far fewer pairs than normal
draws, because what an element adds by itself is the same in each pair and only cross terms must average out; the mean
over cells of 8x8 pixels evens out most of these.

Source of the estimator: Hutchinson, Communications in Statistics 19(2), 1990.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from jeppa.config import MAX_SIDE, DDIMSettings, SamplerSettings
from jeppa.data.decode import Pixels
from jeppa.data.images import to_x
from jeppa.diffusion import (
    DDIM,
    Denoise,
    Denoiser,
    Prediction,
    SamplerStep,
    generators_for,
    initial_noise,
    invert_ddim,
    make_denoise,
    sample_ddim,
)
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import CheckpointError, ConfigError
from jeppa.machine import lacks_memory
from jeppa.vae import FACTOR, Rows
from jeppa.vae.codec import LatentCodec

BATCH = 16
PIXELS = BATCH * 512**2
"""Of a batch: decoded, with their log-variance, pictures of so many pixels take 96 MiB."""


def batch_size_for(side: int) -> int:
    """How many pictures of this many pixels a side are made at once: 16 up to 512, one from 2048 on."""
    return max(1, min(BATCH, PIXELS // side**2))


def explain_lack_of_memory(denoise: Denoise) -> Denoise:
    """`denoise`, with a lack of memory told in one line.

    Raises:
        ConfigError: in the call, the pictures do not fit in memory.
    """

    def told(zt: Tensor, t: Tensor) -> Prediction:
        try:
            return denoise(zt, t)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        count, _, height, width = zt.shape
        raise ConfigError(
            f"pictures of {FACTOR * width}x{FACTOR * height} pixels, {count} at once, do not fit in memory: a denoiser "
            "sees them whole, not in tiles; take a smaller --resolution, or free some memory"
        )

    return told


def step_uncertainty(x0_variance: Tensor) -> Tensor:
    """What one step adds to the score, `[B]`: the mean of Var[x0|zt], `[B,C,h,w]`, over its elements."""
    return x0_variance.double().flatten(1).mean(1)


class Uncertainty:
    """The running score of a batch, fed step by step: the mean over the steps of `step_uncertainty`."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._steps = 0

    def add(self, step: SamplerStep) -> None:
        """Count one step in.

        Raises:
            CheckpointError: the denoiser predicts no variance.
        """
        if step.x0_variance is None:
            raise CheckpointError("the denoiser predicts no variance, so its samples have no score: train a head")
        found = step_uncertainty(step.x0_variance)
        self._total = found if self._total is None else self._total + found
        self._steps += 1

    def score(self) -> Tensor:
        """The score so far, float64 `[B]`; higher is less certain."""
        return torch.empty(0, dtype=torch.float64) if self._total is None else self._total / self._steps


def uncertainty(steps: Iterable[SamplerStep]) -> Tensor:
    """Score of samples from all steps that made them, float64 `[B]`; higher is less certain."""
    running = Uncertainty()
    for step in steps:
        running.add(step)
    return running.score()


PAIRS = 4
SEED = 0


@dataclass(frozen=True)
class Preview:
    """A sampling step in pictures.

    Args:
        step: the step.
        estimate: its x0 decoded, `[B,3,H,W]`.
        sigma: standard deviation of each pixel in units of x, same shape; None from a net without a variance.
    """

    step: SamplerStep
    estimate: Tensor
    sigma: Tensor | None


def preview(codec: LatentCodec, step: SamplerStep) -> Preview:
    """Decode a step's estimate and its uncertainty; 1 + 2 * PAIRS decodings, and no noise of the sampler."""
    decoded = codec.decode(step.x0)
    if step.x0_variance is None:
        return Preview(step, decoded.mean, None)
    variance = decoded.var + variance_through(codec, step.x0, step.x0_variance)
    return Preview(step, decoded.mean, variance.sqrt())


def variance_through(codec: LatentCodec, x0: Tensor, x0_variance: Tensor, pairs: int = PAIRS) -> Tensor:
    """Variance of the decoder's mean when x0 has the given variance, `[B,3,H,W]`, constant in cells of 8x8 pixels.

    The signs are the same for every sample and every step: a map does not depend on its batch, and from step to step it
    changes only with what is known.

    Args:
        codec: the frozen VAE.
        x0: standardised latents `[B,C,h,w]`.
        x0_variance: variance of each element, same shape.
        pairs: antithetic pairs K, at least 1.
    """
    generator = torch.Generator().manual_seed(SEED)
    deviation = x0_variance.sqrt()
    total = torch.zeros(()).to(x0)
    for _ in range(pairs):
        signs = torch.randint(2, x0.shape[1:], generator=generator).to(x0) * 2.0 - 1.0
        shift = deviation * signs
        half = (codec.decode(x0 + shift).mean - codec.decode(x0 - shift).mean) / 2.0
        total = total + F.avg_pool2d(half.square(), FACTOR)
    return F.interpolate(total / pairs, scale_factor=FACTOR, mode="nearest")


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
        count = batch_size_for(self.side(settings.resolution))
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
            return explain_lack_of_memory(make_denoise(denoiser, None, guidance))
        if label not in self.labels:
            known = f"choose one of {', '.join(self.labels)}" if self.labels else "leave --label out"
            raise ConfigError(f"label is {label!r}, which {self.path} does not know: {known}")
        return explain_lack_of_memory(make_denoise(denoiser, torch.full((count,), self.labels.index(label)), guidance))

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
