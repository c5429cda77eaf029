"""Real processes to kill, signal and starve: forked from a server that has torch imported, so that one costs little.

The server itself never computes anything: a child forked from a process whose threads already work would hang.
"""

import ctypes
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["jeppa.cli", "jeppa.lab.demo", "jeppa.train", "torch.utils.tensorboard"]
CAP_DAC_OVERRIDE = 1 << 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Child:
    """A process at work; what it prints goes to `output`."""

    process: BaseProcess
    output: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code, minus the number of the signal that killed it; a process that hangs is killed and told."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s; it printed: {self.said()}")
        return self.process.exitcode

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def start(output: Path, work: Callable[..., object], *arguments: object) -> Child:
    """Run `work(*arguments)` in a process with one thread; an int that it returns is the exit code."""
    process = _server.Process(target=_main, args=(output, work, arguments), daemon=False)
    process.start()
    return Child(process, output)


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until `condition` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def one_clean_line(output: str) -> str:
    """The line that a user sees of a failure, after checking that there is one, and no traceback."""
    lines = [line for line in output.splitlines() if line.startswith("jeppa: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output, output
    return lines[0]


def obey_permissions() -> None:
    """Give up root's right to ignore permission bits (CAP_DAC_OVERRIDE); nobody else has it."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice 32 bits
    assert libc.capget(header, sets) == 0
    sets[0] &= ~CAP_DAC_OVERRIDE
    assert libc.capset(header, sets) == 0


def limit_file_size(size: int) -> None:
    """No file of this process may grow beyond `size` bytes: the disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def limit_memory(more: int) -> None:
    """This process may take `more` bytes of addresses than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def kill_before(event: str, pattern: str, count: int = 1) -> None:
    """Die by SIGKILL just before the `count`-th file operation of this kind on a path in which `pattern` is found.

    Python announces each operation as an audit event before doing it, see PEP 578. The empty string is any event.
    """
    left = [count]

    def watch(name: str, arguments: Sequence[Any]) -> None:
        if name not in _FILE_EVENTS or (event and name != event) or not re.search(pattern, str(arguments[0])):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"})


def _main(output: Path, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    import torch

    # As in a process of a user's own: readers are its children, not those of the server.
    multiprocessing.set_start_method("fork", force=True)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    code = work(*arguments)
    sys.exit(code if isinstance(code, int) else 0)
