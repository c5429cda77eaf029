"""What a machine does to a run, told in one line: no memory, no room on the disk, a reader that died."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from jeppa.config import OptimConfig
from jeppa.errors import TrainingError
from jeppa.memory import lacks_memory

# Errors of a disk, as against those of a program that asks for a file which is not there.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES})
_READER = "DataLoader"
_SYSTEM = "os error"  # in what safetensors says of a disk, as against a file that is none of its own


@contextmanager
def told_plainly(run: Path, optim: OptimConfig, resolution: int) -> Iterator[None]:
    """Turn such an error within the block into a `TrainingError` with its remedy; all others pass through.

    Args:
        run: the run folder, whose checkpoints stay as they are.
        optim: that of the run, to suggest a smaller batch.
        resolution: that of the run, to suggest a smaller one.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, SafetensorError) as error:
        line = _line(error, run, optim, resolution)
        if line is None:
            raise
        raise TrainingError(line) from None


def _line(error: Exception, run: Path, optim: OptimConfig, resolution: int) -> str | None:
    text = " ".join(str(error).split())
    if lacks_memory(error):
        return f"{run}: out of memory {_remedy(optim, resolution)}"
    if _SYSTEM in text if isinstance(error, SafetensorError) else getattr(error, "errno", None) in _DISK:
        path = getattr(error, "filename", None) or run
        return f"{path}: could not be written ({text[:160]}); the checkpoints are intact: make room, then use --resume"
    if isinstance(error, RuntimeError) and _READER in text:
        return (
            f"{run}: a process that reads images died or hung ({text[:160]}); the checkpoints are intact: use "
            "--resume, with fewer --workers if it happens again"
        )
    return None


def _remedy(optim: OptimConfig, resolution: int) -> str:
    """Micro batches change nothing but memory, so a run goes on with them as it is."""
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
