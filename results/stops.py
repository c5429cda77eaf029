"""What do starting, training and saving need at a resolution, and how soon is a signal answered?

    python -m results.stops --resolutions 64,512,1024

Each run is `jeppa train vae --preset small --batch-size 1` on builtin:photos in a process of its own. Peaks of resident
memory are read from the kernel (VmHWM of /proc), which is set back between the phases: until the first step begins, in
a number of steps, and from SIGTERM to the end of the process, in which the run is saved. The signal comes at the
moment that is worst for it, just after a step of the largest crops began. Writes `stops.json` and `stops.md`.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    study_parser,
)


@dataclass(frozen=True)
class Stop:
    """What one run needed.

    Args:
        resolution: side of the smallest crops in pixels.
        sizes: crops of this many sizes in turn, each twice the last.
        start_seconds: from the start of the process to its first step.
        step_seconds: of the longest step that was measured.
        stop_seconds: from the signal to the end of the process.
        start_mib: peak of memory until the first step.
        train_mib: peak of memory in the steps.
        stop_mib: peak of memory from the signal on.
        exit_code: 143 where the run was saved.
        saved_step: of the newest checkpoint.
        last_step: the last one that was finished before the signal.
    """

    resolution: int
    sizes: int
    start_seconds: float
    step_seconds: float
    stop_seconds: float
    start_mib: int
    train_mib: int
    stop_mib: int
    exit_code: int
    saved_step: int
    last_step: int


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("stops", __doc__)
    parser.add_argument("--resolutions", default="64,512,1024", help="sides of crops, separated by commas")
    parser.add_argument("--sizes", default="1,3", help="how many sizes of crops, separated by commas")
    parser.add_argument("--preset", default="small", help="architecture")
    return run_study(parser, stop_runs, arguments)


def stop_runs(options: argparse.Namespace) -> None:
    """Start and stop one run after another, and write the record."""
    stops = []
    for resolution in map(int, options.resolutions.split(",")):
        for sizes in map(int, options.sizes.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                stops.append(stop_run(resolution, sizes, options.preset, Path(folder)))
            report_progress(str(stops[-1]))
    figures = {"preset": options.preset, "stops": [asdict(stop) for stop in stops]}
    save_record(options.command, options.out / "stops", figures, render)


def stop_run(resolution: int, sizes: int, preset: str, folder: Path) -> Stop:
    """Train until each size of crops was seen twice, then send SIGTERM when the next step of the largest begins."""
    run, said = folder / "run", folder / "said.txt"
    command = [
        sys.executable, "-m", "jeppa", "train", "vae", "--preset", preset, "--data", "builtin:photos",
        "--batch-size", "1", "--resolution", str(resolution), "--sizes", str(sizes), "--log-every", "1",
        "--steps", "100000", "--save-every", "100000", "--sample-every", "100000", "--out", str(run),
    ]  # fmt: skip
    began = time.monotonic()
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    _wait(process, lambda: "threads" in said.read_text())
    start_seconds, start_mib = time.monotonic() - began, _peak(process.pid)
    _forget_peak(process.pid)
    ends = []
    for count in range(1, 3 * sizes):  # the step that follows the last of these has the largest crops
        _wait(process, partial(_has_taken, run, count))
        ends.append(time.monotonic())
    train_mib, last = _peak(process.pid), _steps(run)
    _forget_peak(process.pid)
    signalled, peak = time.monotonic(), 0
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - signalled
    saved = max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)
    longest = max((after - before for before, after in pairwise(ends)), default=0.0)
    return Stop(
        resolution, sizes, round(start_seconds, 1), round(longest, 2), round(seconds, 1), start_mib, train_mib, peak,
        128 - process.returncode if process.returncode < 0 else process.returncode, saved, last,
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], object]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.02)


def _has_taken(run: Path, steps: int) -> bool:
    return _steps(run) >= steps


def _steps(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def _peak(process: int) -> int:
    """Peak of resident memory in MiB since the start or the last `_forget_peak`; 0 when the process is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found.group(1)) // 1024 if found else 0


def _forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


def render(record: Json) -> str:
    """The record as Markdown."""
    headers = [
        "resolution", "sizes", "start, s", "longest step, s", "stop, s", "start, MiB", "training, MiB", "stop, MiB",
        "exit code", "saved step", "last step",
    ]  # fmt: skip
    rows = [list(stop.values()) for stop in record["stops"]]
    return join_lines([
        "# Starting, saving and stopping at a resolution",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}, {record['machine']['threads']} threads. Preset "
        f"{record['preset']}, batches of 1; a run with several sizes takes turns in crops of 1, 2 and 4 times the "
        "resolution.",
        "",
        markdown_table(headers, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
