"""What ends or delays a run that had no need to: the rows from F53 on.

Each row is a kind of fault that was found in the field, tried on inputs that it was not found with.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import scenarios
from children import one_clean_line, start, wait_for

from jeppa.checkpoint import Checkpoint, newest_checkpoint
from jeppa.cli import _find_training
from jeppa.cli import run as command_line
from jeppa.errors import TrainingError
from jeppa.train import VAEObjective, loop, train
from jeppa.train.shown import STATISTICS_PIXELS, STATISTICS_SIDE, count_crops

Seen = Callable[[str], None]


def lose_folder(photos: Path) -> None:
    """The folder is renamed."""
    photos.rename(photos.with_name("moved"))


def spoil_heldout(photos: Path) -> None:
    """Every held-out picture becomes a text."""
    for path in (photos / "val").iterdir():
        path.write_text("words")


def spoil_all(photos: Path) -> None:
    """Every picture loses its end."""
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("spoil", [lose_folder, spoil_heldout, spoil_all])
def test_F53_the_source_goes_away(spoil: Callable[[Path], None], photos: Path, tmp_path: Path, seen: Seen) -> None:
    """The source is renamed or spoilt when every picture is in memory: the run goes on, draws its sheets and is saved.

    Red when a sheet opens the source anew.
    """
    own = Path(shutil.copytree(photos, tmp_path / "photos"))
    records = train(VAEObjective(runs.settings(own, optim={"sample_every": 2})), tmp_path / "run")
    for record in records:
        if record.step == 3:
            spoil(own)
        assert "sheet" not in record.note
    assert runs.newest_step(tmp_path / "run") == 6
    sheets = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert sheets == ["step-000002.png", "step-000004.png", "step-000006.png"]
    seen(f"{spoil.__name__}: saved at step 6, {len(sheets)} sheets")


def test_F53_a_sheet_that_fails_is_a_note(photos: Path, tmp_path: Path, seen: Seen) -> None:
    """Sheets cannot be written, from the second on: a note says so, and every checkpoint is there.

    Red when the sheet is drawn before the checkpoint is stored, and when its failure ends the run.
    """
    run = tmp_path / "run"
    notes = []
    for record in train(VAEObjective(runs.settings(photos, optim={"sample_every": 2})), run):
        if record.step == 2:
            shutil.rmtree(run / "samples")
            (run / "samples").write_text("in the way")
        notes += [record.note] if "sheet" in record.note else []
    assert len(notes) == 2
    assert "step-000004.png" in notes[0]
    assert runs.newest_step(run) == 6
    seen(notes[0].replace(str(tmp_path), ""))


def test_F53_nothing_to_hold_out(photos: Path, tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    """One image: refused before the first step, with the flag that trains on it all the same.

    Red when the held-out split is opened at the first sheet. With the flag nothing is held out, whatever the folders
    say, and a line tells so.
    """
    lines = []
    for name in ("one", "alone/sub"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(photos / "train" / "0.png", tmp_path / name / "a.png")
        run = tmp_path / f"run-{len(lines)}"
        command = runs.command(runs.settings(tmp_path / name), run)
        capsys.readouterr()
        assert command_line(command) == 2
        lines.append(capsys.readouterr().err.strip())
        assert "\n" not in lines[-1]
        assert "--heldout none" in lines[-1]
        assert not (run / "checkpoints").exists()
        assert command_line([*command, "--heldout", "none"]) == 0
        assert "nothing is held out: all 1 images" in capsys.readouterr().out
        assert runs.newest_step(run) == 6
    whole = runs.settings(photos, data={"heldout": "none"})
    assert len(VAEObjective(whole).data.source) == runs.IMAGES + 1
    seen(lines[0].replace(str(tmp_path), ""))


def test_F54_statistics_are_bounded_by_pixels(seen: Seen) -> None:
    """At any resolution the crops kept for statistics have at most 8.4 million pixels, and there are at least 32.

    Red when their number is the same at every resolution.
    """
    sides = [min(resolution, STATISTICS_SIDE) for resolution in range(8, 8193, 8)]
    pixels = [count_crops(side) * side**2 for side in sides]
    assert max(pixels) <= STATISTICS_PIXELS == 512 * 128**2
    seen(f"at most {max(pixels):,} pixels at {len(sides)} resolutions")


@pytest.mark.slow
def test_F54_starting_and_saving_need_no_more_memory_than_a_step(photos: Path, tmp_path: Path, seen: Seen) -> None:
    """A run at 512 pixels: the peaks of memory of its start and of a save are at most 1.25 times that of a step.

    Red when 512 whole crops are held at once.
    """
    config = runs.settings(photos, data={"resolution": 512}, optim={"batch_size": 4, "sample_every": 2})
    child = start(tmp_path / "out.txt", scenarios.peaks, config, tmp_path / "run")
    assert child.wait() == 0, child.said()
    started, step, saved = (int(word) for word in child.said().splitlines()[-1].split())
    assert max(started, saved) <= 1.25 * step
    seen(f"peaks in MiB: start {started}, step {step}, save and sheet {saved}")


@pytest.mark.parametrize("slow", ["forward", "backward", "reading"])
def test_F54_a_stop_does_not_wait_for_a_long_step(slow: str, photos: Path, tmp_path: Path, seen: Seen) -> None:
    """SIGTERM in a step, or while a batch is read that takes long: the state before it is saved at once.

    What is resumed equals an undisturbed run bit for bit. Red when the step is finished, when nothing interrupts the
    backward pass, and when the wait for a batch goes on.
    """
    run, config = tmp_path / "run", runs.settings(photos, optim={"save_every": 100})
    child = start(tmp_path / "out.txt", scenarios.type_with_a_slow_step, runs.command(config, run), slow, 3)
    wait_for((tmp_path / "slow").exists)
    began = time.monotonic()
    child.signal(signal.SIGTERM)
    assert child.wait(10.0) == 143, child.said()
    seconds = time.monotonic() - began
    assert "everything is saved" in one_clean_line(child.said())
    assert runs.newest_step(run) == 3
    runs.finish(config, run, resume=True)
    runs.finish(config, tmp_path / "undisturbed")
    assert [name for name in runs.differing(run, tmp_path / "undisturbed") if name != "log.jsonl"] == []
    seen(f"in {slow}: exit 143 after {seconds:.1f} s, saved at step 3")


@pytest.mark.parametrize("options", ["size=16k", "size=600k", "ro,size=1m", "nr_inodes=4"])
def test_F55_shared_memory(options: str, photos: Path, tmp_path: Path, seen: Seen) -> None:
    """A tiny, read-only or full /dev/shm with workers: it is named, with --workers 0, and no checkpoint is promised.

    Red when the failure is one of the disk or of a reader. With --workers 0 the same run goes on to its end.
    """
    config = runs.settings(photos, data={"resolution": 64, "workers": 2}, optim={"batch_size": 16})
    command = runs.command(config, tmp_path / "run")
    child = start(tmp_path / "out.txt", scenarios.type_with_shared_memory, command, options)
    code = child.wait()
    if code == scenarios.NOT_PERMITTED:
        pytest.skip("no rights to mount a file system")
    assert code == 2, child.said()
    line = one_clean_line(child.said())
    for word in ("/dev/shm", "--workers 0", "nothing was saved yet"):
        assert word in line
    assert newest_checkpoint(tmp_path / "run")[0] is None
    again = [*command, "--resume", "--workers", "0"]
    child = start(tmp_path / "again.txt", scenarios.type_with_shared_memory, again, options)
    assert child.wait() == 0, child.said()
    seen(line.replace(str(tmp_path), "").removeprefix("jeppa: "))


@pytest.mark.parametrize(("failing", "told"), [(2, "nothing was saved yet"), (4, "the checkpoint of step 2 is intact")])
def test_F55_only_what_is_there_is_promised(
    failing: int, told: str, photos: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the first save and at the second: the message says what is saved, and nothing else.

    Red when it always says that the checkpoints are intact.
    """
    own = loop.store

    def store(run: Path, step: int, *others: Any) -> Checkpoint:
        if step == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return own(run, step, *others)

    monkeypatch.setattr(loop, "store", store)
    with pytest.raises(TrainingError, match=told) as caught:
        runs.finish(runs.settings(photos), tmp_path / "run")
    seen(str(caught.value).replace(str(tmp_path), ""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "told"),
    [({}, "GOMP_SPINCOUNT = '0'"), ({"OMP_WAIT_POLICY": "active"}, "GOMP_SPINCOUNT = '30000000000'")],
)
def test_F56_threads_that_wait_sleep(own: dict[str, str], told: str, tmp_path: Path, seen: Seen) -> None:
    """OpenMP is told to let waiting threads sleep before torch loads it, unless the user has said otherwise.

    Red when the policy is not set, or torch is loaded first: libgomp then spins 300,000 times. What it gains and costs
    is measured in `results/threads.md`.
    """
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {**own, "OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-m", "jeppa", "reconstruct", "--model", "none", "--input", "none", "--out", "out"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert told in done.stderr.decode()
    seen(told)


def test_F53_figures_of_a_run_that_held_nothing_out(photos: Path, tmp_path: Path, seen: Seen) -> None:
    """What such a run is measured on is all of its images, and the line about them says what that is worth.

    Red when the held-out part of its own data is measured, which it was trained on.
    """
    run = tmp_path / "run"
    runs.finish(runs.settings(photos, data={"heldout": "none"}, optim={"steps": 1}), run)
    moved = shutil.copytree(photos, tmp_path / "moved")
    found = [_find_training(run, str(folder), 0.01, None) for folder in (photos, moved)]
    assert [one and one.heldout for one in found] == ["none", "none"]
    assert _find_training(run, str(photos / "train"), 0.01, None) is None
    seen("known by its path, and by its fingerprint in another place")
