"""From a folder to a working model: reconstruct, sigma map, generate, interpolate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import DiffusionRun, Settings, VAERun, load_run, parse
from jeppa.diffusion import (
    DDIM,
    Denoiser,
    SamplerStep,
    generators_for,
    guided,
    initial_noise,
    make_scheduler,
    make_unet,
    sample_ddim,
)
from jeppa.errors import CheckpointError, ConfigError
from jeppa.gaussian import DiagonalGaussian, Predictive
from jeppa.latent import LatentCodec, LatentStats
from jeppa.vae import FACTOR, HeteroscedasticVAE, load_folder

BATCH = 16
MAX_SIDE = 2048


class SamplerSettings(Settings):
    """How pictures are drawn; `check` compares them with a model."""

    steps: int = 25
    eta: float = 0.0
    guidance: float = 1.0
    label: str | None = None
    resolution: int | None = None
    temperature: float = 0.0

    def ddim(self) -> DDIM:
        """The sampler's part of the settings."""
        return DDIM(self.steps, self.eta, temperature=self.temperature)


@dataclass(frozen=True)
class Preview:
    """A sampling step in pictures: the step, and its x0 estimate decoded, `[B,3,H,W]`."""

    step: SamplerStep
    estimate: Tensor


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
    """

    path: Path
    codec: LatentCodec
    denoiser: Denoiser | None
    schedule: DDIMScheduler
    labels: tuple[str, ...]
    resolution: int

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> DiagonalGaussian:
        """Reconstruction and its log-variance at the size of `x` (`[B,3,H,W]` in [-1,1]), from the latent mean."""
        return self.codec.vae.reconstruct(x)

    @torch.no_grad()
    def draw(self, x: Tensor, temperature: float, seed: int) -> Tensor:
        """Reconstructions `[B,3,H,W]` with drawn residuals; picture i has seed `seed` + i, see the VAE's `draw`."""
        return self.codec.vae.draw(x, temperature, generators_for(range(seed, seed + len(x))))

    def sample(self, seeds: Sequence[int], settings: SamplerSettings) -> Iterator[SamplerStep]:
        """DDIM in latent space, one picture for each seed; the last step's `zt` is the standardised latent.

        Raises:
            CheckpointError: the model has no denoiser.
            ConfigError: settings out of range or an unknown label.
        """
        denoise = guided(self._denoiser(), self._label_tensor(settings.label, len(seeds)), settings.guidance)
        side = self._side(settings.resolution) // FACTOR
        generators = generators_for(seeds)
        noise = initial_noise((self.codec.vae.config.latent_channels, side, side), generators)
        return sample_ddim(denoise, noise, self.schedule, settings.ddim(), generators)

    def previews(self, seeds: Sequence[int], settings: SamplerSettings) -> Iterator[Preview]:
        """`sample` with every step's estimate decoded."""
        for step in self.sample(seeds, settings):
            yield Preview(step, self.codec.decode(step.x0).mean)

    def generate(self, seeds: Sequence[int], settings: SamplerSettings) -> Iterator[Tensor]:
        """Pictures `[3,H,W]` in order of `seeds`, made in batches so that memory stays flat for any number."""
        for start in range(0, len(seeds), BATCH):
            *_, last = self.sample(seeds[start : start + BATCH], settings)
            yield from self.codec.decode(last.zt).mean

    def interpolate(self, a: Tensor, b: Tensor, frames: int) -> Iterator[Predictive]:
        """Decoded points, `[1,3,H,W]`, on the straight line between the latents of two pictures of one size.

        Args:
            a: first picture, `[3,H,W]`, H and W multiples of 8.
            b: second picture.
            frames: how many, at least 2, both ends included.

        Raises:
            ConfigError: fewer than 2 frames.
        """
        if frames < 2:
            raise ConfigError(f"frames is {frames}, but a path needs at least its 2 ends")
        first, second = self.codec.encode(torch.stack([a, b])).mean
        for share in torch.linspace(0.0, 1.0, frames).tolist():
            yield self.codec.decode(torch.lerp(first, second, share)[None])

    def _denoiser(self) -> Denoiser:
        if self.denoiser is None:
            raise CheckpointError(f"{self.path}: a VAE without a denoiser; train one with jeppa train diffusion")
        return self.denoiser

    def _label_tensor(self, label: str | None, count: int) -> Tensor | None:
        if label is None:
            return None
        if label not in self.labels:
            known = f"choose one of {', '.join(self.labels)}" if self.labels else "leave --label out"
            raise ConfigError(f"label is {label!r}, which {self.path} does not know: {known}")
        return torch.full((count,), self.labels.index(label))

    def _side(self, wanted: int | None) -> int:
        side = self.resolution if wanted is None else wanted
        if side % FACTOR or not FACTOR <= side <= MAX_SIDE:
            raise ConfigError(f"resolution is {side}, but must be a multiple of {FACTOR} from {FACTOR} to {MAX_SIDE}")
        return side


