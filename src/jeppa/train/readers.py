"""Processes that read images for the training process: none outlives it, and what stops them is told.

They hand over batches in shared memory, a file system of its own at /dev/shm. Containers give it 64 MiB or less, and
some mount it read-only.
"""

import multiprocessing
import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

TIMEOUT = 300.0
"""Seconds to wait for a batch before its reader counts as hung."""
SHARED = Path("/dev/shm")
_SIGNS = re.compile(r"shared memory|Bus error|</torch_\d+|\bshm\b")


class SharedMemoryError(RuntimeError):
    """Shared memory cannot be used at all."""


def load_batches(dataset: Dataset[Any], keys: Iterable[list[Any]], workers: int) -> Iterator[Any]:
    """The batch of each list of keys, in order; with `workers` above 0 read by that many processes.

    Raises:
        RuntimeError: it names the DataLoader, when a worker was killed or gave nothing for `TIMEOUT` seconds, or
            shared memory, when there is too little of it.
    """
    if workers:
        _check_semaphores(workers)
    before = set(active_children())
    batches = iter(
        DataLoader(
            dataset,
            batch_sampler=keys,
            num_workers=workers,
            timeout=TIMEOUT if workers else 0,
            worker_init_fn=_leave_signals_to_the_parent,
        )
    )
    own = set(active_children()) - before
    try:
        yield from batches
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # a worker died while it was handing over a batch
        raise RuntimeError(f"DataLoader worker went away ({error})") from error
    finally:
        del batches  # asks the workers to stop
        with suppress(RuntimeError):  # torch reports each worker that is killed
            for worker in own:
                worker.kill()
                worker.join()


def lacks_shared_memory(error: BaseException) -> bool:
    """Whether an error of a reader means that there is too little shared memory, or none."""
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def describe_shared_memory() -> str:
    """What is the matter with shared memory, as in `/dev/shm has 64 KiB, 0 KiB of them free`."""
    try:
        status = os.statvfs(SHARED)
    except OSError as error:
        return f"{SHARED} cannot be used ({error.strerror})"
    if status.f_flag & os.ST_RDONLY:
        return f"{SHARED} is read-only"
    size, free = (blocks * status.f_frsize // 1024 for blocks in (status.f_blocks, status.f_bavail))
    return f"{SHARED} has {size:,} KiB, {free:,} KiB of them free"


def _check_semaphores(workers: int) -> None:
    """Make as many semaphores as the queues of a DataLoader need: it fails half made, and Python prints tracebacks."""
    try:
        locks = [multiprocessing.Lock() for _ in range(_SEMAPHORES + _SEMAPHORES_A_WORKER * workers)]
    except OSError as error:
        raise SharedMemoryError(f"no semaphore in shared memory: {error.strerror}") from error
    del locks


_SEMAPHORES, _SEMAPHORES_A_WORKER = 9, 3


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ignore signals. Ctrl-C and batch systems signal every process, but the parent needs its readers for the step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
