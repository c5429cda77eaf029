"""Samples in batches, read by processes beside the training one, which neither die unseen nor outlive it."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import active_children
from typing import Any

from torch.utils.data import DataLoader, Dataset

TIMEOUT = 300.0
"""Seconds to wait for a batch before its reader counts as hung."""


def load_batches(dataset: Dataset[Any], keys: Iterable[list[Any]], workers: int) -> Iterator[Any]:
    """The batch of each list of keys, in order; with `workers` above 0 read by that many processes.

    Raises:
        RuntimeError: it names the DataLoader, when a worker was killed or gave nothing for `TIMEOUT` seconds.
    """
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
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # it died while it was handing a batch over
        raise RuntimeError(f"DataLoader worker went away ({error})") from error
    finally:
        del batches  # asks the workers to stop
        with suppress(RuntimeError):  # torch reports each worker that is killed
            for worker in own:
                worker.kill()
                worker.join()


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and many batch systems signal every process, but the parent needs its readers to finish the step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
