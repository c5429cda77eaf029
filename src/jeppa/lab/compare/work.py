"""The runs of a comparison, each in a process of its own that trains, measures and reports how far it is.

    python -m jeppa.lab.compare.work TASK.json

A worker prints a JSON object about once a second and skips what an earlier one has finished.

`WorkerPool` starts the workers, gives each its share of the cores and passes on what they print. Small networks make
poor use of two cores: two runs at once with one thread each finish sooner than two runs in turn with two threads. A
signal stops all workers, and each saves its state.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeppa.config import VAERun
from jeppa.data import open_data
from jeppa.errors import JeppaError, TrainingError
from jeppa.files import write_text_atomically
from jeppa.lab.compare.plan import Run
from jeppa.lab.evaluate import evaluate
from jeppa.pipeline import load_model
from jeppa.train import Interrupted, VAEObjective, train

GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class WorkerMessage:
    """What a worker printed, or how it ended: with an exit code and, under `error`, its last line on standard error."""

    run: Run
    values: dict[str, Any]
    code: int | None = None


class WorkerPool:
    """Starts each run as soon as a job is free and the runs that it depends on have finished.

    Args:
        jobs: how many run at once.
        task: writes the file that tells a worker what to do; returns None while the run has to wait for another one.
    """

    def __init__(self, jobs: int, task: Callable[[Run], Path | None]) -> None:
        self._jobs = jobs
        self._task = task
        self._messages: queue.Queue[WorkerMessage] = queue.Queue()
        self._working: dict[str, subprocess.Popen[str]] = {}

    def follow(self, runs: list[Run]) -> Iterator[WorkerMessage]:
        """Work through all `runs`; yields the messages of the workers.

        Raises:
            TrainingError: a run failed; the others are stopped and save their state.
            Interrupted: a signal came; all are stopped and save their state.
        """
        waiting = list(runs)
        with _raise_on_signals():
            try:
                while waiting or self._working:
                    self._start(waiting)
                    message = self._messages.get()
                    if message.code is not None:
                        del self._working[message.run.name]
                        if message.code:
                            raise TrainingError(f"{message.run.folder}: {message.values['error']}")
                    yield message
            finally:
                self._stop()

    def _start(self, waiting: list[Run]) -> None:
        for run in list(waiting):
            if len(self._working) >= self._jobs:
                return
            task = self._task(run)
            if task is not None:
                waiting.remove(run)
                self._working[run.name] = self._spawn(run, task)

    def _spawn(self, run: Run, task: Path) -> subprocess.Popen[str]:
        threads = str(max(1, (os.cpu_count() or 1) // self._jobs))
        process = subprocess.Popen(
            [sys.executable, "-m", "jeppa.lab.compare.work", str(task)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        threading.Thread(target=self._listen, args=(run, process), daemon=True).start()
        return process

    def _listen(self, run: Run, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        drain.start()
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                self._messages.put(WorkerMessage(run, json.loads(line)))
        code = process.wait()
        drain.join()
        last = errors[-1].strip() if errors else f"stopped with code {code}"
        self._messages.put(WorkerMessage(run, {"error": last}, code))

    def _stop(self) -> None:
        for process in self._working.values():
            process.terminate()
        for process in self._working.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _raise_on_signals() -> Iterator[None]:
    """Raise `Interrupted` on SIGINT and SIGTERM within the block; does nothing outside the main thread."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(number, "the same command")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


REPORT_SECONDS = 1.0
EVALUATION = "evaluation.json"


def run_task(task: Path) -> int:
    """Do the task; exit codes and the line on standard error are those of the command line."""
    try:
        content = json.loads(task.read_text(encoding="utf-8"))
        work(
            Path(content["run"]),
            VAERun.model_validate(content["settings"]),
            int(content["images"]),
            content["evaluate_at"],
        )
    except (JeppaError, Interrupted) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 128 + error.signal_number if isinstance(error, Interrupted) else 2
    return 0


def work(run: Path, settings: VAERun, images: int, evaluate_at: int | None) -> None:
    """Train to the end, then measure at most `images` held-out pictures, whole or as squares of side `evaluate_at`."""
    objective = VAEObjective(settings)
    began, reported = time.perf_counter(), 0.0
    for record in train(objective, run, resume=True):
        if time.perf_counter() - reported >= REPORT_SECONDS or record.step == record.total:
            reported = time.perf_counter()
            _print_message(step=record.step, images_per_second=record.images_per_second)
    seconds = time.perf_counter() - began
    _print_message(step=settings.optim.steps, phase="measuring")
    source = open_data(settings.data, "heldout")
    evaluation = evaluate(load_model(run).codec.vae, source, evaluate_at, run.name, limit=images)
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    content = {**dataclasses.asdict(evaluation), "parameters": parameters, "train_seconds": round(seconds, 1)}
    write_text_atomically(run / EVALUATION, json.dumps(content, allow_nan=False) + "\n")


def _print_message(**values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201 - standard output is the channel to the parent


if __name__ == "__main__":
    sys.exit(run_task(Path(sys.argv[1])))