def load_model(path: Path) -> Model:
    """Open a run folder (its newest intact checkpoint, averaged weights) or an exported folder.

    Raises:
        CheckpointError: there is none, or what is there is damaged or of another architecture.
    """
    if (path / "config.yaml").is_file():
        config = load_run(path / "config.yaml")
        return _vae_run(path, config) if isinstance(config, VAERun) else _diffusion_run(path, config)
    if (path / "model.json").is_file():
        vae, stats = load_folder(path)
        return Model(path, LatentCodec(vae, LatentStats(**stats)), None, make_scheduler(), (), 256)
    kind = "neither config.yaml nor model.json in it" if path.is_dir() else "no such folder"
    raise CheckpointError(f"{path}: {kind}; give a run folder or an exported one")


def denoiser_for(config: DiffusionRun, latent_channels: int) -> Denoiser:
    """The denoiser that `config` describes, with weights from torch's global generator."""
    unet = make_unet(
        sample_size=config.data.resolution // FACTOR,
        latent_channels=latent_channels,
        block_out_channels=config.model.block_out_channels,
        layers_per_block=config.model.layers_per_block,
        attention=config.model.attention,
        num_classes=config.model.num_classes,
    )
    return Denoiser(unet, config.prediction, config.model.variance_channels if config.variance else None)


def _vae_run(path: Path, config: VAERun) -> Model:
    model = HeteroscedasticVAE(config.model, config.likelihood)
    state = _load_averaged(path, model)
    stats = parse(LatentStats, state["published"]["latent"], str(path))
    return Model(path, LatentCodec(model, stats), None, make_scheduler(), (), config.data.resolution)


def _diffusion_run(path: Path, config: DiffusionRun) -> Model:
    vae, stats = load_folder(path)
    denoiser = denoiser_for(config, vae.config.latent_channels)
    state = _load_averaged(path, denoiser)
    codec = LatentCodec(vae, LatentStats(**stats))
    denoiser.eval().requires_grad_(False)
    labels = tuple(state["published"]["labels"])
    return Model(path, codec, denoiser, make_scheduler(kind=config.prediction), labels, config.data.resolution)


def _load_averaged(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill `model` from the newest intact checkpoint; returns the checkpoint's state."""
    checkpoint, passed_over = newest_checkpoint(path)
    if checkpoint is None:
        problem = passed_over[0] if passed_over else f"{path}: no checkpoint in it yet"
        raise CheckpointError(f"{problem}; train on with --resume or give another run folder")
    stored = checkpoint.tensors("ema").items()
    tensors = {key.removeprefix("model."): value for key, value in stored if key.startswith("model.")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise CheckpointError(
            f"{checkpoint.folder}: holds a model of another architecture than {path / 'config.yaml'} says; "
            "restore that file, or give another run folder"
        ) from None
    return checkpoint.state()
