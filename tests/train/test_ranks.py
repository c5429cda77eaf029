"""Processes that train together take the steps of one, and end together."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from children import wait_for
from ranked import make_objective, run_command, start_ranks
from runs import command, draw_photos, everything, newest_step, settings

from jeppa.config import RunConfig, TextureRun, load_run, parse
from jeppa.errors import ConfigError
from jeppa.train import train
from jeppa.train.ranks import ALONE, Part, Ranks

CLOSE = 1e-5


@pytest.mark.parametrize(("whole", "count"), [(5, 2), (8, 3), (1, 2), (7, 7), (2, 5)])
def test_every_sample_of_a_batch_counts_in_one_process(whole: int, count: int):
    """Red when rows overlap, or a process without a row of its own counts that of another."""
    parts = [Ranks(rank, count).part(whole) for rank in range(count)]
    assert [row for part in parts if part.counts for row in part.rows] == list(range(whole))
    assert all(part.rows for part in parts)


def test_an_error_of_the_first_process_is_that_of_all():
    def refuse() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        ALONE.from_first(refuse)
    assert ALONE.from_first(lambda: 3) == 3
    assert Part(range(1, 3), 4).take(torch.arange(4)).tolist() == [1, 2]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def config_of(kind: str, photos: Path, diffusion_folder: Path) -> RunConfig:
    """Five crops, then one of twice the side, so that a process of two has none; what depends on the batch is on."""
    optim = {"batch_size": 5, "steps": 6, "save_every": 6, "precision": "exact", "log_every": 1, "sample_every": 100}
    if kind == "texture":
        data = {"data": str(photos), "resolution": 32, "sizes": 1}
        values: dict[str, Any] = {"vae": str(diffusion_folder), "replay": 10, "discriminator_channels": 8,
                                  "perceptual": 0.0, "adversarial": 1.0, "data": data, "optim": optim,
                                  "model": {"channels": 8, "blocks": 1}}  # fmt: skip
        return parse(TextureRun, values, "test")
    if kind == "denoiser":
        config = load_run(diffusion_folder / "config.yaml")
        return config.model_copy(update={"optim": config.optim.model_copy(update=optim)})
    optim["micro_batch"] = 2 if kind == "micro" else None
    return settings(photos, data={"sizes": 2}, optim=optim, rate=0.05, free_bits=0.02, likelihood="beta-nll")


@pytest.mark.parametrize("kind", ["vae", "micro", "denoiser", "texture"])
def test_two_processes_take_the_steps_of_one(kind: str, diffusion_folder: Path, tmp_path: Path):
    """Red when noise or data are those of the rank, when means are those of the own samples, when a sample that does
    not count does, or when processes keep weights of their own.
    """
    config = config_of(kind, draw_photos(tmp_path / "photos"), diffusion_folder)
    two = start_ranks(tmp_path / "two", 2, config, tmp_path / "two")
    (one,) = start_ranks(tmp_path / "one", 1, config, tmp_path / "one")
    assert [child.wait() for child in (*two, one)] == [0, 0, 0], [child.said() for child in (*two, one)]
    alone, first, second = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert losses(tmp_path / "two/run") == pytest.approx(losses(tmp_path / "one/run"), abs=CLOSE, rel=CLOSE)
    for key, value in alone.items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_lost_process_ends_the_others_with_a_line_and_one_goes_on(tmp_path: Path):
    """Red when the other process waits, prints a traceback, or spoils the last checkpoint."""
    config, folder = settings(draw_photos(tmp_path / "photos"), optim={"steps": 100_000}), tmp_path / "run"
    first, second = start_ranks(tmp_path, 2, command(config, folder), work=run_command)
    wait_for(lambda: newest_step(folder) >= 2)
    os.kill(second.pid, signal.SIGKILL)
    began = time.monotonic()
    assert first.wait(30.0) == 2, first.said()
    assert time.monotonic() - began < 30.0
    lines = [line for line in first.said().splitlines() if line.startswith("jeppa:")]
    assert len(lines) == 1
    assert "Traceback" not in first.said()
    assert "another process of this training ended" in lines[0]
    second.wait()
    step = newest_step(folder)
    assert step >= 2
    before = everything(folder)
    record = next(iter(train(make_objective(config), folder, resume=True)))
    assert record.step == step
    assert "processes was 2 and is 1" in record.note
    assert everything(folder).keys() == before.keys()


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path: Path):
    """Red when the process that got no signal goes on alone, or the other ends before the step is saved."""
    config, folder = settings(draw_photos(tmp_path / "photos"), optim={"steps": 100_000}), tmp_path / "run"
    children = start_ranks(tmp_path, 2, command(config, folder), work=run_command)
    wait_for(lambda: newest_step(folder) >= 2)
    children[1].signal(signal.SIGTERM)
    assert [child.wait(60.0) for child in children] == [143, 143], [child.said() for child in children]
    logged = (folder / "log.jsonl").read_text().splitlines()
    assert newest_step(folder) == json.loads(logged[-1])["step"]
    assert "everything is saved" in children[0].said()


def test_a_bad_input_is_one_line_of_all_processes(tmp_path: Path):
    """Red when every process prints it, or those that wait for the first report a lost one."""
    config = settings(draw_photos(tmp_path / "photos"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kind: vae\n")
    children = start_ranks(tmp_path, 2, command(config, tmp_path / "run"), work=run_command)
    assert [child.wait() for child in children] == [2, 2]
    assert [len([line for line in child.said().splitlines() if "jeppa:" in line]) for child in children] == [1, 0]
