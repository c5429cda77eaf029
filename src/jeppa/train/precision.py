"""Which number format and memory layout to train in: measured on the real step, once for each machine and model.

bf16 convolutions are about ten times faster than fp32 on processors with AMX and hundreds of times slower on
those without any bf16 instructions, so nothing is assumed. A candidate must beat plain fp32 clearly to be
taken, and the choice is remembered, so that a run repeated on the same machine makes the same one.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from jeppa.checkpoint import write_text_atomically

CLEAR_WIN = 1.15
REPEATS = 3


@dataclass(frozen=True)
class Runtime:
    """How a model is run."""

    precision: str
    channels_last: bool
    reason: str

    @property
    def memory_format(self) -> torch.memory_format:
        """torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


Step = Callable[[Runtime], None]


def choose_runtime(wanted: str, model: nn.Module, batch_shape: tuple[int, ...], step: Step) -> Runtime:
    """The runtime for training `model`, measured when `wanted` is auto.

    Args:
        wanted: auto, fp32 or bf16, as in `OptimConfig.precision`.
        model: the model on its device; only its shapes and device are looked at here.
        batch_shape: shape of one training batch, part of the key under which the choice is remembered.
        step: runs one forward and backward pass under a given runtime and changes nothing.
    """
    device = next(model.parameters()).device
    if wanted != "auto":
        return Runtime(wanted, wanted == "bf16", "as configured")
    if device.type != "cpu":
        return Runtime("bf16", True, f"{device.type} device")
    if not _bf16_is_native():
        return Runtime("fp32", False, "bf16 matrix products are slower than fp32 on this processor")
    key = _key(model, batch_shape)
    remembered = _remembered().get(key)
    if remembered is not None:
        return Runtime(str(remembered["precision"]), bool(remembered["channels_last"]), str(remembered["reason"]))
    choice = _measure(step)
    _remember(key, choice)
    return choice


def _measure(step: Step) -> Runtime:
    plain = Runtime("fp32", False, "")
    candidates = [Runtime("bf16", True, ""), Runtime("bf16", False, ""), Runtime("fp32", True, "")]
    base = _seconds(partial(step, plain))
    best, best_seconds = plain, base / CLEAR_WIN
    for candidate in candidates:
        seconds = _seconds(partial(step, candidate))
        if seconds < best_seconds:
            best, best_seconds = candidate, seconds
    gain = base / best_seconds if best is not plain else 1.0
    return Runtime(best.precision, best.channels_last, f"measured {gain:.1f} times plain fp32 a step")


def _seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _bf16_is_native() -> bool:
    """Whether a small bf16 matrix product beats an fp32 one; emulated bf16 is hundreds of times slower."""

    def product_seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        return _seconds(lambda: torch.mm(matrix, matrix))

    return product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def _key(model: nn.Module, batch_shape: tuple[int, ...]) -> str:
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    content = repr((torch.__version__, torch.get_num_threads(), os.cpu_count(), batch_shape, shapes))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jeppa" / "runtime.json"


def _remembered() -> dict[str, dict[str, str | bool]]:
    try:
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(key: str, choice: Runtime) -> None:
    path = _cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps({**_remembered(), key: asdict(choice)}))
    except OSError:
        return  # A read-only home only costs measuring again.
