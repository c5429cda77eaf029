"""Kill real training runs at random moments, go on, and compare the end with a run that nobody disturbed.

    PYTHONPATH=tests/faults python results/kills.py --kills 200 --seconds 1800

A run trains the tiny VAE on builtin:photos for 60 steps on one thread and saves after every second step. A process is
killed by SIGKILL at a moment drawn evenly from nought to one and a half times the time that it takes to its first save;
the next one goes on with the newest intact checkpoint. When a run is done, it begins again in another folder, until the
number of kills is reached. Every process is forked from a server that has torch imported and has computed nothing, so
that a kill costs seconds less; a kill falls on what a process does after that: reading pictures, restoring, stepping,
saving. The latent's statistics are taken over 8 crops in place of 512, so that a save takes a fraction of a second, and
every save is flushed to the disk as always. SIGKILL spares what the system has taken over for writing; a power cut is
not simulated. Writes `kills.json` and `kills.md` beside this file.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from children import Child, start
from runs import announced, differing, leftovers, newest_step, settings

from jeppa.machine import commit, machine

HERE = Path(__file__).parent
STEPS = 60


@dataclass
class Run:
    """What happened to one run.

    Args:
        kills: how many processes were killed.
        during_saves: how many of them while a checkpoint or an export was being written.
        resumed_from: step of the newest intact checkpoint after each kill.
        lost: kills after which a step that had been reported as saved was not there.
        differing: tensors, states and log lines that are not bitwise those of the undisturbed run.
        leftovers: temporary files in the folder at the end.
    """

    kills: int = 0
    during_saves: int = 0
    resumed_from: list[int] = field(default_factory=list)
    lost: int = 0
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def disturb(kills: int, deadline: float, patience: float, whole: Path, folder: Path, dice: random.Random) -> Run:
    """Train one run to its end with at most `kills` kills, none of them after `deadline`, and compare with `whole`."""
    run, saved, result = folder / "run", folder / "saved", Run()
    saved.touch()
    while True:
        began = time.time()
        child = begin(run, saved)
        if result.kills < kills and time.monotonic() < deadline:
            child.process.join(dice.uniform(0.0, patience))
            child.process.kill()
        code = child.wait(600.0)
        if code == 0:
            break
        assert code == -9, child.said()
        result.kills += 1
        result.during_saves += any(Path(path).stat().st_mtime > began for path in leftovers(run))
        result.resumed_from.append(newest_step(run))
        result.lost += result.resumed_from[-1] < max(map(int, saved.read_text().split()), default=0)
    result.differing, result.leftovers = differing(run, whole), leftovers(run)
    return result


def begin(run: Path, saved: Path) -> Child:
    """A process that trains, or goes on training, in `run`."""
    config = settings("builtin:photos", data={"sizes": 3}, optim={"steps": STEPS})
    return start(saved.with_suffix(".txt"), announced, config, run, saved, True)


def train_undisturbed(run: Path) -> float:
    """Train to the end; seconds until the first save was reported."""
    saved = run.with_suffix(".saved")
    saved.touch()
    start(saved.with_suffix(".txt"), int).wait(600.0)  # the server imports torch before anything is timed
    began = time.monotonic()
    child, first = begin(run, saved), 0.0
    while child.process.is_alive():
        if not first and saved.read_text():
            first = time.monotonic() - began
        time.sleep(0.01)
    assert child.wait() == 0, child.said()
    return first


def main(kills: int, seconds: float, seed: int) -> int:
    """Disturb run after run; returns 1 if anything was lost or differs."""
    began, dice, runs = time.monotonic(), random.Random(seed), list[Run]()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        patience = 1.5 * train_undisturbed(whole)
        while (left := kills - sum(run.kills for run in runs)) > 0 and time.monotonic() - began < seconds:
            place = Path(folder) / str(len(runs))
            place.mkdir()
            runs.append(disturb(left, began + seconds, patience, whole, place, dice))
            print(runs[-1], flush=True)  # noqa: T201 - progress of half an hour's work
    record = {
        "command": "PYTHONPATH=tests/faults python results/kills.py " + " ".join(sys.argv[1:]),
        "seed": seed,
        "commit": commit(),
        "machine": machine(),
        "seconds": round(time.monotonic() - began),
        "runs": [asdict(run) for run in runs],
    }
    (HERE / "kills.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "kills.md").write_text(table(record))
    return int(any(run.lost or run.differing or run.leftovers for run in runs))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    runs = record["runs"]
    lines = [
        "# Kills at random moments",
        "",
        f"`{record['command']}`, seed {record['seed']}, at commit {record['commit']}; {record['seconds']} s on "
        f"{record['machine']['processor']}, {record['machine']['cores']} cores (one thread a run), torch "
        f"{record['machine']['torch']}, fp32.",
        "",
        f"{sum(run['kills'] for run in runs)} processes were killed by SIGKILL, "
        f"{sum(run['during_saves'] for run in runs)} of them while they wrote a checkpoint or an export. "
        f"{sum(run['lost'] for run in runs)} kills lost a step that had been reported as saved. "
        f"{sum(not run['differing'] for run in runs)} of {len(runs)} runs end bitwise equal to the undisturbed one "
        f"in weights, averages, optimizer, state and log; "
        f"{sum(bool(run['leftovers']) for run in runs)} left temporary files.",
        "",
        "| run | kills | during a save | lost | differing | went on from steps |",
        "|---|---|---|---|---|---|",
    ]
    for index, run in enumerate(runs, 1):
        cells = (index, run["kills"], run["during_saves"], run["lost"], len(run["differing"]))
        lines.append("| " + " | ".join(map(str, cells)) + f" | {', '.join(map(str, run['resumed_from']))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill training runs at random moments and compare their ends.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1800.0, help="no kill after this time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    sys.exit(main(given.kills, given.seconds, given.seed))
