"""A trained VAE as others use it: a folder on the disk, and a codec between images and standardised latents.

The folder holds `vae/`, which diffusers opens (a stock AutoencoderKL, or a pyramid), `sigma_head/`, `texture_head/` and
`model.json`. `vae/config.json` has the latent statistics under diffusers' names: `latents_mean` and `latents_std` for
each channel, and the single `scaling_factor` and `shift_factor` that every pipeline reads.

The codec is a frozen VAE with a shift and a scale for each channel. A denoiser expects data of about unit variance, but
the scale of a VAE's latent is whatever training made it. Shift and scale are measured on training images and saved
with the weights. Rombach et al., arXiv 2112.10752, appendix G, measure one scale for all channels; here each
channel has its own, as in EDM2 (arXiv 2312.02696).
"""

import inspect
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from jeppa.config import Likelihood, Settings, TextureConfig, VAEConfig, parse
from jeppa.distributions import DiagonalGaussian, Predictive
from jeppa.errors import CheckpointError, ConfigError
from jeppa.files import read_json
from jeppa.tensors import read_part
from jeppa.vae.model import HeteroscedasticVAE
from jeppa.vae.nets import Net

FORMAT = 1
Kept = dict[str, Any]
PROBE_SIDE = 64
FACTOR_KEYS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""The entries of a VAE's `config.json` that say what its latents are like."""
NOT_A_FOLDER = (
    "a file, but a model is a run folder or an exported folder; pickles (.ckpt, .pt, .bin) are never opened, because "
    "they can run code"
)


def save_folder(
    model: HeteroscedasticVAE,
    shift: tuple[float, ...],
    scale: tuple[float, ...],
    folder: Path,
    kept: Kept | None = None,
) -> None:
    """Write `model` into `folder`, with its latent statistics (per channel, of the raw latent).

    Args:
        model: the VAE.
        shift, scale, kept: see `LatentStats`.
        folder: exists.
    """
    stats = LatentStats(shift=shift, scale=scale, kept=kept)
    register_statistics(model.vae, stats)
    model.vae.save_pretrained(folder / "vae")
    if model.sigma_head is not None:
        model.sigma_head.save_pretrained(folder / "sigma_head")
    description: dict[str, Any] = {
        "format": FORMAT,
        "likelihood": model.likelihood,
        "config": model.settings.model_dump(mode="json"),
        "mean_square": float(model.mean_square),
        "latent_shift": list(shift),
        "latent_scale": list(scale),
    }
    if kept is not None:
        description["kept"] = dict(kept)
    if model.texture_head is not None:
        model.texture_head.save_pretrained(folder / "texture_head")
        description["texture"] = model.texture_config.model_dump(mode="json")
    temporary = folder / "model.json.tmp"
    temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "model.json")


def load_folder(folder: Path) -> tuple[HeteroscedasticVAE, dict[str, Any]]:
    """Read what `save_folder` wrote: the model in evaluation mode, and its statistics as `LatentStats` takes them.

    The model is built from `model.json`, and diffusers itself opens nothing. Its configuration files are only checked:
    they must not name code, for the sake of those who open the folder with diffusers.

    Raises:
        CheckpointError: the folder is no exported VAE, or a file in it is missing, damaged or hostile.
        ConfigError: `model.json` describes no architecture of ours.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder}: {NOT_A_FOLDER}")
    about = parse(Description, read_json(folder / "model.json"), str(folder / "model.json"))
    with torch.device("meta"):
        outline = HeteroscedasticVAE(about.config, about.likelihood, about.texture)
    vae_folder = folder / "vae" if (folder / "vae").is_dir() else folder  # as `jeppa export --format diffusers` has it
    weights = {"vae": read_part(outline.vae, type(outline.vae).__name__, vae_folder)}
    if outline.sigma_head is not None:
        weights["sigma_head"] = read_part(outline.sigma_head, "SigmaHead", folder / "sigma_head")
    if outline.texture_head is not None:
        weights["texture_head"] = read_part(outline.texture_head, "TextureHead", folder / "texture_head")
    model = HeteroscedasticVAE(about.config, about.likelihood, about.texture)
    for name, tensors in weights.items():
        model.get_submodule(name).load_state_dict(tensors)
    model.mean_square.fill_(about.mean_square)
    stats = {"shift": about.latent_shift, "scale": about.latent_scale}
    return model.eval(), stats if about.kept is None else {**stats, "kept": about.kept}


def assemble(
    about: "Description",
    vae: torch.nn.Module,
    sigma_head: torch.nn.Module | None = None,
    texture_head: torch.nn.Module | None = None,
) -> HeteroscedasticVAE:
    """The model of parts that were loaded one by one, by diffusers for example; it shares their weights.

    Raises:
        ConfigError: a head is missing or too many.
    """
    with torch.device("meta"):
        model = HeteroscedasticVAE(about.config, about.likelihood, about.texture)
    parts = {"vae": vae, "sigma_head": sigma_head, "texture_head": texture_head}
    for name, part in parts.items():
        if (getattr(model, name) is None) != (part is None):
            raise ConfigError(f"the VAE's description and its {name} do not agree: give the one it was saved with")
        setattr(model, name, part)
    model.mean_square = torch.tensor(about.mean_square)
    model.updates = torch.zeros((), dtype=torch.int64)
    return model.eval()


class Description(Settings):
    """The content of `model.json`: everything about a model except its weights."""

    format: Literal[1]
    likelihood: Likelihood
    config: VAEConfig
    texture: TextureConfig | None = None
    mean_square: float = Field(ge=0.0)
    latent_shift: tuple[float, ...]
    latent_scale: tuple[float, ...]
    kept: Kept | None = None


class LatentStats(Settings):
    """Per-channel mean (`shift`) and standard deviation (`scale`) of the raw latent z.

    Args:
        shift, scale: one number for each channel.
        kept: the entries of `vae/config.json` of the VAE that training started from, which stay as they are; None for a
            VAE of our own, whose entries follow from shift and scale.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    kept: Kept | None = None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if len(self.shift) != len(self.scale) or min(self.scale, default=0.0) <= 0.0:
            raise ValueError("shift and scale need one entry for each latent channel, every scale above 0")
        return self


