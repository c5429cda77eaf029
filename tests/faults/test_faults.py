"""The fault scoreboard: one row of faults a test, `pytest tests/faults/test_faults.py -k F07` runs one.

The first line of a docstring is what is expected, as the table of `make faults` shows it; the rest says which guard was
taken away to see the test red. What a test saw, it tells through the fixture `seen`.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scenarios
import torch
from children import Child, one_clean_line, start, wait_for
from runs import (
    announced,
    command,
    differing,
    everything,
    finish,
    leftovers,
    newest_step,
    settings,
)

from jeppa.checkpoint import verify
from jeppa.cli import run as command_line
from jeppa.config import VAERun
from jeppa.data import CropDataset, write_png
from jeppa.errors import CheckpointError, ConfigError, TrainingError
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train

Seen = Callable[[str], None]

# ---------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps with checkpoints of steps 4 and 6; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    assert start(folder / "out.txt", announced, settings(photos), folder / "run", folder / "saved", False).wait() == 0
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def kill_and_compare(points: list[tuple[str, str, int]], photos: Path, tmp_path: Path) -> list[int]:
    """Kill one run before each of these operations in turn, finish it, compare; the steps it went on from."""
    config = settings(photos, optim={"steps": 2 * len(points) + 20, "keep": 1})
    whole = start(tmp_path / "whole.txt", announced, config, tmp_path / "whole", tmp_path / "whole.saved", False)
    run, saved, kept = tmp_path / "run", tmp_path / "saved", []
    saved.touch()
    for point in points:
        child = start(tmp_path / "out.txt", scenarios.die_before, *point, config, run, saved)
        assert child.wait() == -signal.SIGKILL, (point, child.said())
        kept.append(newest_step(run))
        assert kept[-1] >= max(map(int, saved.read_text().split()), default=0), point
    assert start(tmp_path / "out.txt", announced, config, run, saved, True).wait() == 0
    assert whole.wait() == 0
    assert differing(run, tmp_path / "whole") == []
    assert leftovers(run) == []
    return kept


def random_points(count: int) -> list[tuple[str, str, int]]:
    """Any file operation of the first hundred of a process."""
    dice = random.Random(1)
    return [("", "", dice.randint(1, 100)) for _ in range(count)]


def test_F01_twenty_kills_lose_nothing(photos: Path, tmp_path: Path, seen: Seen):
    """kill -9 at 20 points, each sub-step of a save among them: newest checkpoint loads, end bitwise equal.

    Compared are weights, averages, optimizer, state and log; noise is a function of (seed, step), so it is in the
    losses of the log. Red when the folder is renamed before its manifest is written, when pruning comes before the
    rename (with one checkpoint kept), and when averages are not restored.
    """
    points = [("open", r"latest\.tmp", 3)]  # in the second save, so that there is something to lose from now on
    points += [(event, pattern, 1) for event, pattern in scenarios.SUBSTEPS]
    points += random_points(20 - len(points))
    kept = kill_and_compare(points, photos, tmp_path)
    seen(f"{len(points)} kills, went on from steps {kept}; all equal at the end, no temporary file")


@pytest.mark.slow
def test_F01_kills_at_more_points_lose_nothing(photos: Path, tmp_path: Path, seen: Seen):
    """The same before each of the first 24 operations on temporary files, and at 12 more points.

    Red as above.
    """
    points = [("", r"\.tmp", count) for count in range(1, 25)] + random_points(12)
    kept = kill_and_compare(points, photos, tmp_path)
    seen(f"{len(points)} kills, went on from steps {kept}; all equal at the end, no temporary file")


def samples_of(config: VAERun, run: Path, stops: tuple[int, ...]) -> list[tuple[int, str]]:
    """The samples of a run that ends and is resumed after each of these steps, in order."""
    samples: list[tuple[int, str]] = []
    for stop in (*stops, config.optim.steps):
        objective = scenarios.LoggedObjective(config)
        for record in train(objective, config, run, resume=True):
            if record.step == stop:
                break
        samples += objective.samples
    return samples


@pytest.mark.parametrize("workers", [0, 2])
def test_F02_resume_sees_the_same_samples(
    workers: int, photos: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
):
    """Resumed mid-epoch, at an epoch's end, twice in one epoch: the same samples; a shuffled control differs.

    Five images, two a step, so an epoch ends after step 5. Red when `batches` starts at step 0 on resume; the control
    is the permutation drawn from an unseeded generator.
    """
    config = settings(photos, data={"workers": workers}, optim={"steps": 6, "save_every": 1})
    whole = samples_of(config, tmp_path / "whole", ())
    assert [position for position, _ in whole] == list(range(12))
    stops = {"mid-epoch": (3,), "epoch's end": (5,), "twice in an epoch": (1, 2)}
    for name, places in stops.items():
        assert samples_of(config, tmp_path / name, places) == whole, name
    monkeypatch.setattr(CropDataset, "_permutation", lambda self, _: np.random.default_rng().permutation(len(self)))
    assert samples_of(config, tmp_path / "control", (3,)) != whole
    seen(f"{workers} workers: {len(whole)} samples identical in {len(stops)} interrupted runs, control differs")


def trained_until(step: int, run: Path) -> Callable[[], bool]:
    """Whether the log has a line for this step."""
    return lambda: (run / "log.jsonl").exists() and len((run / "log.jsonl").read_text().splitlines()) >= step


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_F03_a_signal_saves_and_exits(number: signal.Signals, code: int, photos: Path, tmp_path: Path, seen: Seen):
    """SIGTERM or Ctrl-C, to readers too: step finished and saved, exit 143 or 130 within 10 s.

    The whole process group is signalled, as a terminal and batch systems do it. Red when readers keep the default
    action (the step fails for want of samples), and when the loop does not look at the signal.
    """
    config = settings(photos, data={"workers": 2}, optim={"steps": 10_000, "save_every": 10_000})
    run = tmp_path / "run"
    child = start(tmp_path / "out.txt", scenarios.type_in_a_group, command(config, run))
    wait_for(trained_until(3, run))
    began = time.monotonic()
    os.killpg(child.pid, number)
    assert child.wait(10.0) == code, child.said()
    seconds = time.monotonic() - began
    assert "everything is saved" in one_clean_line(child.said())
    logged = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert newest_step(run) == logged[-1] >= 3
    seen(f"{number.name}: exit {code} after {seconds:.1f} s, saved at step {logged[-1]}")


def test_F03_a_second_signal_exits_at_once(photos: Path, tmp_path: Path, seen: Seen):
    """A second signal while a slow save runs: exit at once, the old checkpoint intact.

    Red when the first signal leaves its handler in place.
    """
    config = settings(photos, optim={"steps": 10_000, "save_every": 10_000})
    run = tmp_path / "run"
    often = settings(photos, optim={"steps": 10_000, "save_every": 2})
    for _ in islice(train(VAEObjective(often), often, run), 3):
        pass
    marker = tmp_path / "saving"
    child = start(tmp_path / "out.txt", scenarios.type_slowly, command(config, run, "--resume"), marker)
    wait_for(trained_until(3, run))
    child.signal(signal.SIGTERM)
    wait_for(marker.exists)
    began = time.monotonic()
    child.signal(signal.SIGTERM)
    assert child.wait(10.0) == -signal.SIGTERM
    seconds = time.monotonic() - began
    assert seconds < 2.0
    assert newest_step(run) == 2
    assert "saved" not in child.said()
    seen(f"ended after {seconds:.2f} s in the middle of a save; step {newest_step(run)} intact")


def test_F04_a_full_disk_is_told_and_spares_what_is_there(finished: Path, photos: Path, tmp_path: Path, seen: Seen):
    """Disk full (RLIMIT_FSIZE): exit 2, one line, never "saved", no temporary file, the old checkpoint intact.

    Limits below the sizes of config.yaml, of the exports, of weights, and of the optimizer's file alone. Red when
    safetensors' own error is not caught, and when a failed save leaves its folder.
    """
    sizes = sorted(path.stat().st_size for path in (finished / "checkpoints" / "step-000000006").iterdir())
    limits = (1000, 4000, sizes[-2] - 1, sizes[-1] - 1)
    told = []
    for limit in limits:
        run = Path(shutil.copytree(finished, tmp_path / str(limit)))
        config = settings(photos, optim={"steps": 8})
        arguments = command(config, run, "--resume", "--allow-change", "settings")
        child = start(tmp_path / f"{limit}.txt", scenarios.type_with_full_disk, arguments, limit)
        assert child.wait() == 2, child.said()
        line = one_clean_line(child.said())
        assert "File too large" in line
        assert "saved" not in child.said()
        assert (newest_step(run), leftovers(run)) == (6, [])
        told.append(line.removeprefix("jeppa: ").partition(":")[0].removeprefix(f"{run}/"))
    seen(f"at limits of {limits} bytes exit 2, naming {told}; step 6 intact")


def test_F05_a_read_only_output_fails_before_the_first_step(photos: Path, tmp_path: Path, seen: Seen):
    """Read-only output: exit 2 before step 1, one line with the folder.

    A folder without the right to write, tried by a process that has given up root's power over permission bits
    (CAP_DAC_OVERRIDE); one below a file; and one on /proc. Red when folders are not tried out before training.
    """
    locked = tmp_path / "locked"
    (locked / "checkpoints").mkdir(parents=True)
    (locked / "samples").mkdir()
    (tmp_path / "file").touch()
    (locked / "checkpoints").chmod(0o555)
    told = []
    for out in (locked, tmp_path / "file" / "run", Path("/proc/jeppa")):
        arguments = ["train", "vae", "--preset", "tiny", "--data", str(photos), "--out", str(out)]
        child = start(tmp_path / f"{len(told)}.txt", scenarios.type_without_rights, arguments)
        assert child.wait() == 2, child.said()
        line = one_clean_line(child.said())
        assert str(out) in line
        assert "cannot be written" in line
        assert not (out / "log.jsonl").exists()
        told.append(line.partition("(")[2].partition(")")[0])
    seen(f"exit 2, no step: {told}")


def damage(path: Path, how: str) -> None:
    """Cut a file in half, or flip one bit in its middle."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes(flipped if how == "flip" else content[:middle])


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_F06_a_damaged_file_is_never_read(how: str, photos: Path, finished: Path, tmp_path: Path, seen: Seen):
    """A byte flipped or a file cut: resume takes the previous checkpoint and says so, its explicit path fails.

    Red when `verify` compares no hash (flip) and no size or hash (truncate).
    """
    config = settings(photos)
    names = sorted(path.name for path in (finished / "checkpoints" / "step-000000006").iterdir())
    for name in names:
        run = Path(shutil.copytree(finished, tmp_path / name))
        newest = run / "checkpoints" / "step-000000006"
        damage(newest / name, how)
        first = next(iter(train(VAEObjective(config), config, run, resume=True)))
        assert first.step == 4
        assert f"passed over {newest}" in first.note
        with pytest.raises(CheckpointError, match=r"hash|size|damaged|format"):
            load_model(newest)
        assert load_model(newest.with_name("step-000000004")).path == run
    seen(f"{how}: each of {names} found out, resumed from step 4, explicit path refused")


