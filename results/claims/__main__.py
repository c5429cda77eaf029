"""Does the project keep its promises? Every promise is decided by tests that were fixed before the runs.

    python -m results.claims --compare DIR [--row NAME]

DIR is a folder made by `jeppa compare`. Writes `claims.json` and `claims.md`. With `--row NAME` only one promise is
measured, and its old and new figures are printed. The promise of stable training needs 48 short runs, which are trained
the first time (two processes, about ten minutes); `--no-grid` leaves it out.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from jeppa.errors import ConfigError, DataError
from results.claims.evidence import Evidence
from results.claims.folder import CompareFolder
from results.claims.ledger import compare_with_old, describe_setup, judge_promise, render
from results.claims.promises import PROMISES
from results.record import report_progress, run_study, save_record, study_parser


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("claims", __doc__)
    parser.add_argument("--compare", type=Path, required=True, help="folder made by `jeppa compare`")
    parser.add_argument("--row", help="measure only this promise, and compare it with the record in --out")
    parser.add_argument("--data", help="the held-out data, if it is no longer where the runs' settings say")
    parser.add_argument("--work", type=Path, help="folder of the stability runs; default: DIR/stability")
    parser.add_argument("--threads", type=int, default=1, help="threads of one process")
    parser.add_argument("--no-grid", dest="grid", action="store_false", help="leave the promise of stability out")
    return run_study(parser, decide_promises, arguments)


def decide_promises(options: argparse.Namespace) -> None:
    """Decide every promise and write the record, or measure one promise and print what has changed.

    Raises:
        JeppaError: the folder is not one of `jeppa compare`, or there is no such promise.
    """
    if not (options.compare / "runs").is_dir():
        raise DataError(f"{options.compare}: no runs folder in it; give a folder made by jeppa compare")
    if options.row not in (None, *PROMISES):
        raise ConfigError(f"--row is {options.row!r}, but must be one of: {', '.join(PROMISES)}")
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    folder = CompareFolder(options.compare, options.data)
    evidence = Evidence(folder, options.work or options.compare / "stability", report_progress, grid=options.grid)
    if options.row is not None:
        print_changes(options.row, options.out / "claims.json", evidence)
        return
    claims = [entry for promise in PROMISES for entry in judge_promise(promise, evidence, report_progress)]
    figures = {"seconds": time.perf_counter() - began, "setup": describe_setup(), "claims": claims}
    save_record(options.command, options.out / "claims", figures, render)


def print_changes(promise: str, saved: Path, evidence: Evidence) -> None:
    """Measure one promise and print its figures beside those saved."""
    claims = json.loads(saved.read_text())["claims"] if saved.is_file() else []
    old = [entry for entry in claims if entry["promise"] == promise]
    for line in compare_with_old(old, judge_promise(promise, evidence, report_progress)):
        print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
