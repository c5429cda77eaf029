"""What a piece of code does to the machine: processor time, memory, processes, files written, modules imported."""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

MIB = 2**20
_PROCESS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"})
_NETWORK = frozenset({"socket.connect", "socket.getaddrinfo"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_active: list["Watch"] = []


class Watch:
    """Context that observes its block.

    Attributes:
        seconds: of processor time, which a busy machine does not change; the limit of pytest catches what sleeps.
        growth_mib: highest resident memory in the block less that at its start; Linux only.
        processes: names of audit events that start one.
        connections: names of audit events that reach for the network.
        written: paths opened for writing.
        imported: names of modules asked for, whether or not they were found.
    """

    def __init__(self) -> None:
        self.seconds = self.growth_mib = 0.0
        self.processes: list[str] = []
        self.connections: list[str] = []
        self.written: list[str] = []
        self.imported: list[str] = []

    def __enter__(self) -> Self:
        # Writing 5 sets the peak, VmHWM, back to what is resident now.
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
        self._resident = _status("VmRSS")
        _active.append(self)
        self._began = time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.seconds = time.process_time() - self._began
        _active.remove(self)
        self.growth_mib = (_status("VmHWM") - self._resident) / 1024


def _status(key: str) -> int:
    """An entry of /proc/self/status in KiB."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key))


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _active:
        if event in _PROCESS:
            watch.processes.append(event)
        elif event in _NETWORK:
            watch.connections.append(event)
        elif event == "import":
            watch.imported.append(arguments[0])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            watch.written.append(str(arguments[0]))


sys.addaudithook(_hook)
