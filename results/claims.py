"""The claims ledger: every promise of the project, decided by a test that was fixed before the run.

    python results/claims.py --compare DIR [--row NAME] [--out results/claims.json]

DIR is a folder made by `jeppa compare`. Writes `claims.json` and `claims.md`. `--row NAME` measures one promise again
and prints its old and new figures. The stability row trains 48 short runs of its own the first time (two processes,
about ten minutes); `--no-grid` leaves it out.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from claims.compared import Compared
from claims.evidence import Evidence
from claims.ledger import Json, against_old, judge_promise, setup, write
from claims.promises import PROMISES

from jeppa.machine import commit

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    if not (given.compare / "runs").is_dir():
        print(f"{given.compare}: no runs folder in it; give a folder made by jeppa compare", file=sys.stderr)  # noqa: T201
        return 2
    began = time.perf_counter()
    work = given.work or given.compare / "stability"
    evidence = Evidence(Compared(given.compare, given.data), work, _say, grid=given.grid)
    if given.row is not None:
        return _one_row(given.row, given.out, evidence)
    claims = [entry for promise in PROMISES for entry in judge_promise(promise, evidence, _say)]
    command = "python results/claims.py " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    record: Json = {"command": command, "commit": commit(), "seconds": time.perf_counter() - began,
                    "setup": setup(), "claims": claims}  # fmt: skip
    write(record, given.out)
    return 0


def _one_row(name: str, saved: Path, evidence: Evidence) -> int:
    if name not in PROMISES:
        print(f"--row is {name!r}, but must be one of: {', '.join(PROMISES)}", file=sys.stderr)  # noqa: T201
        return 2
    claims = json.loads(saved.read_text())["claims"] if saved.is_file() else []
    old = [entry for entry in claims if entry["promise"] == name]
    for line in against_old(old, judge_promise(name, evidence, _say)):
        print(line)  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Decide every promise of the project.")
    parser.add_argument("--compare", type=Path, required=True, help="folder made by jeppa compare")
    parser.add_argument("--row", help="measure only this promise again and compare it with --out")
    parser.add_argument("--out", type=Path, default=HERE / "claims.json", help="JSON file to write; .md goes beside it")
    parser.add_argument("--data", help="the held-out data, where the runs' settings no longer find it")
    parser.add_argument("--work", type=Path, help="folder of the stability runs; default: DIR/stability")
    parser.add_argument("--threads", type=int, default=1, help="threads of one process")
    parser.add_argument("--no-grid", dest="grid", action="store_false", help="leave the stability row out")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
