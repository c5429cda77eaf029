"""What every study has in common: its command line, and its record as JSON and as Markdown.

A study is a module of this package, run from the root of the repository as `python -m results.NAME`. It measures, and
`save_record` writes two files: `NAME.json` has every figure together with the command, the seeds, the commit, the
machine and the versions; `NAME.md` shows the same figures as tables. The tables are made from the JSON alone, so they
can be made again without measuring.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tabulate import tabulate

from jeppa.errors import JeppaError
from jeppa.machine import commit, machine

RESULTS = Path(__file__).parent
CONFIDENCE = 0.95

Json = dict[str, Any]
Value = float | None


def study_parser(name: str, docstring: str | None, out: Path = RESULTS) -> argparse.ArgumentParser:
    """The command line of a study, with the option `--out`.

    Args:
        name: of the module within this package, such as `bands` or `shipped.vae`.
        docstring: of the module; its first line describes the study.
        out: the folder to write into unless `--out` names another.
    """
    description = (docstring or "").strip().partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m results.{name}", description=description)
    parser.add_argument("--out", type=Path, default=out, help="folder to write the record into")
    return parser


def run_study(
    parser: argparse.ArgumentParser,
    study: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a study from the command line.

    Args:
        parser: from `study_parser`, with the study's own options.
        study: called with the options, to which the attribute `command` is added; returns an exit code, None for 0.
        arguments: of the command line; None takes those of this process.

    Returns:
        The exit code: 2, after one line on standard error, if `study` raised a `JeppaError`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    options.command = shlex.join([*parser.prog.split(), *words])
    try:
        return study(options) or 0
    except JeppaError as error:
        report_progress(" ".join(str(error).split()))
        return 2


def report_progress(line: str) -> None:
    """Print one line on standard error at once."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def save_record(command: str, stem: Path, figures: Json, render: Callable[[Json], str]) -> Json:
    """Write `STEM.json` and `STEM.md`.

    Args:
        command: the command line that made the figures.
        stem: path of both files without suffix; its folder is made if it is missing.
        figures: what was measured, and the seeds and settings that it depends on.
        render: makes the Markdown from the record.

    Returns:
        The record: `figures` with `command`, `commit` and `machine`, which lists hardware and versions.
    """
    record = {"command": command, "commit": commit(), "machine": machine(), **figures}
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Through JSON, so that the tables are made of what a reader of the file finds there.
    text = json.dumps(record, indent=1)
    stem.with_suffix(".json").write_text(text + "\n")
    stem.with_suffix(".md").write_text(render(json.loads(text)))
    return record


def describe_origin(record: Json) -> str:
    """The command in code style, and the commit."""
    return f"`{record['command']}` at commit {record['commit']}"


def describe_machine(record: Json) -> str:
    """Processor, number of cores and version of torch."""
    about = record["machine"]
    return f"{about['processor']}, {about['cores']} cores, torch {about['torch']}"


def list_numbers(numbers: Iterable[object]) -> str:
    """Numbers, separated by commas."""
    return ", ".join(map(str, numbers))


def join_lines(lines: Iterable[str]) -> str:
    """The text of a file that has these lines."""
    return "\n".join([*lines, ""])


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; every cell is shown as `str` gives it."""
    cells = [[str(cell) for cell in row] for row in rows]
    return tabulate(cells, list(headers), tablefmt="github", stralign=None, disable_numparse=True)


def show_interval(value: Value, ends: Sequence[Value] | None, spec: str = ".3f", missing: str = "-") -> str:
    """A figure with its interval, `1.234 [1.000, 1.500]`.

    Args:
        value: the figure; for None or NaN the text is `missing`.
        ends: of the interval; left out where either is None or NaN, or there is none.
        spec: how to format a number, as in an f-string.
        missing: the text for no figure.
    """
    if value is None or math.isnan(value):
        return missing
    known = [end for end in ends or () if end is not None and not math.isnan(end)]
    if len(known) < 2:
        return f"{value:{spec}}"
    return f"{value:{spec}} [{known[0]:{spec}}, {known[1]:{spec}}]"


def show_range(values: Sequence[Value], spec: str = ".3f", missing: str = "none") -> str:
    """Mean, least and greatest value, `1.234 [1.000, 1.500]`; `missing` if a value is None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return missing
    return show_interval(float(np.mean(known)), (min(known), max(known)), spec)


def seed_table(first: str, rows: dict[str, list[dict[str, Value]]], titles: dict[str, str], spec: str = ".3f") -> str:
    """A table with the mean over seeds and, in brackets, the least and the greatest.

    Args:
        first: header of the first column.
        rows: for each row its title, and the figures of each seed by key.
        titles: the key of each column and its header.
        spec: how to format a number.
    """
    body = [[name, *(show_range([run[key] for run in runs], spec) for key in titles)] for name, runs in rows.items()]
    return markdown_table([first, *titles.values()], body)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and lower and upper end of the 95 % t-interval; the ends are NaN for a single value.

    Args:
        values: independent, one for each seed.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, mean, stats.sem(values))
    return mean, float(low), float(high)
