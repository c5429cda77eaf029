"""One training process to a run folder."""

import fcntl
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from jeppa.errors import ConfigError

LOCK = "lock"


class RunLock:
    """Within its `with` block, no other process can train in `run`.

    The kernel holds the lock, so it ends with the process, however that ends, and is never stale. The file `run/lock`
    stays; its content only tells a person who holds it.

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
        """Let go in this process; a parent or child that shares the lock keeps it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """A worker that outlives a killed run must not keep its lock."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