def test_F07_other_settings_are_refused(copied: Path, photos: Path, seen: Seen, capsys: pytest.CaptureFixture[str]):
    """Config differs on resume: the difference printed; architecture refused, the rest needs a flag.

    Red when differences are not compared, when the flag lets the architecture through, and when the schedule's saved
    learning rate wins over the new one.
    """

    def resume(*flags: str) -> str:
        code = command_line(["train", "vae", "--out", str(copied), "--resume", "--steps", "8", *flags])
        captured = capsys.readouterr()
        return one_clean_line(captured.err) if code == 2 else captured.out

    slower = ("--learning-rate", "1e-05")
    assert "optim.learning_rate was 0.003 and is 1e-05" in resume(*slower)
    refused = resume("--likelihood", "shared", "--allow-change", "settings")
    assert "likelihood was 'faithful' and is 'shared'" in refused
    assert "another model" in refused
    assert "seed was 0 and is 1" in resume("--seed", "1", "--allow-change", "settings")
    assert newest_step(copied) == 6
    allowed = resume(*slower, "--allow-change", "settings")
    assert "optim.learning_rate was 0.003 and is 1e-05" in allowed
    assert newest_step(copied) == 8
    rates = [json.loads(line)["lr"] for line in (copied / "log.jsonl").read_text().splitlines()]
    assert max(rates[:6]) > 1e-4
    assert max(rates[6:]) < 1e-5
    assert "optim.learning_rate was 1e-05" in resume("--learning-rate", "3e-3")
    seen(f"{refused.removeprefix('jeppa: ').partition(': ')[2]}; learning rate refused, then changed by the flag")


