"""Open a run folder, an exported folder, a shipped model or a VAE of others as a `Model`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from jeppa.checkpoint import Checkpoint, is_checkpoint, newest_checkpoint, open_checkpoint
from jeppa.config import DiffusionRun, Precision, Settings, TextureRun, VAERun, load_run, parse
from jeppa.diffusion import DESCRIPTION, DenoiserAbout, load_denoiser, make_denoiser, read_description
from jeppa.errors import CheckpointError, ConfigError
from jeppa.pipeline.model import Model
from jeppa.runtime import denoiser_runtime, prepare, vae_runtime
from jeppa.shipped import SHIPPED, find_shipped
from jeppa.vae import HeteroscedasticVAE, is_foreign, load_folder, load_vae
from jeppa.vae.architecture import WANTED
from jeppa.vae.codec import NOT_A_FOLDER, LatentCodec, LatentStats

Net = TypeVar("Net", bound=nn.Module)

RESOLUTION = 256
"""Pixels a side at which a VAE works unless asked otherwise."""
LARGEST_DIFFERENCE = 0.05
"""How far the standardised latents of a test picture may be from those that a denoiser knows, root mean square;
rounding weights to 16 bits moves them far less."""


def load_model(
    path: Path | str,
    precision: Precision = "exact",
    device: torch.device | str = "cpu",
    vae: Path | str | None = None,
) -> Model:
    """Open a run folder (its newest intact checkpoint), a checkpoint of a run, an exported folder or a shipped model.

    The weights are the averaged ones. It may also be a VAE of others, see `jeppa.vae.foreign`.

    Args:
        path: the folder, or the name of a shipped model where there is no such folder.
        precision: exact computes in float32; auto in the number format that is fastest here, see `Model.notes`.
        device: where the nets work; pictures and latents stay on the CPU.
        vae: a VAE with the same latents to use in place of the model's own.

    Raises:
        CheckpointError: there is none, or what is there is damaged or of another architecture; or a denoiser was
            trained on latents other than those of the VAE.
    """
    if precision == "exact":
        torch.backends.cudnn.allow_tf32 = False  # as it comes, convolutions on a GPU keep ten bits of a float32
    model = _open(path)
    if vae is not None:
        codec = _open(vae).codec
        check_latents(codec, model.codec.probe(), vae, path)
        model = replace(model, codec=codec)
    runtime = vae_runtime(model.codec.vae.to(device), precision)
    prepare(model.codec.vae, runtime)
    notes = [f"VAE: {runtime}"]
    if model.denoiser is not None:
        runtime = denoiser_runtime(model.denoiser.to(device), precision)
        prepare(model.denoiser, runtime)
        notes.append(f"denoiser: {runtime}")
    return replace(model, notes=tuple(notes))


def check_latents(codec: LatentCodec, latents: tuple[float, ...], vae: Path | str, denoiser: Path | str) -> None:
    """Refuse a VAE whose latents are not those that a denoiser was trained on; its decoder may differ.

    Args:
        codec: the VAE.
        latents: what the `probe` of the VAE that the denoiser was trained with gave.
        vae: where the VAE came from, for the message.
        denoiser: where the denoiser came from, for the message.

    Raises:
        CheckpointError: they differ.
    """
    found = codec.probe()
    if len(found) == len(latents):
        squares = [(one - other) ** 2 for one, other in zip(found, latents, strict=True)]
        difference = (sum(squares) / len(squares)) ** 0.5
        if difference <= LARGEST_DIFFERENCE:
            return
        how = f"those of a test picture differ by {difference:.2f} deviations, more than {LARGEST_DIFFERENCE}"
    else:
        how = f"{len(found) // 4} channels instead of {len(latents) // 4}"
    raise CheckpointError(
        f"{vae}: its latents are not those that the denoiser of {denoiser} was trained on ({how}); give the VAE that "
        "it was trained with, or one that was tuned from it with --frozen encoder"
    )


def about_denoiser(
    config: DiffusionRun,
    latent_channels: int,
    labels: tuple[str, ...] = (),
    latents: tuple[float, ...] | None = None,
) -> DenoiserAbout:
    """The description of the denoiser that a run with the settings `config` trains.

    Args:
        config: settings of the run.
        latent_channels: channels of the VAE's latents.
        labels: class names in order, as the data gives them.
        latents: what the VAE's `probe` gives.
    """
    return DenoiserAbout(
        config=config.model,
        prediction=config.prediction,
        variance=config.variance,
        latent_channels=latent_channels,
        resolution=config.data.resolution,
        labels=labels,
        latents=latents,
    )


def describe_denoiser(path: Path | str) -> DenoiserAbout:
    """The description of the denoiser in a run folder, an exported folder or a shipped model.

    Raises:
        ConfigError: there is no denoiser.
    """
    shipped = find_shipped(path)
    own = Path(path).absolute()
    folder = (own.parents[1] if is_checkpoint(own) else own) if shipped is None else shipped.denoiser
    if folder is None or not (folder / DESCRIPTION).is_file():
        raise ConfigError(f"{path}: a VAE without a denoiser, or no model at all; give the run folder of a denoiser")
    return read_description(folder)


def _open(path: Path | str) -> Model:
    shipped = find_shipped(path)
    if shipped is not None:
        return _open_exported(Path(path), shipped.vae, shipped.denoiser)
    path = Path(path)
    run = path.absolute().parents[1] if is_checkpoint(path.absolute()) else path
    if (run / "config.yaml").is_file():
        config = load_run(run / "config.yaml")
        checkpoint = _find_newest(run) if run == path else open_checkpoint(path)
        if isinstance(config, VAERun):
            return _open_vae_run(run, config, checkpoint)
        if isinstance(config, TextureRun):
            return _open_texture_run(run, config, checkpoint)
        return _open_diffusion_run(run, config, checkpoint)
    if (path / "model.json").is_file():
        return _open_exported(path, path, path if (path / DESCRIPTION).is_file() else None)
    if is_foreign(path):
        return Model(path, LatentCodec(*load_vae(path)), None, (), RESOLUTION)
    if path.is_file():
        raise CheckpointError(f"{path}: {NOT_A_FOLDER}; {WANTED}")
    kind = "neither config.yaml nor model.json in it" if path.is_dir() else "no such folder"
    names = ", ".join(model.name for model in SHIPPED)
    raise CheckpointError(f"{path}: {kind}; give a run folder, an exported one, one of {names}, or a VAE: {WANTED}")


def _open_exported(path: Path, vae_folder: Path, denoiser_folder: Path | None) -> Model:
    vae, stats = load_folder(vae_folder)
    codec = _make_codec(vae, stats, path)
    if denoiser_folder is None:
        return Model(path, codec, None, (), RESOLUTION)
    denoiser, about = load_denoiser(denoiser_folder, vae.settings.factor)
    if about.latent_channels != vae.settings.latent_channels:
        raise CheckpointError(
            f"{path}: its denoiser is for latents of {about.latent_channels} channels, but the VAE has "
            f"{vae.settings.latent_channels}; export it again"
        )
    if about.latents is not None:
        check_latents(codec, about.latents, vae_folder, path)
    return Model(path, codec, denoiser, about.labels, about.resolution)


def _open_vae_run(path: Path, config: VAERun, checkpoint: Checkpoint) -> Model:
    model, published = _load_averaged(checkpoint, partial(HeteroscedasticVAE, config.model, config.likelihood))
    codec = _make_codec(model, published.get("latent"), path)
    return Model(path, codec, None, (), config.data.resolution)


def _open_texture_run(path: Path, config: TextureRun, checkpoint: Checkpoint) -> Model:
    exported, _ = load_folder(path)
    make = partial(HeteroscedasticVAE, exported.settings, exported.likelihood, config.model)
    model, published = _load_averaged(checkpoint, make)
    codec = _make_codec(model, published.get("latent"), path)
    return Model(path, codec, None, (), config.data.resolution)


def _open_diffusion_run(path: Path, config: DiffusionRun, checkpoint: Checkpoint) -> Model:
    vae, stats = load_folder(path)
    codec = _make_codec(vae, stats, path)
    latents = read_description(path).latents if (path / DESCRIPTION).is_file() else None
    if latents is not None:
        check_latents(codec, latents, path / "vae", path)
    about = about_denoiser(config, vae.settings.latent_channels)
    make = partial(make_denoiser, about, about.resolution // vae.settings.factor)
    denoiser, published = _load_averaged(checkpoint, make)
    denoiser.eval().requires_grad_(False)
    labels = parse(_Labels, published, str(path)).labels
    return Model(path, codec, denoiser, labels, config.data.resolution)


class _Labels(Settings):
    """The entries that a diffusion run publishes with a checkpoint."""

    labels: tuple[str, ...]


def _make_codec(vae: HeteroscedasticVAE, stats: Any, path: Path) -> LatentCodec:
    parsed = parse(LatentStats, stats, f"{path}, latent statistics")
    if len(parsed.shift) != vae.settings.latent_channels:
        raise CheckpointError(
            f"{path}: latent statistics of {len(parsed.shift)} channels, but the VAE has "
            f"{vae.settings.latent_channels}; export it again"
        )
    return LatentCodec(vae, parsed)


def _find_newest(run: Path) -> Checkpoint:
    checkpoint, passed_over = newest_checkpoint(run)
    if checkpoint is None:
        problem = passed_over[0] if passed_over else f"{run}: no checkpoint in it yet"
        raise CheckpointError(f"{problem}; train on with --resume or give another run folder")
    return checkpoint


def _load_averaged(checkpoint: Checkpoint, make: Callable[[], Net]) -> tuple[Net, dict[str, Any]]:
    """Build a net with `make` and give it the averaged weights of a checkpoint.

    Returns:
        The net, and what the training run published with the checkpoint.
    """
    with torch.device("meta"):  # names and shapes without memory: a stranger's config.yaml may describe anything
        outline = make().state_dict()
    tensors = checkpoint.tensors("ema", outline, prefix="model.")
    model = make()
    model.load_state_dict(tensors)
    published = checkpoint.state().get("published")
    if not isinstance(published, dict):
        raise CheckpointError(f"{checkpoint.folder}: its state lacks what a model needs; use another checkpoint")
    return model, published