def register_statistics(net: Net, stats: LatentStats) -> None:
    """Put the statistics of the latent into the configuration of a net, where pipelines read them.

    Entries that the class of the net does not have are left out.
    """
    known = inspect.signature(type(net).__init__).parameters
    own = {key: value for key, value in make_factors(stats.shift, stats.scale).items() if key in known}
    net.register_to_config(**(own if stats.kept is None else stats.kept))


def make_factors(shift: Sequence[float], scale: Sequence[float]) -> Kept:
    """The entries `FACTOR_KEYS` for latents of these statistics."""
    return {
        "scaling_factor": 1.0 / (sum(s * s for s in scale) / len(scale)) ** 0.5,
        "shift_factor": sum(shift) / len(shift),
        "latents_mean": list(shift),
        "latents_std": list(scale),
    }


def renew(stats: LatentStats, measured: LatentStats) -> LatentStats:
    """Newly measured statistics, with what else is kept of the VAE that had `stats`."""
    if stats.kept is None:
        return measured
    factors = make_factors(measured.shift, measured.scale)
    kept = stats.kept | {key: value for key, value in factors.items() if key in stats.kept}
    return measured.model_copy(update={"kept": kept})


def statistics_of(net: Net) -> LatentStats:
    """The statistics that the configuration of a net states: those for each channel, or else the factors.

    Raises:
        ConfigError: they are no numbers, or not one for each channel.
    """
    config = {key: value for key, value in net.config.items() if not key.startswith("_")}
    channels = config["latent_channels"]
    shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    scale = config.get("latents_std")
    try:
        scale = scale or [1.0 / (config.get("scaling_factor") or 1.0)] * channels
        values = {"shift": shift, "scale": scale, "kept": config}
    except (TypeError, ZeroDivisionError):
        raise ConfigError(f"scaling_factor is {config['scaling_factor']!r:.80}, but must be a number above 0") from None
    stats = parse(LatentStats, values, "latent statistics")
    if len(stats.shift) != channels:
        raise ConfigError(f"latents_mean has {len(stats.shift)} entries for {channels} latent channels: restore it")
    return stats


def measure(vae: HeteroscedasticVAE, batches: Iterable[Tensor]) -> LatentStats:
    """Measure statistics of z ~ q(z|x) over `batches` of images `[B,3,H,W]`, accumulated in float64.

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
        register_statistics(vae.vae, stats)
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

    def probe(self) -> tuple[float, ...]:
        """What the latents are like: the standardised latent of a test picture, averaged over its quarters, `[4C]`.

        A denoiser fits every VAE that gives about these numbers, whatever its decoder.
        """
        z0 = self.encode(_test_picture(PROBE_SIDE)).mean
        return tuple(round(value, 4) for value in F.adaptive_avg_pool2d(z0, 2).flatten().tolist())

    def save(self, folder: Path) -> None:
        """Export VAE and statistics into a folder that exists; diffusers opens it."""
        save_folder(self.vae, self.stats.shift, self.stats.scale, folder, self.stats.kept)

    def standardise(self, z: Tensor) -> Tensor:
        """Raw latent to about zero mean and unit variance per channel."""
        return (z - self._shift.to(z.device)) / self._scale.to(z.device)

    def raw(self, z0: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return z0 * self._scale.to(z0.device) + self._shift.to(z0.device)


def _test_picture(side: int) -> Tensor:
    """Waves of three colours, with an edge: `[1,3,side,side]` in [-1,1]."""
    down, across = torch.meshgrid(*[torch.linspace(-1.0, 1.0, side)] * 2, indexing="ij")
    waves = torch.stack([torch.sin(3.0 * down + 5.0 * across), torch.cos(7.0 * across), torch.sin(4.0 * down * across)])
    return torch.where(down + across > 0.5, -0.6 * waves, 0.8 * waves)[None]
