"""The run folder of a training run: claimed, resumed, and its checkpoints filled and read."""

import os
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from jeppa.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint, write_text_atomically
from jeppa.config import RunConfig, Settings, dump_yaml, load_run
from jeppa.errors import CheckpointError, ConfigError

# What may change on resume without changing what is learned.
FREE_KEYS = frozenset({"data.workers", "optim.log_every", "optim.sample_every", "optim.save_every", "optim.keep"})


def open_run(run: Path, config: RunConfig, resume: bool) -> tuple[Checkpoint | None, list[str]]:
    """Make `run` ready to be written; the checkpoint to start from, and what a person should know about it.

    Raises:
        ConfigError: the folder is not writable, already holds a run that is not to be resumed, or one with
            other settings.
        CheckpointError: there are checkpoints, but none is intact.
    """
    saved = run / "config.yaml"
    if saved.exists() and not resume:
        raise ConfigError(f"{run}: already holds a run; give --resume to go on with it, or another --out")
    if saved.exists():
        _refuse_differences(run, load_run(saved), config)
    try:
        for folder in (run, run / "checkpoints", run / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(saved, dump_yaml(config))
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror}); choose another --out") from None
    if not os.access(run / "checkpoints", os.W_OK):
        raise ConfigError(f"{run / 'checkpoints'}: cannot be written; choose another --out")
    checkpoint, passed_over = newest_checkpoint(run)
    if checkpoint is None and passed_over:
        raise CheckpointError(f"{passed_over[0]}; no older checkpoint is intact: start again with another --out")
    notes = [f"passed over {line}" for line in passed_over]
    if checkpoint is not None:
        notes.append(f"resumed from step {checkpoint.step}")
    return checkpoint, notes


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
) -> Checkpoint:
    """Save all that `restore` needs, the averaged weights, and what `publish` measured."""
    state = {
        "step": step,
        "schedule": schedule.state_dict(),
        "ema_steps": ema.optimization_step,
        "published": published,
    }
    tensors = {"model": model.state_dict(), "ema": averaged, "optimizer": _moments(optimizer)}
    return save_checkpoint(run, step, tensors, state, keep)


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel, schedule: Any
) -> None:
    """Put a checkpoint's state back, bit for bit."""
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
    schedule.load_state_dict(state["schedule"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.tensors("optimizer").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    content = optimizer.state_dict()
    content["state"] = moments
    for group, rate in zip(content["param_groups"], state["schedule"]["_last_lr"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict(content)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state as named tensors: parameter index, dot, name."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _refuse_differences(run: Path, saved: Settings, wanted: Settings) -> None:
    before, after = _flat(saved.model_dump(mode="json")), _flat(wanted.model_dump(mode="json"))
    differing = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in {**before, **after}
        if before.get(key) != after.get(key) and key not in FREE_KEYS
    ]
    if differing:
        raise ConfigError(f"{run}: cannot resume with other settings: {'; '.join(differing)}; use another --out")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
