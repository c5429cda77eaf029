"""Trainings from the page: the command that is shown is the command that is run."""

import json
import shlex
import time
from pathlib import Path

import pytest

from jeppa.errors import ConfigError
from jeppa.studio.runs import Trainings, as_typed, newest_sample, read_run_log, series, train_command


def test_the_shown_command_is_the_one_that_runs():
    flags = train_command("my pictures", "runs/a", "tiny", 50, 32)
    assert shlex.split(as_typed(flags)) == ["jeppa", *flags]
    assert flags[:6] == ["train", "vae", "--data", "my pictures", "--out", "runs/a"]
    assert train_command("x", "runs/a", "tiny", 50, 32, resume=True) == ["train", "vae", "--out", "runs/a", "--resume"]
    with pytest.raises(ConfigError, match="name the folder"):
        train_command(" ", "runs/a", "tiny", 50, 32)
    with pytest.raises(ConfigError, match="preset is 'huge'"):
        train_command("x", "runs/a", "huge", 50, 32)


def test_a_log_is_read_while_it_is_written(tmp_path: Path):
    lines = [json.dumps({"step": step, "psnr": float(step)}) for step in range(1, 1001)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 1001, "ps', encoding="utf-8")
    log = read_run_log(tmp_path)
    assert len(log) == 1000
    steps, values = series(log, "psnr", most=100)
    assert len(steps) <= 101
    assert steps[-1] == values[-1] == 1000
    assert series(log, "loss") == ([], [])
    assert newest_sample(tmp_path) == b""
    with pytest.raises(ConfigError, match="no such run folder"):
        read_run_log(tmp_path / "none")


@pytest.mark.slow
def test_a_training_is_started_stopped_and_resumed(tmp_path: Path):
    trainings = Trainings()
    run = str(tmp_path / "run")
    trainings.start(run, train_command("builtin:photos", run, "tiny", 100_000, 32), 0)
    with pytest.raises(ConfigError, match="goes on in this folder"):
        trainings.start(run, ["train"], 0)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (Path(run).is_dir() and read_run_log(Path(run))):
        time.sleep(0.5)
    assert trainings.stop(run)
    training = trainings.get(run)
    assert training is not None
    assert training.process.wait(60) == 143
    assert not trainings.stop(run)
    stopped = read_run_log(Path(run))[-1]["step"]
    assert newest_sample(Path(run)).startswith(b"\x89PNG")
    trainings.start(run, train_command("builtin:photos", run, "tiny", 100_000, 32, resume=True), 0)
    while time.monotonic() < deadline and read_run_log(Path(run))[-1]["step"] <= stopped:
        time.sleep(0.5)
    trainings.close()
    assert read_run_log(Path(run))[-1]["step"] > stopped