def test_F07_settings_that_change_nothing_are_free(copied: Path, photos: Path, seen: Seen):
    """Workers and intervals may differ without a flag; an edited config.yaml may not pass unseen.

    Red when the settings are compared with config.yaml and not with those in the checkpoint.
    """
    finish(settings(photos, data={"workers": 2}, optim={"log_every": 3}), copied, resume=True)
    file = copied / "config.yaml"
    file.write_text(file.read_text().replace("beta: 1.0", "beta: 0.5"))
    with pytest.raises(ConfigError, match=r"beta was 1\.0 and is 0\.5"):
        finish(settings(photos, beta=0.5), copied, resume=True)
    seen("log interval and workers changed; an edited beta found out")


def test_F08_other_images_are_refused(photos: Path, tmp_path: Path, seen: Seen):
    """Files added, removed or edited between runs: refused with the difference, unless flagged.

    Red when the fingerprint is not compared.
    """
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    config = settings(data)
    run = tmp_path / "run"
    finish(config, run)
    first, added = data / "train" / "0.png", data / "train" / "9.png"
    original = first.read_bytes()
    grey = np.full((40, 40, 3), 99, np.uint8)
    told = []
    for change, undo in (
        (lambda: write_png(grey, added), added.unlink),
        (first.unlink, lambda: first.write_bytes(original)),
        (lambda: write_png(grey, first), lambda: first.write_bytes(original)),
    ):
        change()
        with pytest.raises(ConfigError, match="training data has changed") as caught:
            finish(config, run, resume=True)
        told.append(str(caught.value).partition("changed: ")[2].partition(";")[0])
        undo()
    finish(config, run, resume=True)
    first.unlink()
    notes = next(iter(train(VAEObjective(config), config, run, resume=True, allow=("data",)))).note
    assert "images was 5 and is 4" in notes
    seen(f"refused: {told}; with the flag: told and resumed")


