"""What both scripts do with their figures: add where they come from, and write JSON and Markdown."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from typing import Any

from jeppa.errors import JeppaError
from jeppa.machine import commit, machine

Json = dict[str, Any]


def record(
    script: str,
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    measure: Callable[[argparse.Namespace], Json],
    table: Callable[[Json], str],
) -> int:
    """Measure, and write `results/shipped/NAME.json` and `.md` under `--out`; returns the exit code.

    Args:
        script: path of the script, for the record.
        parser: knows `--name` and `--out`.
        arguments: None takes those of the command line.
        measure: figures from what was given.
        table: Markdown of the whole record.
    """
    given = parser.parse_args(arguments)
    try:
        found = measure(given)
    except JeppaError as error:
        say(str(error))
        return 2
    command = f"python {script} " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    whole = {"name": given.name, "command": command, "commit": commit(), "machine": machine(), **found}
    target = given.out / "results" / "shipped" / given.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    target.with_suffix(".md").write_text(table(whole))
    return 0


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
