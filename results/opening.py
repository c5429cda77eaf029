"""How long is it from the command to the first step, when the data are many small files?

    python -m results.opening --counts 100,100000

Draws grey PNG files of 28x28 pixels with random content, ten folders of them, and starts `jeppa train vae --preset
small` on them, each time in a process of its own. Time runs from the start of the process to its first step; processor
time is what Linux has counted for the process and its threads by then. A start on few files shows what the program
itself takes. The files were just written, so they come from the memory of the system and not from a disk. Modules are
compiled once, before the first start, as in an installation. Writes `opening.json` and `opening.md`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jeppa.data.sources import SETTLED_SECONDS
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

FOLDERS = 10
SIDE = 28


@dataclass(frozen=True)
class Opening:
    """One start of a run.

    Args:
        files: how many pictures there are.
        seconds: from the start of the process to its first step.
        processor_seconds: of the process by then.
        load: processes that ran or waited for a core in the last minute; above the number of cores, seconds say little.
    """

    files: int
    seconds: float
    processor_seconds: float
    load: float


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("opening", __doc__)
    parser.add_argument("--counts", default="100,100000", help="how many files, separated by commas")
    parser.add_argument("--turns", type=int, default=3, help="starts for each count")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures")
    return run_study(parser, open_folders, arguments)


def open_folders(options: argparse.Namespace) -> None:
    """Start a run on one folder after another, and write the record."""
    openings = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        start_run(draw_files(Path(folder) / "few", FOLDERS, options.seed), FOLDERS, Path(folder) / "first")
        for count in map(int, options.counts.split(",")):
            data = draw_files(Path(folder) / str(count), count, options.seed)
            for turn in range(options.turns):
                openings.append(start_run(data, count, Path(folder) / f"run-{count}-{turn}"))
                report_progress(str(openings[-1]))
    figures = {"seed": options.seed, "side": SIDE, "openings": [asdict(opening) for opening in openings]}
    save_record(options.command, options.out / "opening", figures, render)


def draw_files(root: Path, count: int, seed: int) -> Path:
    """Pictures of random grey values, written long enough ago to be trusted to stay as they are."""
    rng = np.random.default_rng(seed)
    for label in range(FOLDERS):
        (root / str(label)).mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(root / str(index % FOLDERS) / f"{index:06}.png", compress_level=1)
    time.sleep(SETTLED_SECONDS)
    return root


def start_run(data: Path, files: int, run: Path) -> Opening:
    """Start a run of one step, and read the clocks when it begins."""
    command = [
        sys.executable, "-m", "jeppa", "train", "vae", "--preset", "small", "--data", str(data), "--resolution", "32",
        "--sizes", "1", "--steps", "1", "--out", str(run),
    ]  # fmt: skip
    said = run.with_suffix(".txt")
    began = time.monotonic()
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    while "threads" not in said.read_text():
        assert process.poll() is None, said.read_text()
        time.sleep(0.02)
    seconds, processor_seconds = time.monotonic() - began, _processor_seconds(process.pid)
    assert process.wait() == 0, said.read_text()
    return Opening(files, round(seconds, 1), round(processor_seconds, 1), round(os.getloadavg()[0], 1))


def _processor_seconds(process: int) -> float:
    """Of a process and its threads until now, from fields 14 and 15 of its `stat`."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def render(record: Json) -> str:
    """The record as Markdown."""
    headers = ["files", "until the first step, s", "processor time, s", "load"]
    rows = [list(opening.values()) for opening in record["openings"]]
    return join_lines([
        "# Starting a run on many small files",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}, {record['machine']['threads']} threads. PNG files of "
        f"{record['side']}x{record['side']} pixels, drawn with seed {record['seed']}; a row is one start.",
        "",
        markdown_table(headers, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
