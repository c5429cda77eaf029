"""What can stop a training run: no memory, a full disk, a dead reader, NaN, a second process.

Each fault is reported in one line and loses nothing that was saved:

- a step with NaN or infinity in its loss or gradient changes no weight, and such weights are never saved;
- a lock admits one training process to a run folder;
- the death of a process that reads images, and a lack of the memory that it shares, are told from other failures;
- so is the death of a process that trains with this one.

What happens on a signal is in `jeppa.train.signals`, and the processes that read are in `jeppa.train.readers`.
"""

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from safetensors import SafetensorError
from torch import Tensor, nn

from jeppa.checkpoint import newest_checkpoint
from jeppa.config import OptimConfig
from jeppa.errors import ConfigError, TrainingError
from jeppa.machine import lacks_memory
from jeppa.train.ranks import is_lost_process
from jeppa.train.readers import describe_shared_memory, lacks_shared_memory
from jeppa.train.step import TrainState

# Errors of the disk, not of a program that asks for a file which does not exist.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES})
_READER = "DataLoader"
_SYSTEM = "os error"  # in messages of safetensors about the disk, not about the content of a file


@contextmanager
def explain_failures(run: Path, optim: OptimConfig, resolution: int) -> Iterator[None]:
    """Turn an error of memory, disk or readers within the block into a `TrainingError` with its remedy.

    All other errors pass through.

    Args:
        run: the run folder, whose checkpoints stay as they are.
        optim: settings of the run, to suggest a smaller batch.
        resolution: of the run, to suggest a smaller one.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, SafetensorError) as error:
        line = _describe(error, run, optim, resolution)
        if line is None:
            raise
        raise TrainingError(line) from None


def _describe(error: Exception, run: Path, optim: OptimConfig, resolution: int) -> str | None:
    text = " ".join(str(error).split())
    if is_lost_process(error):
        return (
            f"{run}: another process of this training ended; {_what_is_saved(run)}: start all of them again with "
            "--resume, with as many processes as you like"
        )
    if lacks_memory(error):
        return f"{run}: out of memory {_remedy(optim, resolution)}"
    if _SYSTEM in text if isinstance(error, SafetensorError) else getattr(error, "errno", None) in _DISK:
        path = getattr(error, "filename", None) or run
        return f"{path}: could not be written ({text[:160]}); {_what_is_saved(run)}: make room, then use --resume"
    if lacks_shared_memory(error):
        return (
            f"{run}: the processes that read images have too little shared memory: {describe_shared_memory()} "
            f"({text[-120:]}); {_what_is_saved(run)}: use --resume with --workers 0, or give /dev/shm more room, as "
            "docker run --shm-size 1g does"
        )
    if isinstance(error, RuntimeError) and _READER in text:
        return (
            f"{run}: a process that reads images died or hung ({text[:160]}); {_what_is_saved(run)}: use --resume, "
            "with fewer --workers if it happens again"
        )
    return None


def _what_is_saved(run: Path) -> str:
    """Which checkpoint is there to go on from, if any."""
    checkpoint, _ = newest_checkpoint(run)
    return "nothing was saved yet" if checkpoint is None else f"the checkpoint of step {checkpoint.step} is intact"


def _remedy(optim: OptimConfig, resolution: int) -> str:
    """What to try next. Micro batches change nothing but memory, so a run can go on with them as it is."""
    at_a_time = min(optim.batch_size, optim.micro_batch or optim.batch_size)
    allow = "(with --resume also --allow-change settings)"
    if at_a_time == 1:
        remedy = f"--resolution {max(8, resolution // 16 * 8)} {allow}"
    elif optim.micro_batch is None:
        half = at_a_time // 2
        remedy = f"--batch-size {half} {allow}, or --micro-batch {half} for the same result"
    else:
        remedy = f"--micro-batch {at_a_time // 2}"
    return f"at batch size {optim.batch_size}, resolution {resolution}, {at_a_time} at a time; try {remedy}"


BAD_STEPS_IN_A_ROW = 10


def blame(model: nn.Module, terms: dict[str, Tensor]) -> str:
    """Say what is not finite: a weight, or else terms of the loss `[B]`, or else the gradient."""
    weight = next(_non_finite(dict(model.named_parameters())), None)
    bad = [key for key, value in terms.items() if not bool(value.isfinite().all())]
    if weight is not None:
        return f"the weight {weight}"
    return ", ".join(bad) if bad else "a gradient"


def check_finite(run: Path, step: int, state: TrainState) -> None:
    """Raise `TrainingError` if anything in the model, its average or the optimizer is not finite."""
    moments = state.optimizer.state_dict()["state"]
    named = {
        **state.objective.state_dict(),
        **{f"average {index}": value for index, value in enumerate(state.ema.shadow_params)},
        **{
            f"{name} {index} of the optimizer": value
            for index, entry in moments.items()
            for name, value in entry.items()
        },
    }
    bad = next(_non_finite(named), None)
    if bad is not None:
        raise TrainingError(f"{run}: {bad} is not finite after step {step}, so it is not saved; {REMEDY}")


REMEDY = (
    "the last checkpoint is good: go on with --resume --allow-change settings and a lower --learning-rate or "
    "--precision exact"
)


def explosion(run: Path, step: int, culprit: str) -> str:
    """The message that ends a run whose steps are skipped one after the other."""
    return f"{run}: {culprit} was not finite in {BAD_STEPS_IN_A_ROW} steps in a row, the last one {step}; {REMEDY}"


def _non_finite(tensors: dict[str, Tensor]) -> Iterator[str]:
    return (name for name, value in tensors.items() if not bool(value.isfinite().all()))


LOCK = "lock"


class RunLock:
    """Within its `with` block, no other process can train in `run`.

    The kernel holds the lock, so it ends with the process, however that ends, and is never stale. The file `run/lock`
    stays; its content only shows a person which process holds it.

    Raises:
        ConfigError: another process trains in `run`, or `run` cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        path = self._run / LOCK
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8", errors="replace").strip()[:20]
            self.release()
            raise ConfigError(
                f"{self._run}: process {owner or 'unknown'} is training in it; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            self.release()
            raise ConfigError(f"{self._run}: cannot be written ({error.strerror}); choose another --out") from None
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())
        _held.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock in this process; a parent or child that shares it keeps it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """Release all locks in a new worker: one that outlives a killed run must not keep its lock."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
