"""The folder of a training run: who may write to it, what may differ on resume, and what its checkpoints hold.

On resume, settings, data, machine and versions are compared with those of the run. A difference that would change what
is learned is an error unless it was allowed; the allowed ones are reported.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor

from jeppa.checkpoint import RUN_ID, Checkpoint, newest_checkpoint, run_id, save_checkpoint, sweep
from jeppa.config import RunConfig, dump_yaml, load_run, parse_run
from jeppa.errors import CheckpointError, ConfigError
from jeppa.files import flush, write_text_atomically
from jeppa.train.step import TrainState
from jeppa.vae.codec import LatentCodec

Change = Literal["settings", "data"]
"""What may differ on resume if the user allows it: settings (except those of the model), and the images."""
FREE = frozenset({
    "data.workers", "data.max_unreadable", "data.cache_megabytes", "optim.gradient_checkpointing", "optim.micro_batch",
    "optim.log_every",
    "optim.sample_every", "optim.save_every", "optim.keep",
})  # fmt: skip
"""Settings that change nothing but rounding; they may always differ."""
FIXED = (
    "kind", "seed", "preset", "model", "likelihood", "prediction", "variance", "denoiser", "classes",
)  # fmt: skip
"""Settings of which another value would mean another model or another run; they may never differ."""
Flat = dict[str, Any]


def compare_settings(run: Path, saved: Flat, wanted: RunConfig, allow: Collection[Change]) -> list[str]:
    """Compare settings on resume; returns the allowed differences, one line each.

    Args:
        run: the run folder, for the message.
        saved: the settings that the checkpoint was made with, as `model_dump` gives them.
        wanted: the settings to go on with.
        allow: what may differ.

    Raises:
        ConfigError: a difference that is not allowed; names key, old and new value.
    """
    before = parse_run(saved, str(run)).model_dump(mode="json")
    changes = {
        key: line for key, line in _differences(before, wanted.model_dump(mode="json")).items() if key not in FREE
    }
    fixed = [line for key, line in changes.items() if key.split(".")[0] in FIXED]
    if fixed:
        raise ConfigError(
            f"{run}: {'; '.join(fixed)}: that would be another model, which cannot resume this run; use another --out"
        )
    if changes and "settings" not in allow:
        raise ConfigError(
            f"{run}: cannot resume with other settings: {'; '.join(changes.values())}; leave them as they were, add "
            "--allow-change settings, or use another --out"
        )
    return list(changes.values())


def compare_data(run: Path, saved: Flat | None, wanted: Flat, allow: Collection[Change]) -> list[str]:
    """Compare the training data on resume; returns the allowed differences, one line each.

    Args:
        run: the run folder, for the message.
        saved: what `TrainingData.describe` returned for the run, or None for a checkpoint without it.
        wanted: what it returns now.
        allow: what may differ.

    Raises:
        ConfigError: they differ, and that is not allowed.
    """
    changes = [] if saved is None else list(_differences(saved, wanted).values())
    if changes and "data" not in allow:
        raise ConfigError(
            f"{run}: the training data has changed: {'; '.join(changes)}; restore it, add --allow-change data, or use "
            "another --out"
        )
    return changes


def describe_environment_changes(saved: Flat | None, now: Flat) -> list[str]:
    """Differences of machine and versions, which make the weights differ in rounding from those of an unbroken run."""
    changes = [] if saved is None else list(_differences({"processes": 1, **saved}, now).values())
    return [f"not bitwise the unbroken run: {'; '.join(changes)}"] if changes else []


def hash_settings(settings: Flat) -> str:
    """SHA-256 of settings, in hexadecimal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _differences(before: Flat, after: Flat) -> dict[str, str]:
    old, new = _flatten_settings(before), _flatten_settings(after)
    return {
        key: f"{key} was {_shorten_value(old.get(key))} and is {_shorten_value(new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }


def _shorten_value(value: Any) -> str:
    """A hash is shortened to its beginning."""
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def _flatten_settings(values: Flat, prefix: str = "") -> Flat:
    flat: Flat = {}
    for key, value in values.items():
        flat |= _flatten_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


_PACKAGES = ("jeppa", "torch", "accelerate", "diffusers", "numpy", "pillow", "safetensors")
_EXPORT = "export.tmp"
_HEAD = "model.sigma_head."
T = TypeVar("T")


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
            "config_sha256": hash_settings(self.config),
            "data": self.data,
            "environment": self.environment,
        }


@dataclass(frozen=True)
class OpenedRun:
    """A run folder ready to be written.

    Args:
        origin: for the checkpoints to come.
        checkpoint: where to go on, or None to start.
        notes: lines for the user.
    """

    origin: Origin
    checkpoint: Checkpoint | None
    notes: list[str]


