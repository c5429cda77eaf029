"""Trainings that the page starts, as the same command that it shows, and what any run folder tells of itself."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeppa.errors import ConfigError

LOG_BYTES = 8 * 2**20
SAMPLE_BYTES = 64 * 2**20
LINES = 200
STOP_SECONDS = 6.0
"""So long the studio's end waits for its trainings, which were told to save and do so without it too."""
PRESETS = ("tiny", "small", "sd")


def train_command(data: str, out: str, preset: str, steps: int, resolution: int, resume: bool = False) -> list[str]:
    """Arguments of `jeppa` for a VAE training.

    Raises:
        ConfigError: a folder is not named, or the preset is unknown.
    """
    if not data.strip() or not out.strip():
        raise ConfigError("data and out: name the folder of pictures and the run folder to write")
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}, but must be one of {', '.join(PRESETS)}")
    flags = ["--out", out.strip()]
    if resume:
        return ["train", "vae", *flags, "--resume"]
    return [
        "train", "vae", "--data", data.strip(), *flags, "--preset", preset, "--steps", str(steps),
        "--resolution", str(resolution), "--log-every", "10", "--sample-every", "100", "--save-every", "100",
    ]  # fmt: skip


def as_typed(arguments: Sequence[str]) -> str:
    """The command as a person types it."""
    return shlex.join(["jeppa", *arguments])


@dataclass
class Training:
    """A training in a process of its own."""

    process: subprocess.Popen[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.process.poll() is None


class Trainings:
    """The trainings that this studio started, by run folder."""

    def __init__(self) -> None:
        self._by_run: dict[str, Training] = {}
        self._lock = threading.Lock()

    def start(self, run: str, arguments: Sequence[str], minutes: float) -> Training:
        """Start the command; after so many minutes it is stopped as by `stop` (0: never).

        Raises:
            ConfigError: a training goes on in that folder.
        """
        with self._lock:
            known = self._by_run.get(run)
            if known is not None and known.running:
                raise ConfigError(f"{run}: a training goes on in this folder; stop it first")
            process = subprocess.Popen(
                [sys.executable, "-m", "jeppa", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C in the studio's terminal is not for it
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            training = Training(process)
            self._by_run[run] = training
        threading.Thread(target=_read, args=(training,), daemon=True).start()
        if minutes > 0.0:
            timer = threading.Timer(60.0 * minutes, process.terminate)
            timer.daemon = True
            timer.start()
        return training

    def get(self, run: str) -> Training | None:
        """The training of that folder, if this studio started it."""
        return self._by_run.get(run)

    def stop(self, run: str) -> bool:
        """SIGTERM, after which the step is finished and saved; whether there was one to stop."""
        training = self._by_run.get(run)
        if training is None or not training.running:
            return False
        training.process.terminate()
        return True

    def close(self) -> None:
        """Stop all, and wait a little until they have saved."""
        for run in list(self._by_run):
            self.stop(run)
        for training in self._by_run.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                training.process.wait(STOP_SECONDS)


def _read(training: Training) -> None:
    stream = training.process.stdout
    assert stream is not None
    for line in stream:
        training.lines.append(line.rstrip()[:500])
    training.process.wait()


def read_run_log(run: Path) -> list[dict[str, Any]]:
    """The lines of `log.jsonl`, in order; a half-written last one is left out.

    Raises:
        ConfigError: no run folder is there.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such run folder")
    path = run / "log.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            raw = file.read(LOG_BYTES)
    except OSError:
        return []
    lines = []
    for line in raw.decode("utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append(found)
    return lines


def series(log: Sequence[dict[str, Any]], key: str, most: int = 400) -> tuple[list[float], list[float]]:
    """Steps and values of one figure, thinned out evenly to at most `most` points."""
    pairs = [(float(line["step"]), float(line[key])) for line in log if isinstance(line.get(key), int | float)]
    every = -(-len(pairs) // most) if pairs else 1
    kept = pairs[::every]
    if pairs and kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return [step for step, _ in kept], [value for _, value in kept]


def newest_sample(run: Path) -> bytes:
    """The newest sample sheet, a PNG; empty where there is none yet."""
    try:
        sheets = sorted((run / "samples").glob("step-*.png"))
        if not sheets or sheets[-1].stat().st_size > SAMPLE_BYTES:
            return b""
        return sheets[-1].read_bytes()
    except OSError:
        return b""
