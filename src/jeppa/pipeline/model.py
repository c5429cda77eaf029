"""A model that makes pictures: a VAE with its latent statistics and, from a diffusion run, the denoiser.

Memory. The VAE works in tiles, so its memory does not grow with the picture. The denoiser does not: its attention sees
the whole picture, so its memory grows with the pixels of all pictures in a batch, and larger pictures are made in
smaller batches (`batch_size_for`).

Uncertainty. Each sample gets one number that says how unsure the denoiser was of it, for ranking and rejection. Of five
scores that were compared, the mean variance found bad samples best; the others were means of its logarithm, over all
steps and over the first, middle and last third of them (`results/sampler.md`).

Previews. A preview shows one sampling step: the decoded estimate, and the standard deviation of each of its pixels. By
the law of total variance that deviation combines what the denoiser does not know about x0 with what the decoder does
not know about x:

    Var[x] = E[Var[x|x0]] + Var[E[x|x0]],    x0 ~ N(estimate, Var[x0|zt]).

The first term is the decoder's variance at the estimate. The second is estimated from K antithetic pairs: half the
difference of D(estimate + s) and D(estimate - s), squared, where s is the deviation with a random sign for each
element. For a decoder that is linear over this distance the estimator is unbiased. Random signs need far fewer pairs
than normal draws: the contribution of an element by itself is the same in each pair, so only the cross terms must
average out, and the mean over the pixels of each place of the latent evens out most of those.

Source of the estimator: Hutchinson, Communications in Statistics 19(2), 1990.
"""

import math
import unicodedata
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
    alpha_bars,
    generators_for,
    initial_noise,
    invert_ddim,
    make_denoise,
    make_scheduler,
    sample_ddim,
)
from jeppa.diffusion.ddim import SEED_LIMIT, check_seeds
from jeppa.diffusion.schedule import check_steps
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import CheckpointError, ConfigError
from jeppa.machine import lacks_memory
from jeppa.vae import Rows, pad_to_multiple
from jeppa.vae.codec import LatentCodec

BATCH = 16
PIXELS = BATCH * 512**2
"""Most pixels in a batch: decoded, with their log-variance, they take 96 MiB."""
PAIRS = 4
"""Antithetic pairs of a preview."""
SIGN_SEED = 0
"""Seed of the signs of a preview."""
TEXTURE_SEED = 2**31
"""Added to a picture's seed for its texture: noise of its own, the same whatever the sampler drew before."""

Sampler = Callable[[Sequence[int]], Iterator[SamplerStep]]
"""Starts one sample for each seed; iterating over the result runs the steps."""


