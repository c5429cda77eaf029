"""SIGTERM and Ctrl-C: the run ends after the current step, or without it if it takes long, and its state is saved.

Schedulers of clusters and containers send SIGTERM and kill a few seconds later. A step at a high resolution can take
longer than that. So a stop that came while a batch was read does not wait for it, and a step is abandoned when it goes
on for more than `PATIENCE` seconds. Nothing of an abandoned step remains.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Interrupted(BaseException):
    """A signal stopped the run after its state was saved; `128 + signal_number` is the exit code."""

    def __init__(self, signal_number: int, how: str = "--resume", saved: bool = True) -> None:
        state = "everything is saved, go on" if saved else "no step was finished, begin anew"
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {state} with {how}")
        self.signal_number = signal_number


class StepAbandoned(BaseException):
    """A signal came while a batch was read, or longer than `PATIENCE` ago; the state is that before the step."""


PATIENCE = 4.0
"""Seconds that a step may go on after a signal: with the save, a stop is to take less than ten."""


class StopSignal:
    """Within its `with` block, a first SIGINT or SIGTERM is only remembered; a second one stops the process at once.

    In a block with `patience` a remembered one can raise `StepAbandoned`. Elsewhere it never does, so that no change
    of the state is left half made.

    Args:
        watched: the model that one process trains alone. None where several train together, which would wait for the
            one that abandons its step: each step is then finished.
    """

    def __init__(self, watched: nn.Module | None = None) -> None:
        self._watched = watched
        self._number: int | None = None
        self._came = 0.0
        self._patience = math.inf
        self._before: dict[int, Any] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def interrupt(self, saved: bool = True) -> None:
        """Raise `Interrupted` for the signal that came, to this process or to another one of the training."""
        raise Interrupted(self._number or signal.SIGTERM, saved=saved)

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Within the block, a signal that came so long ago raises `StepAbandoned`: for 0 seconds it does so at once."""
        self._patience = math.inf if self._watched is None else seconds
        try:
            self._check()
            yield
        finally:
            self._patience = math.inf

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        if self._watched is not None and next(self._watched.parameters()).device.type == "cpu":
            convolutions = (module for module in self._watched.modules() if isinstance(module, nn.Conv2d))
            self._hooks = [module.register_forward_hook(self._look) for module in convolutions]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for hook in self._hooks:
            hook.remove()

    def _look(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        """Check at each convolution on the way forward and back.

        A whole backward pass is one call of torch, in which Python handles no signal unless something calls it back.
        """
        self._check()
        if output.requires_grad:
            output.register_hook(lambda _: self._check())

    def _check(self) -> None:
        """Raise `StepAbandoned` if the patience is exhausted."""
        if self.received and time.monotonic() - self._came >= self._patience:
            raise StepAbandoned

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number, self._came = number, time.monotonic()
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._patience == 0.0:
            raise StepAbandoned
