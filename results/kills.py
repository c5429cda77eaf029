"""What is lost when training is killed? Real runs are killed at random moments, resumed, and compared at their end.

    PYTHONPATH=tests/faults python -m results.kills --kills 200 --seconds 1800

A run trains the tiny VAE on builtin:photos for 60 steps on one thread and saves after every second step. A process is
killed by SIGKILL at a moment drawn evenly between its start and one and a half times the time that it takes to its
first save; the next process resumes from the newest intact checkpoint. When a run has ended, the next one begins in
another folder, until there have been enough kills. The end of every run is compared with that of an undisturbed one.

Every process is forked from a server that has imported torch and computed nothing, which saves seconds for each kill.
So a kill meets what a process does after its imports: reading pictures, restoring, training, saving. The statistics of
the latent are measured on 8 crops instead of 512, so that a save takes a fraction of a second; it is flushed to the
disk as always. What the operating system has accepted for writing survives SIGKILL, so a power cut is not simulated.
Writes `kills.json` and `kills.md`.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from children import Child, start
from runs import announced, differing, leftovers, newest_step, settings

from results.record import (
    Json,
    join_lines,
    list_numbers,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    study_parser,
)

STEPS = 60


@dataclass
class Run:
    """What happened to one run.

    Args:
        kills: processes that were killed.
        during_saves: those of them that were writing a checkpoint or an export.
        resumed_from: step of the newest intact checkpoint after each kill.
        lost: kills after which a step that had been reported as saved was missing.
        differing: tensors, states and log lines that are not bitwise those of the undisturbed run.
        leftovers: temporary files in the folder at the end.
    """

    kills: int = 0
    during_saves: int = 0
    resumed_from: list[int] = field(default_factory=list)
    lost: int = 0
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code, 1 if anything was lost or differs."""
    parser = study_parser("kills", __doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill")
    parser.add_argument("--seconds", type=float, default=1800.0, help="no process is killed after this time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    return run_study(parser, kill_runs, arguments)


def kill_runs(options: argparse.Namespace) -> int:
    """Disturb one run after another and write the record; returns 1 if anything was lost or differs."""
    began, rng, runs = time.monotonic(), random.Random(options.seed), list[Run]()
    deadline = began + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        longest = 1.5 * train_undisturbed(undisturbed)
        while (left := options.kills - sum(run.kills for run in runs)) > 0 and time.monotonic() < deadline:
            place = Path(folder) / str(len(runs))
            place.mkdir()
            runs.append(disturb(left, deadline, longest, undisturbed, place, rng))
            report_progress(str(runs[-1]))
    figures = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "runs": [asdict(run) for run in runs],
    }
    save_record(f"PYTHONPATH=tests/faults {options.command}", options.out / "kills", figures, render)
    return int(any(run.lost or run.differing or run.leftovers for run in runs))


def disturb(kills: int, deadline: float, longest: float, undisturbed: Path, folder: Path, rng: random.Random) -> Run:
    """Train one run to its end, kill its processes on the way, and compare it with the undisturbed run.

    Args:
        kills: at most so many.
        deadline: no kill after this moment of `time.monotonic`.
        longest: seconds after which a process is killed at the latest.
        undisturbed: run folder to compare with.
        folder: for the run.
        rng: draws the moments.
    """
    run, saved, result = folder / "run", folder / "saved", Run()
    saved.touch()
    while True:
        began = time.time()
        child = start_training(run, saved)
        if result.kills < kills and time.monotonic() < deadline:
            child.process.join(rng.uniform(0.0, longest))
            child.process.kill()
        code = child.wait(600.0)
        if code == 0:
            break
        assert code == -signal.SIGKILL, child.said()
        result.kills += 1
        result.during_saves += any(Path(path).stat().st_mtime > began for path in leftovers(run))
        result.resumed_from.append(newest_step(run))
        result.lost += result.resumed_from[-1] < max(map(int, saved.read_text().split()), default=0)
    result.differing, result.leftovers = differing(run, undisturbed), leftovers(run)
    return result


def start_training(run: Path, saved: Path) -> Child:
    """Start a process that trains in `run`, or resumes there, and lists in `saved` every step that it has saved."""
    config = settings("builtin:photos", data={"sizes": 3}, optim={"steps": STEPS})
    return start(saved.with_suffix(".txt"), announced, config, run, saved, True)


def train_undisturbed(run: Path) -> float:
    """Train to the end; returns the seconds until the first save was reported."""
    saved = run.with_suffix(".saved")
    saved.touch()
    start(saved.with_suffix(".txt"), int).wait(600.0)  # the server imports torch before anything is timed
    began = time.monotonic()
    child, first_save = start_training(run, saved), 0.0
    while child.process.is_alive():
        if not first_save and saved.read_text():
            first_save = time.monotonic() - began
        time.sleep(0.01)
    assert child.wait() == 0, child.said()
    return first_save


def render(record: Json) -> str:
    """The record as Markdown."""
    runs, about = record["runs"], record["machine"]
    headers = ["run", "kills", "during a save", "lost", "differing", "went on from steps"]
    rows = [
        [
            index,
            run["kills"],
            run["during_saves"],
            run["lost"],
            len(run["differing"]),
            list_numbers(run["resumed_from"]),
        ]
        for index, run in enumerate(runs, 1)
    ]
    return join_lines([
        "# Kills at random moments",
        "",
        f"`{record['command']}`, seed {record['seed']}, at commit {record['commit']}; {record['seconds']} s on "
        f"{about['processor']}, {about['cores']} cores (one thread a run), torch {about['torch']}, fp32.",
        "",
        f"{sum(run['kills'] for run in runs)} processes were killed by SIGKILL, "
        f"{sum(run['during_saves'] for run in runs)} of them while they wrote a checkpoint or an export. "
        f"{sum(run['lost'] for run in runs)} kills lost a step that had been reported as saved. "
        f"{sum(not run['differing'] for run in runs)} of {len(runs)} runs end bitwise equal to the undisturbed one "
        f"in weights, averages, optimizer, state and log; "
        f"{sum(bool(run['leftovers']) for run in runs)} left temporary files.",
        "",
        markdown_table(headers, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