def batch_size_for(side: int) -> int:
    """How many pictures of `side` pixels a side are made at once: 16 up to 512 pixels, one from 2048 pixels on."""
    return max(1, min(BATCH, PIXELS // side**2))


def explain_lack_of_memory(denoise: Denoise, factor: int) -> Denoise:
    """Wrap `denoise` so that a lack of memory becomes an error of one line; `factor` is that of the VAE.

    Raises:
        ConfigError: when it is called, if the pictures do not fit in memory.
    """

    def explained(zt: Tensor, t: Tensor) -> Prediction:
        try:
            return denoise(zt, t)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        count, _, height, width = zt.shape
        raise ConfigError(
            f"pictures of {factor * width}x{factor * height} pixels, {count} at once, do not fit in memory: a denoiser "
            "sees them whole, not in tiles; take a smaller --resolution, or free some memory"
        )

    return explained


def texture_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for the texture of each picture, from the picture's seed."""
    return generators_for([(seed + TEXTURE_SEED) % SEED_LIMIT for seed in seeds])


def step_uncertainty(x0_variance: Tensor) -> Tensor:
    """The contribution of one step to the score, `[B]`: the mean of Var[x0|zt], `[B,C,h,w]`, over its elements."""
    return x0_variance.double().flatten(1).mean(1)


class Uncertainty:
    """The running score of a batch: the mean of `step_uncertainty` over the steps added so far."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._steps = 0

    def add(self, step: SamplerStep) -> None:
        """Add one step.

        Raises:
            CheckpointError: the denoiser predicts no variance.
        """
        if step.x0_variance is None:
            raise CheckpointError("the denoiser predicts no variance, so its samples have no score: train a head")
        uncertainty_of_step = step_uncertainty(step.x0_variance)
        self._total = uncertainty_of_step if self._total is None else self._total + uncertainty_of_step
        self._steps += 1

    def score(self) -> Tensor:
        """The score so far, float64 `[B]`; higher is less certain."""
        return torch.empty(0, dtype=torch.float64) if self._total is None else self._total / self._steps


def uncertainty(steps: Iterable[SamplerStep]) -> Tensor:
    """Score of a batch from all of its sampling steps, float64 `[B]`; higher is less certain."""
    running = Uncertainty()
    for step in steps:
        running.add(step)
    return running.score()


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
    """Decode a step's estimate and its uncertainty: 1 + 2 * PAIRS decodings, none of the sampler's random numbers."""
    decoded = codec.decode(step.x0)
    if step.x0_variance is None:
        return Preview(step, decoded.mean, None)
    variance = decoded.var + variance_through(codec, step.x0, step.x0_variance)
    return Preview(step, decoded.mean, variance.sqrt())


def variance_through(codec: LatentCodec, x0: Tensor, x0_variance: Tensor, pairs: int = PAIRS) -> Tensor:
    """Variance of the decoder's mean when x0 has the given variance, `[B,3,H,W]`, constant in each place.

    The random signs are the same for every sample and every step. So a map does not depend on its batch, and it changes
    from step to step only because the estimate and its variance do.

    Args:
        codec: the frozen VAE.
        x0: standardised latents `[B,C,h,w]`.
        x0_variance: variance of each element, same shape.
        pairs: antithetic pairs K, at least 1.
    """
    generator = torch.Generator().manual_seed(SIGN_SEED)
    deviation = x0_variance.sqrt()
    total = torch.zeros(()).to(x0)
    for _ in range(pairs):
        signs = torch.randint(2, x0.shape[1:], generator=generator).to(x0) * 2.0 - 1.0
        shift = deviation * signs
        half = (codec.decode(x0 + shift).mean - codec.decode(x0 - shift).mean) / 2.0
        total = total + F.avg_pool2d(half.square(), codec.vae.settings.factor)
    return F.interpolate(total / pairs, scale_factor=codec.vae.settings.factor, mode="nearest")


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
        labels: class names in order, empty for an unconditional model.
        resolution: side of the training crops in pixels.
        notes: one line for each net: how it runs on this machine.
    """

    path: Path
    codec: LatentCodec
    denoiser: Denoiser | None
    labels: tuple[str, ...]
    resolution: int
    notes: tuple[str, ...] = ()

    @property
    def factor(self) -> int:
        """Pixels along a side of a place of the latent."""
        return self.codec.vae.settings.factor

    @property
    def lacks_sigma(self) -> str | None:
        """What to do where the VAE has no measured variance, so that there is no sigma; None where it has one."""
        if self.codec.vae.arm.variance != "unit":
            return None
        return (
            f"{self.path}: a VAE without a sigma head, so there is no sigma; jeppa adapt --vae {self.path} --data DIR "
            "--out RUN learns one and leaves its pictures as they are"
        )

    @property
    def schedule(self) -> DDIMScheduler:
        """The noise schedule that the denoiser was trained with.

        Raises:
            CheckpointError: the model has no denoiser.
        """
        return make_scheduler(kind=self._denoiser().kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> DiagonalGaussian:
        """Reconstruction and its log-variance at the size of `x` (`[B,3,H,W]` in [-1,1]), from the latent mean."""
        return self.codec.vae.reconstruct(x)

    @torch.no_grad()
    def reconstruct_rows(self, pixels: Pixels) -> Iterator[Rows]:
        """`reconstruct` one picture, uint8 `[H,W,3]` of any size: yields its rows as they are finished.

        Memory does not grow with the height of the picture.
        """
        height, width, _ = pixels.shape

        def read(top: int, bottom: int, left: int, right: int) -> Tensor:
            return to_x(pixels[top:bottom, left:right])[None]

        yield from self.codec.vae.reconstruct_rows(height, width, read)

    @torch.no_grad()
    def draw(self, x: Tensor, temperature: float, seed: int) -> Tensor:
        """Reconstructions `[B,3,H,W]` with drawn residuals; picture i has seed `seed` + i, see the VAE's `draw`."""
        return self.codec.vae.draw(x, temperature, generators_for(range(seed, seed + len(x))))

    @torch.no_grad()
    def reconstruct_with_texture(self, x: Tensor, k: float, seed: int) -> Tensor:
        """Reconstructions `[B,3,H,W]` with texture in place of the mean, see the VAE's `decode_texture`.

        Args:
            x: pictures `[B,3,H,W]` in [-1,1].
            k: no pixel leaves the mean by more than this many sigma; 0 gives the mean.
            seed: of the first picture's texture; picture i has `seed` + i.

        Raises:
            ConfigError: as for `check_texture`.
        """
        self.check_texture(k)
        z = self.codec.vae.encode(pad_to_multiple(x, self.codec.vae.settings.multiple)).mean
        generators = texture_generators(range(seed, seed + len(x)))
        return self.codec.vae.decode_texture(z, k, generators).mean[..., : x.shape[2], : x.shape[3]]

    def sample(
        self, seeds: Sequence[int], settings: SamplerSettings, mask: Tensor | None = None
    ) -> Iterator[SamplerStep]:
        """DDIM in latent space, one sample for each seed; the last step's `zt` is the standardised latent.

        All arguments are checked when this is called, before the first step.

        Args:
            seeds: one for each sample.
            settings: how to sample.
            mask: factor of the learned variance's temperature at each pixel, `[H,W]` in [0,1], of the size of the
                pictures; None for 1 everywhere.

        Raises:
            CheckpointError: the model has no denoiser.
            ConfigError: settings out of range, an unknown label, a learned variance without a variance head, or a mask
                of another size or without a learned variance.
        """
        return self._make_sampler(settings, mask)(seeds)

    def previews(
        self, seeds: Sequence[int], settings: SamplerSettings, mask: Tensor | None = None
    ) -> Iterator[Preview]:
        """The steps of `sample`, each with its estimate and sigma map in pixels; the samples are the same."""
        return (preview(self.codec, step) for step in self.sample(seeds, settings, mask))

    def generate(
        self,
        seeds: Sequence[int],
        settings: SamplerSettings,
        mask: Tensor | None = None,
        watch: Callable[[SamplerStep], None] | None = None,
        texture: float = 0.0,
    ) -> Iterator[Sample]:
        """Pictures in order of `seeds`, made in batches so that memory does not grow with their number.

        Args:
            seeds: ascending, such as a range; at least one.
            settings: as for `sample`; checked when this is called, like all other arguments.
            mask: as for `sample`.
            watch: called with every step of every batch.
            texture: no pixel leaves the mean by more than this many sigma; 0 gives the mean.

        Raises:
            CheckpointError: as for `sample`.
            ConfigError: as for `sample` and `check_texture`.
        """
        check_seeds((seeds[0], seeds[-1]))
        self.check_texture(texture)
        sampler = self._make_sampler(settings, mask)
        return self._generate(seeds, sampler, batch_size_for(self.side(settings.resolution)), watch, texture)

    @torch.no_grad()
    def decode(self, z0: Tensor, texture: float, seeds: Sequence[int]) -> Tensor:
        """Pictures `[B,3,8h,8w]` of standardised latents `[B,C,h,w]`, with texture if it is above 0."""
        if texture == 0.0:
            return self.codec.decode(z0).mean
        return self.codec.vae.decode_texture(self.codec.raw(z0), texture, texture_generators(seeds)).mean

    def sample_from(self, noise: Tensor, settings: DDIMSettings) -> Iterator[SamplerStep]:
        """Plain DDIM from given noise, `[B,C,h,w]`; errors as for `sample`."""
        return sample_ddim(self._make_denoise(settings.label), noise, self.schedule, DDIM(settings.steps))

    def invert(self, z0: Tensor, settings: DDIMSettings) -> Tensor:
        """The noise that `sample_from` takes to the standardised latents `z0`, `[B,C,h,w]`; errors as for `sample`."""
        return invert_ddim(self._make_denoise(settings.label), z0, self.schedule, settings.steps)

    def side(self, wanted: int | None = None) -> int:
        """Side of the pictures to make, in pixels: `wanted`, or the training resolution if that is None.

        Raises:
            ConfigError: the side is no multiple of 8 (of 16 or 32 for a VAE of that factor), or out of range.
        """
        side, multiple = self.resolution if wanted is None else wanted, self.codec.vae.settings.multiple
        if side % multiple or not multiple <= side <= MAX_SIDE:
            raise ConfigError(
                f"resolution is {side}, but must be a multiple of {multiple} from {multiple} to {MAX_SIDE}"
            )
        return side

    def check_variance(self, wanted_for: str) -> None:
        """Refuse a model whose denoiser has no variance head.

        Args:
            wanted_for: the flag that needs the head, for the message.

        Raises:
            CheckpointError: there is no denoiser.
            ConfigError: the denoiser has no variance head.
        """
        if self._denoiser().head is None:
            raise ConfigError(
                f"{self.path}: its denoiser has no variance head, which {wanted_for} needs: add one with jeppa train "
                f"diffusion --denoiser {self.path} --data DIR --out RUN, or leave {wanted_for} out"
            )

    def check_texture(self, k: float) -> None:
        """Refuse a texture that this model cannot make. None (k = 0) is always possible.

        Raises:
            ConfigError: k is negative, infinite or not a number; or it is above 0 and the VAE has no texture head.
        """
        if not 0.0 <= k < math.inf:
            raise ConfigError(f"texture is {k}, but must be a number from 0 up: 0 is the mean, 1 one sigma")
        if k > 0.0 and self.codec.vae.texture_head is None:
            raise ConfigError(
                f"{self.path}: its VAE has no texture head, which --texture needs: add one with jeppa train texture "
                f"--vae {self.path} --data DIR --out RUN, or leave --texture out"
            )

    def _generate(
        self,
        seeds: Sequence[int],
        sampler: Sampler,
        batch_size: int,
        watch: Callable[[SamplerStep], None] | None,
        texture: float,
    ) -> Iterator[Sample]:
        for start in range(0, len(seeds), batch_size):
            batch = seeds[start : start + batch_size]
            running = Uncertainty()
            for step in sampler(batch):
                if step.x0_variance is not None:
                    running.add(step)
                if watch is not None:
                    watch(step)
            scores = running.score().tolist() or [None] * len(batch)
            pictures = self.decode(step.zt, texture, batch)
            for seed, x, score in zip(batch, pictures, scores, strict=True):
                yield Sample(seed, x, score)

    def _make_sampler(self, settings: SamplerSettings, mask: Tensor | None) -> Sampler:
        """A sampler for any number of seeds; all settings are checked here, so that no batch fails after another."""
        denoise = self._make_denoise(settings.label, settings.guidance)
        temperature = self._temperature(settings, mask)
        ddim = DDIM(settings.steps, settings.eta, temperature=temperature, last=settings.last_draw)
        side = self.side(settings.resolution) // self.factor
        schedule = self.schedule
        check_steps(len(alpha_bars(schedule)), settings.steps)

        def start(seeds: Sequence[int]) -> Iterator[SamplerStep]:
            generators = generators_for(seeds)
            noise = initial_noise((self.codec.vae.settings.latent_channels, side, side), generators)
            return sample_ddim(denoise, noise, schedule, ddim, generators)

        return start

    def _denoiser(self) -> Denoiser:
        if self.denoiser is None:
            raise CheckpointError(f"{self.path}: a VAE without a denoiser; train one with jeppa train diffusion")
        return self.denoiser

    def _make_denoise(self, label: str | None, guidance: float = 1.0) -> Denoise:
        denoiser = self._denoiser()
        if label is None:
            return explain_lack_of_memory(make_denoise(denoiser, None, guidance), self.factor)
        known = [unicodedata.normalize("NFC", one) for one in self.labels]
        composed = unicodedata.normalize("NFC", label)  # a file system or keyboard may write one letter as two
        if composed not in known:
            remedy = f"choose one of {', '.join(self.labels)}" if self.labels else "leave --label out"
            raise ConfigError(f"label is {label!r}, which {self.path} does not know: {remedy}")
        labels = torch.tensor([known.index(composed)])
        return explain_lack_of_memory(make_denoise(denoiser, labels, guidance), self.factor)

    def _temperature(self, settings: SamplerSettings, mask: Tensor | None) -> float | Tensor:
        """The sampler's temperature: 0 without a learned variance, and with a mask one for each place, `[1,1,h,w]`."""
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
        return settings.temperature * F.avg_pool2d(mask[None, None], self.factor)