def open_run(
    run: Path, config: RunConfig, inputs: dict[str, Any], resume: bool, allow: Collection[Change] = ()
) -> OpenedRun:
    """Check that `run` may be written or resumed, and prepare it; the caller holds its lock.

    Args:
        run: the run folder.
        config: all settings.
        inputs: what the run learns from, see `TrainingData.describe`.
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
    identity = _claim_run(run, config, checkpoint)
    return OpenedRun(Origin(identity, config.model_dump(mode="json"), inputs, environment), checkpoint, notes)


def store(run: Path, step: int, state: TrainState, origin: Origin) -> Checkpoint:
    """Export the averaged model into `run`, then save a checkpoint of it and of all that `restore` needs."""
    with state.use_average():
        published = _put_beside(run, state.objective.publish)
        averaged = {key: value.clone() for key, value in state.objective.state_dict().items()}
    content = {
        "step": step,
        "config": origin.config,
        "schedule": state.schedule.state_dict(),
        "ema_steps": state.ema.optimization_step,
        "published": published,
    }
    tensors = {"model": state.objective.state_dict(), "ema": averaged, "optimizer": _moments(state.optimizer)}
    return save_checkpoint(run, step, tensors, content, state.objective.config.optim.keep, origin.for_manifest())


def restore(checkpoint: Checkpoint, state: TrainState) -> None:
    """Put a checkpoint's state back, bit for bit; the learning rate follows the schedule of the present settings."""
    averaged = checkpoint.tensors("ema")
    try:
        state.objective.load_state_dict(averaged)
        shadows = [p.detach().clone() for group in state.optimizer.param_groups for p in group["params"]]
        state.objective.load_state_dict(checkpoint.tensors("model"))
    except RuntimeError:
        raise CheckpointError(
            f"{checkpoint.folder}: holds a model of another architecture; use the preset of its config.yaml"
        ) from None
    content = checkpoint.state()
    state.ema.shadow_params = shadows
    state.ema.optimization_step = content["ema_steps"]
    _restore_optimizer(state, _restore_schedule(state, content["schedule"]), checkpoint.tensors("optimizer"))


def _restore_schedule(state: TrainState, saved: dict[str, Any]) -> list[float]:
    """Go to the saved step of the present schedule; returns the learning rate of each group there."""
    schedule = state.schedule
    base_rates = schedule.base_lrs
    schedule.load_state_dict({**saved, "base_lrs": base_rates})
    rates = [
        float(rate) * factor(schedule.last_epoch) for rate, factor in zip(base_rates, schedule.lr_lambdas, strict=True)
    ]
    schedule._last_lr = [*rates]
    return rates


def _restore_optimizer(state: TrainState, rates: list[float], saved: dict[str, Tensor]) -> None:
    """The inverse of `_moments`."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    content = state.optimizer.state_dict()
    content["state"] = moments
    for group, rate in zip(content["param_groups"], rates, strict=True):
        group["lr"] = rate
    state.optimizer.load_state_dict(content)


def replace_sigma_head(run: Path, codec: LatentCodec) -> None:
    """Put a calibrated sigma head into the newest checkpoint of a finished VAE run, and export it.

    Raises:
        CheckpointError: there is no intact checkpoint, or it cannot be written.
    """
    checkpoint, passed_over = newest_checkpoint(run)
    if checkpoint is None or codec.vae.sigma_head is None:
        raise CheckpointError(f"{run}: {(*passed_over, 'no checkpoint with a sigma head in it')[0]}; train it first")
    head = {f"{_HEAD}{name}": value for name, value in codec.vae.sigma_head.state_dict().items()}
    curve = {name: value for name, value in head.items() if name.startswith(f"{_HEAD}curve.")}
    tensors = {
        "model": checkpoint.tensors("model") | curve,
        "ema": checkpoint.tensors("ema") | head,
        "optimizer": checkpoint.tensors("optimizer"),
    }
    state, manifest = checkpoint.state(), checkpoint.manifest()
    origin = {key: value for key, value in manifest.items() if key not in ("format", "step", "files")}
    save_checkpoint(run, checkpoint.step, tensors, state, state["config"]["optim"]["keep"], origin)
    _put_beside(run, codec.save)


def _put_beside(run: Path, write: Callable[[Path], T]) -> T:
    """Let `write` fill a folder, then move its files into `run` one by one, so that a kill leaves none half-written."""
    temporary = run / _EXPORT
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        written = write(temporary)
        for path in sorted(temporary.rglob("*")):
            target = run / path.relative_to(temporary)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                flush(path)
                os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


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
    """Raise an error for differences that are not allowed, and return the others as lines.

    The settings of the run are read from its checkpoint; config.yaml, which may have been edited, is used only if the
    checkpoint has none.
    """
    saved = None if checkpoint is None else checkpoint.state().get("config")
    if saved is None and (run / "config.yaml").exists():
        saved = load_run(run / "config.yaml").model_dump(mode="json")
    notes = [] if saved is None else compare_settings(run, saved, config, allow)
    manifest = {} if checkpoint is None else checkpoint.manifest()
    notes += compare_data(run, manifest.get("data"), inputs, allow)
    return notes + describe_environment_changes(manifest.get("environment"), environment)


def _claim_run(run: Path, config: RunConfig, checkpoint: Checkpoint | None) -> str:
    """Write settings and identity; a folder that cannot be written is thus reported before the first step."""
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
    """What else, beside settings and data, decides every bit of the weights."""
    return {
        "device": str(PartialState().device),
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
