"""What the processes of the training rows do, and the spoilt objectives that they train."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from children import kill_before, limit_file_size, limit_memory, obey_permissions
from runs import announced, few_statistics
from torch import Tensor

import jeppa.train
from jeppa.cli import run as command_line
from jeppa.config import VAERun
from jeppa.train import StepRecord, VAEObjective, train
from jeppa.train.step import Batch, Terms

# Each step of a save in its order: the file operation, and the path (a regular expression) before which to die.
SUBSTEPS = (
    ("os.mkdir", r"export\.tmp$"),
    ("os.rename", r"export\.tmp/vae/.*\.safetensors"),
    ("os.mkdir", r"step-\d+\.tmp$"),
    ("open", r"step-\d+\.tmp/state\.json"),
    ("open", r"step-\d+\.tmp/model\.safetensors"),
    ("open", r"step-\d+\.tmp/manifest\.json"),
    ("os.rename", r"step-\d+\.tmp$"),
    ("open", r"latest\.tmp"),
    ("os.rename", r"latest\.tmp"),
    ("shutil.rmtree", r"checkpoints/step-\d+$"),
)


def die_before(event: str, pattern: str, count: int, config: VAERun, run: Path, saved: Path) -> None:
    """Train, resuming, until a file operation kills."""
    kill_before(event, pattern, count)
    announced(config, run, saved, resume=True)


def type_command(arguments: list[str]) -> int:
    """Run a command line."""
    few_statistics()
    return command_line(arguments)


def type_slowly(arguments: list[str], marker: Path) -> int:
    """Run a command line whose saves take half a minute; `marker` appears when one begins."""

    def wait(_: VAEObjective, __: Path) -> None:
        marker.touch()
        time.sleep(30.0)

    VAEObjective.publish = wait  # type: ignore[assignment]
    return type_command(arguments)


def type_in_a_group(arguments: list[str]) -> int:
    """Run a command line in a process group of its own, as a shell does."""
    os.setsid()
    return type_command(arguments)


def type_with_full_disk(arguments: list[str], size: int) -> int:
    """Run a command line that cannot write a file beyond `size` bytes."""
    limit_file_size(size)
    return type_command(arguments)


def type_with_little_memory(arguments: list[str], more: int) -> int:
    """Run a command line whose training has `more` bytes of memory to take."""

    def starved(*given: Any) -> Iterator[StepRecord]:
        limit_memory(more)
        return train(*given)

    jeppa.train.train = starved
    return type_command(arguments)


def type_without_rights(arguments: list[str]) -> int:
    """Run a command line as somebody for whom permission bits bind."""
    obey_permissions()
    return type_command(arguments)


class LoggedObjective(VAEObjective):
    """Keeps what identifies each sample it was given: position in the run and a hash of the pixels."""

    def __init__(self, config: VAERun) -> None:
        super().__init__(config)
        self.samples: list[tuple[int, str]] = []

    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        for position, x in zip(batch["position"].tolist(), batch["x"], strict=True):
            self.samples.append((position, hashlib.sha256(x.numpy().tobytes()).hexdigest()))
        return super().forward(batch, means)


class SpoiltObjective(VAEObjective):
    """Calls `spoil(objective, step, terms)` in each step from 1 on."""

    def __init__(self, config: VAERun, spoil: Callable[["SpoiltObjective", int, dict[str, Tensor]], None]) -> None:
        super().__init__(config)
        self._spoil = spoil
        self._step = 0

    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        self._step += 1
        terms = super().forward(batch, means)
        self._spoil(self, self._step, terms)
        return terms


def spoil_loss(objective: SpoiltObjective, step: int, terms: dict[str, Tensor]) -> None:
    """NaN in the distortion and in the loss, as an overflow gives it."""
    terms["loss"] = terms["loss"] * torch.nan
    terms["distortion"] = terms["distortion"] * torch.nan


def spoil_gradient(objective: SpoiltObjective, step: int, terms: dict[str, Tensor]) -> None:
    """A finite loss with a NaN gradient."""
    terms["loss"].register_hook(lambda gradient: gradient * torch.nan)


def in_steps(
    steps: set[int], spoil: Callable[[SpoiltObjective, int, dict[str, Tensor]], None]
) -> Callable[[SpoiltObjective, int, dict[str, Tensor]], None]:
    """`spoil` in these steps only."""
    return lambda objective, step, terms: spoil(objective, step, terms) if step in steps else None


def hang(*_: Any) -> Iterator[None]:
    """Never give a sample."""
    signal.pause()
    raise AssertionError("woken")
