"""Open a run folder or an exported folder as a `Model`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from jeppa.checkpoint import Checkpoint, is_checkpoint, newest_checkpoint, open_checkpoint
from jeppa.config import DiffusionRun, Precision, VAERun, load_run, parse
from jeppa.diffusion import Denoiser, make_scheduler, make_unet
from jeppa.errors import CheckpointError
from jeppa.latent import LatentCodec, LatentStats
from jeppa.pipeline.model import Model
from jeppa.pipeline.speed import denoiser_runtime, vae_runtime
from jeppa.runtime import prepare
from jeppa.vae import FACTOR, HeteroscedasticVAE, load_folder


def load_model(path: Path | str, precision: Precision = "exact") -> Model:
    """Open a run folder (its newest intact checkpoint), a checkpoint folder of a run, or an exported folder.

    The weights are the averaged ones.

    Args:
        path: the folder.
        precision: exact computes in float32; auto in what was measured to be fastest here, which `Model.notes` tells.

    Raises:
        CheckpointError: there is none, or what is there is damaged or of another architecture.
    """
    path = Path(path)
    run = path.absolute().parents[1] if is_checkpoint(path.absolute()) else path
    if (run / "config.yaml").is_file():
        config = load_run(run / "config.yaml")
        checkpoint = _newest(run) if run == path else open_checkpoint(path)
        if isinstance(config, VAERun):
            return _fast(_vae_run(run, config, checkpoint), precision)
        return _fast(_diffusion_run(run, config, checkpoint), precision)
    if (path / "model.json").is_file():
        vae, stats = load_folder(path)
        model = Model(path, LatentCodec(vae, LatentStats(**stats)), None, make_scheduler(), (), 256)
        return _fast(model, precision)
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


def _fast(model: Model, precision: Precision) -> Model:
    """`model` with its nets changed in place to run at that precision."""
    runtime = vae_runtime(model.codec.vae, precision)
    prepare(model.codec.vae, runtime)
    notes = [f"VAE: {runtime}"]
    if model.denoiser is not None:
        runtime = denoiser_runtime(model.denoiser, precision)
        prepare(model.denoiser, runtime)
        notes.append(f"denoiser: {runtime}")
    return replace(model, notes=tuple(notes))


def _vae_run(path: Path, config: VAERun, checkpoint: Checkpoint) -> Model:
    model = HeteroscedasticVAE(config.model, config.likelihood)
    state = _load_averaged(checkpoint, model)
    stats = parse(LatentStats, state["published"]["latent"], str(path))
    return Model(path, LatentCodec(model, stats), None, make_scheduler(), (), config.data.resolution)


def _diffusion_run(path: Path, config: DiffusionRun, checkpoint: Checkpoint) -> Model:
    vae, stats = load_folder(path)
    denoiser = denoiser_for(config, vae.config.latent_channels)
    state = _load_averaged(checkpoint, denoiser)
    codec = LatentCodec(vae, LatentStats(**stats))
    denoiser.eval().requires_grad_(False)
    labels = tuple(state["published"]["labels"])
    return Model(path, codec, denoiser, make_scheduler(kind=config.prediction), labels, config.data.resolution)


def _newest(run: Path) -> Checkpoint:
    checkpoint, passed_over = newest_checkpoint(run)
    if checkpoint is None:
        problem = passed_over[0] if passed_over else f"{run}: no checkpoint in it yet"
        raise CheckpointError(f"{problem}; train on with --resume or give another run folder")
    return checkpoint


def _load_averaged(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Any]:
    """Fill `model` from a checkpoint; returns the checkpoint's state."""
    stored = checkpoint.tensors("ema").items()
    tensors = {key.removeprefix("model."): value for key, value in stored if key.startswith("model.")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise CheckpointError(
            f"{checkpoint.folder}: holds a model of another architecture than its run's config.yaml says; "
            "restore that file, or give another run folder"
        ) from None
    return checkpoint.state()
