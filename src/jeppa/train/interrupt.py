"""Stopping a training run by a signal without losing anything."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(BaseException):
    """A signal stopped the run after its state was saved; `128 + signal_number` is the exit code."""

    def __init__(self, signal_number: int, how: str = "--resume") -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; everything is saved, go on with {how}")
        self.signal_number = signal_number


class StopSignal:
    """Within its `with` block, a first SIGINT or SIGTERM is remembered and a second one acts at once."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def interrupt(self) -> None:
        """Raise `Interrupted` for the signal that came."""
        assert self._number is not None
        raise Interrupted(self._number)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
