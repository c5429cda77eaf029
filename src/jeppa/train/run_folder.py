"""The run folder of a training run: claimed, resumed, and its checkpoints filled and read."""

import os
import platform
import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from jeppa.checkpoint import (
    RUN_ID,
    Checkpoint,
    flush,
    newest_checkpoint,
    run_id,
    save_checkpoint,
    sweep,
    write_text_atomically,
)
from jeppa.config import RunConfig, dump_yaml, load_run
from jeppa.errors import CheckpointError, ConfigError
from jeppa.train.changes import Change, hash_of, refuse_data, refuse_settings, told_environment
from jeppa.train.objective import Objective

_PACKAGES = ("jeppa", "torch", "accelerate", "diffusers", "numpy", "pillow", "safetensors")
_EXPORT = "export.tmp"


@dataclass(frozen=True)
class Origin:
    """What the checkpoints of a run come from: which run, its settings, its data, the machine and versions."""

    run: str
    config: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]

    def for_manifest(self) -> dict[str, Any]:
        """The entries of a checkpoint's manifest; the settings themselves are in its state."""
        return {
            "run": self.run,
            "config_sha256": hash_of(self.config),
            "data": self.data,
            "environment": self.environment,
        }


@dataclass(frozen=True)
class Opened:
    """A run folder ready to be written.

    Args:
        origin: for the checkpoints to come.
        checkpoint: where to go on, or None to start.
        notes: what a person should know.
    """

    origin: Origin
    checkpoint: Checkpoint | None
    notes: list[str]


def open_run(
    run: Path, config: RunConfig, inputs: dict[str, Any], resume: bool, allow: Collection[Change] = ()
) -> Opened:
    """Make `run` ready to be written; the caller holds its lock.

    Args:
        run: the run folder.
        config: all settings.
        inputs: what the objective learns from, see `Objective.inputs`.
        resume: go on with the run that is there.
        allow: what may differ from it.

    Raises:
        ConfigError: the folder is not writable, already holds a run that is not to be resumed, or one with
            other settings or other data.
        CheckpointError: there are checkpoints, but none is intact.
    """
    checkpoint, passed_over = newest_checkpoint(run)
    if not resume and ((run / "config.yaml").exists() or checkpoint is not None or passed_over):
        raise ConfigError(f"{run}: already holds a run; give --resume to go on with it, or another --out")
    if checkpoint is None and passed_over:
        raise CheckpointError(f"{passed_over[0]}; no older checkpoint is intact: start again with another --out")
    notes = [f"passed over {line}" for line in passed_over]
    environment = _environment()
    if checkpoint is not None:
        notes.append(f"resumed from step {checkpoint.step}")
    notes += _compare(run, checkpoint, config, inputs, environment, allow)
    identity = _claim(run, config, checkpoint)
    return Opened(Origin(identity, config.model_dump(mode="json"), inputs, environment), checkpoint, notes)


def publish(objective: Objective, run: Path) -> dict[str, Any]:
    """`objective.publish` into `run`, file by file, so that a kill leaves none half-written."""
    temporary = run / _EXPORT
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        published = objective.publish(temporary)
        for path in sorted(temporary.rglob("*")):
            target = run / path.relative_to(temporary)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                flush(path)
                os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return published


def store(
    run: Path,
    step: int,
    model: nn.Module,
    averaged: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    ema: EMAModel,
    schedule: Any,
    published: dict[str, Any],
    keep: int,
    origin: Origin,
) -> Checkpoint:
    """Save all that `restore` needs, the averaged weights, and what `publish` measured."""
    state = {
        "step": step,
        "config": origin.config,
        "schedule": schedule.state_dict(),
        "ema_steps": ema.optimization_step,
        "published": published,
    }
    tensors = {"model": model.state_dict(), "ema": averaged, "optimizer": _moments(optimizer)}
    return save_checkpoint(run, step, tensors, state, keep, origin.for_manifest())


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel, schedule: Any
) -> None:
    """Put a checkpoint's state back, bit for bit; the learning rate follows the schedule of the present settings."""
    averaged = checkpoint.tensors("ema")
    try:
        model.load_state_dict(averaged)
        shadows = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
        model.load_state_dict(checkpoint.tensors("model"))
    except RuntimeError:
        raise CheckpointError(
            f"{checkpoint.folder}: holds a model of another architecture; use the preset of its config.yaml"
        ) from None
    state = checkpoint.state()
    ema.shadow_params = shadows
    ema.optimization_step = state["ema_steps"]
    base_rates = schedule.base_lrs
    schedule.load_state_dict({**state["schedule"], "base_lrs": base_rates})
    rates = [rate * factor(schedule.last_epoch) for rate, factor in zip(base_rates, schedule.lr_lambdas, strict=True)]
    schedule._last_lr = rates
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.tensors("optimizer").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    content = optimizer.state_dict()
    content["state"] = moments
    for group, rate in zip(content["param_groups"], rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict(content)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as named tensors: parameter index, dot, name."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _compare(
    run: Path,
    checkpoint: Checkpoint | None,
    config: RunConfig,
    inputs: dict[str, Any],
    environment: dict[str, Any],
    allow: Collection[Change],
) -> list[str]:
    """Refuse what differs and is not allowed; tell the rest. A checkpoint knows better than an edited config.yaml."""
    saved = None if checkpoint is None else checkpoint.state().get("config")
    if saved is None and (run / "config.yaml").exists():
        saved = load_run(run / "config.yaml").model_dump(mode="json")
    notes = [] if saved is None else refuse_settings(run, saved, config, allow)
    manifest = {} if checkpoint is None else checkpoint.manifest()
    notes += refuse_data(run, manifest.get("data"), inputs, allow)
    return notes + told_environment(manifest.get("environment"), environment)


def _claim(run: Path, config: RunConfig, checkpoint: Checkpoint | None) -> str:
    """Write settings and identity, so that a folder which cannot be written is found out before the first step."""
    try:
        for folder in (run, run / "checkpoints", run / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(folder / ".writable", "")
            (folder / ".writable").unlink()
        sweep(run)
        identity = run_id(run) or (checkpoint and checkpoint.manifest().get("run")) or secrets.token_hex(8)
        write_text_atomically(run / RUN_ID, f"{identity}\n")
        write_text_atomically(run / "config.yaml", dump_yaml(config))
    except OSError as error:
        where = error.filename or run
        raise ConfigError(f"{where}: cannot be written ({error.strerror}); choose another --out") from None
    return str(identity)


def _environment() -> dict[str, Any]:
    """What weights depend on bit for bit, beside settings and data."""
    return {
        "device": str(PartialState().device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
