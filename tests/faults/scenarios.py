"""What the processes of the training rows do, and the spoilt objectives that they train."""

import ctypes
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from children import kill_before, limit_file_size, limit_memory, obey_permissions
from runs import announced, few_statistics
from torch import Tensor

import jeppa.train
import jeppa.train.loop
import jeppa.train.vae
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


def peaks(config: VAERun, run: Path) -> int:
    """Train two steps and print the peaks of memory in MiB: of the start, of a step, of a save with a sheet."""
    found = []
    objective = VAEObjective(config)
    for record in train(objective, run):
        if record.step == 0:
            found.append(_take_peak())
        if record.step == 1:
            found.append(_take_peak())
    print(*found, _take_peak())
    return 0


def _take_peak() -> int:
    """Peak of resident memory in MiB since the last call."""
    words = Path("/proc/self/status").read_text().split()
    Path("/proc/self/clear_refs").write_text("5")
    return int(words[words.index("VmHWM:") + 1]) // 1024


def type_with_a_slow_step(arguments: list[str], slow: str, after: int) -> int:
    """Run a command line whose step behind `after` takes minutes; a file `slow` beside the settings appears then."""
    marker = Path(arguments[arguments.index("--config") + 1]).with_name("slow")
    steps = [0]

    def wait() -> None:
        if steps[0] > after:
            marker.touch()
            time.sleep(0.2)

    def slow_down(module: torch.nn.Module, _: Any, output: Tensor) -> None:
        if not isinstance(module, torch.nn.Conv2d) or not output.requires_grad:
            return
        if slow == "forward":
            wait()
        elif slow == "backward":
            output.register_hook(lambda _: wait())

    own_draw, own_batches = VAEObjective.draw, jeppa.train.vae.CropData.batches

    def draw(self: VAEObjective, *given: Any) -> Batch:
        steps[0] += 1
        return own_draw(self, *given)

    def batches(self: Any, *given: Any) -> Iterator[Batch]:
        for batch in own_batches(self, *given):
            if slow == "reading" and steps[0] >= after:
                marker.touch()
                time.sleep(300.0)
            yield batch

    VAEObjective.draw = draw  # type: ignore[method-assign]
    jeppa.train.vae.CropData.batches = batches  # type: ignore[assignment]
    torch.nn.modules.module.register_module_forward_hook(slow_down)
    jeppa.train.loop.PATIENCE = 1.0
    return type_command(arguments)


NOT_PERMITTED = 77
_CLONE_NEWNS, _MS_PRIVATE_RECURSIVE = 0x20000, 0x44000


def type_with_shared_memory(arguments: list[str], options: str) -> int:
    """Run a command line where /dev/shm is a file system of these options.

    Returns:
        Its exit code, or `NOT_PERMITTED` where none can be mounted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_PRIVATE_RECURSIVE, None):
        return NOT_PERMITTED
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "/dev/shm"], check=False).returncode:
        return NOT_PERMITTED
    return type_command(arguments)