def test_F09_no_clock_decides_which_is_newest(copied: Path, photos: Path, seen: Seen):
    """Clocks a year off, equal times: the highest step is resumed and never pruned.

    Red when checkpoints are ordered by time of change.
    """
    year = 365 * 86400
    folders = sorted((copied / "checkpoints").iterdir())
    config = settings(photos, optim={"steps": 10})
    found = []
    for shifts in ((year, -year), (-year, year), (0, 0)):
        for folder, shift in zip(folders, shifts, strict=True):
            os.utime(folder, (1.7e9 + shift, 1.7e9 + shift))
        found.append(newest_step(copied))
    assert found == [6, 6, 6]
    for folder in folders:
        os.utime(folder, (time.time() + year,) * 2)
    finish(config, copied, resume=True, allow=("settings",))
    left = sorted(path.name for path in (copied / "checkpoints").iterdir())
    assert left == ["step-000000008", "step-000000010"]
    seen(f"newest by step {found}; with the old ones dated a year ahead, kept {left}")


def test_F09_checkpoints_of_another_run_are_left_alone(copied: Path, photos: Path, tmp_path: Path, seen: Seen):
    """Reused folder: higher steps of another run, or damaged ones, never displace this run's own.

    Red when the id in the manifest is not compared, and when damaged checkpoints count for pruning.
    """
    other = tmp_path / "other"
    finish(settings(photos, seed=1, optim={"steps": 8}), other)
    stranger = copied / "checkpoints" / "step-000000008"
    shutil.copytree(other / "checkpoints" / "step-000000008", stranger)
    assert newest_step(copied) == 6
    config = settings(photos, optim={"steps": 7, "keep": 1})
    finish(config, copied, resume=True, allow=("settings",))
    assert (newest_step(copied), verify(stranger)) == (7, None)
    with pytest.raises(CheckpointError, match="of another run"):
        finish(settings(photos, optim={"steps": 8}), copied, resume=True, allow=("settings",))
    shutil.rmtree(stranger)
    for step in (98, 99):  # another step's name: damaged
        shutil.copytree(copied / "checkpoints" / "step-000000007", copied / "checkpoints" / f"step-0000000{step}")
    finish(settings(photos, optim={"steps": 8, "keep": 1}), copied, resume=True, allow=("settings",))
    assert newest_step(copied) == 8
    (copied / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        finish(config, copied)
    seen("the stranger's step 8 passed over, kept and not overwritten; own steps 7 and 8 kept beside damaged 98 and 99")


@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_F10_a_step_with_nan_leaves_no_trace(name: str, photos: Path, tmp_path: Path, seen: Seen):
    """NaN in loss or gradient: step skipped, counted in the log and told; nothing saved or averaged has any.

    Red when the step is taken, and when buffers are not put back.
    """
    spoil = {"loss": scenarios.spoil_loss, "gradient": scenarios.spoil_gradient}[name]
    config = settings(photos)
    objective = scenarios.SpoiltObjective(config, scenarios.in_steps({3, 5}, spoil))
    notes = [record.note for record in train(objective, config, tmp_path / "run") if record.step]
    skipped = [json.loads(line)["skipped"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert skipped == [0, 0, 1, 0, 1, 0]
    told = {"loss": "loss, distortion is not finite", "gradient": "a gradient is not finite"}[name]
    assert [step + 1 for step, note in enumerate(notes) if told in note] == [3, 5]
    assert [key for key, value in everything(tmp_path / "run").items() if not bool(value.isfinite().all())] == []
    assert everything(tmp_path / "run")["model/model.updates"] == 4
    seen(f"NaN {name} in steps 3 and 5: skipped {skipped}, told {told!r}, all that is saved finite")


def test_F10_nan_that_stays_ends_the_run(photos: Path, tmp_path: Path, seen: Seen):
    """NaN in ten steps in a row, or in a weight at a save: the run ends, the last good checkpoint stays.

    Red when the count starts anew each step, and when `refuse_to_keep` is not asked.
    """
    config = settings(photos, optim={"steps": 100, "save_every": 2})
    told = []
    for name in ("loss", "weight"):
        spoil = scenarios.in_steps(set(range(4, 100)) if name == "loss" else set(), scenarios.spoil_loss)
        objective = scenarios.SpoiltObjective(config, spoil)
        records = train(objective, config, tmp_path / name)
        assert [record.step for record in islice(records, 4)] == [0, 1, 2, 3]
        if name == "weight":
            next(objective.parameters()).data.fill_(torch.nan)
        with pytest.raises(TrainingError, match="the last checkpoint is good") as caught:
            list(records)
        assert all(bool(value.isfinite().all()) for value in everything(tmp_path / name).values())
        assert load_model(tmp_path / name).path == tmp_path / name
        told.append(f"{str(caught.value).partition(': ')[2].partition(';')[0]} (newest {newest_step(tmp_path / name)})")
    assert "in 10 steps in a row, the last one 13" in told[0]
    assert "weight is not finite" in told[1]
    assert "newest 2" in told[1]
    seen("; ".join(told))


def test_F11_out_of_memory_suggests_a_batch_size(photos: Path, tmp_path: Path, seen: Seen):
    """Out of memory: exit 2, one line that suggests a batch size.

    100 MiB of address space are left for a step that needs more. Red without `told_plainly`, and when each image is
    read into a buffer for the largest one (then the images are blamed).
    """
    config = settings(photos, optim={"batch_size": 512})
    arguments = command(config, tmp_path / "run")
    child = start(tmp_path / "out.txt", scenarios.type_with_little_memory, arguments, 100 * 2**20)
    assert child.wait() == 2, child.said()
    line = one_clean_line(child.said())
    assert "try --batch-size 256" in line
    seen(line.removeprefix(f"jeppa: {tmp_path / 'run'}: "))


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_F12_a_reader_that_fails_ends_the_run(
    fault: str, photos: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
):
    """Loader worker killed or hung: an error within the timeout, no orphans.

    Red without a timeout (it hangs), and when readers that ignore SIGTERM are not killed.
    """
    monkeypatch.setattr("jeppa.train.workers.TIMEOUT", 3.0)
    config = settings(photos, data={"workers": 2}, optim={"steps": 1000, "save_every": 1000})
    if fault == "hung":
        monkeypatch.setattr(CropDataset, "__getitem__", scenarios.hang)
        monkeypatch.setattr(VAEObjective, "_start_linear", lambda _: None)
    records = train(VAEObjective(config), config, tmp_path / "run")
    next(records)
    if fault == "killed":
        next(records)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(TrainingError, match="reads images died or hung") as caught:
        for _ in records:
            pass
    seconds = time.monotonic() - began
    assert seconds < 10.0
    assert multiprocessing.active_children() == []
    seen(f"{fault}: after {seconds:.1f} s {str(caught.value).partition(': ')[2].partition(';')[0]!r}, no process left")


def test_F13_what_is_used_is_the_average(photos: Path, finished: Path, tmp_path: Path, seen: Seen):
    """EMA: what a run folder opens as is the average of the weights by its recursion; resumed equals continuous.

    Source of the recursion: diffusers' EMAModel, decay min(0.9, (1 + n) / (10 + n)). Red when the trained weights are
    opened, and when the averages are not restored.
    """
    config = settings(photos)
    shadows: dict[str, torch.Tensor] = {}
    for stop in (4, 6):
        objective = VAEObjective(config)
        for record in train(objective, config, tmp_path / "run", resume=True):
            weights = {key: value.detach().clone() for key, value in objective.model.vae.named_parameters()}
            if record.step == 0:
                shadows = weights
            elif record.note == "":
                n = record.step - 1
                decay = min(0.9, (1 + n) / (10 + n)) if n > 0 else 0.0
                shadows = {key: old + (1 - decay) * (weights[key] - old) for key, old in shadows.items()}
            if record.step == stop:
                break
    used = dict(load_model(tmp_path / "run").codec.vae.vae.named_parameters())
    worst = max(float((used[key] - value).abs().max()) for key, value in shadows.items())
    apart = max(float((used[key] - value).abs().max()) for key, value in weights.items())
    assert worst < 1e-6 < 1e-4 < apart
    assert differing(tmp_path / "run", finished) == []
    seen(f"used weights within {worst:.1e} of the recursion, {apart:.1e} from the trained ones; resumed bitwise equal")


def test_F14_a_folder_takes_one_run_at_a_time(photos: Path, tmp_path: Path, seen: Seen):
    """Two runs in one folder: the second is refused; kill -9 of the first frees it at once, readers or not.

    Red without the lock, and when readers that outlive the killed run keep it.
    """
    config = settings(photos, data={"workers": 2}, optim={"steps": 10_000, "save_every": 2})
    run = tmp_path / "run"
    first: Child = start(tmp_path / "out.txt", scenarios.type_command, command(config, run))
    wait_for(lambda: newest_step(run) >= 2)
    with pytest.raises(ConfigError, match=f"process {first.pid} is training in it") as caught:
        finish(config, run, resume=True)
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    step = newest_step(run)
    assert next(iter(train(VAEObjective(config), config, run, resume=True))).step == step
    seen(f"{str(caught.value).partition(': ')[2].replace(str(first.pid), 'N')}; after kill -9 resumed at step {step}")
