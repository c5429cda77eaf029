"""Fuzz every target for a while and print the table that results/fuzz.md keeps: make fuzz SECONDS=300

A finding stops its target and stays in build/fuzz/TARGET as a file: `python tests/fuzz/fuzz.py TARGET FILE` repeats it.
"""

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGETS = ("images", "checkpoints", "configs", "archives")
RSS_MIB = 1024
SECONDS_AN_INPUT = 10
LONGEST_INPUT = 16384


@dataclass(frozen=True)
class Outcome:
    """What one target did."""

    target: str
    executions: int
    seconds: float
    peak_mib: int
    findings: tuple[str, ...]


def fuzz(target: str, seconds: int, work: Path) -> Outcome:
    """Fuzz one target from the committed seeds; new inputs of interest go to `work`."""
    found = work / target / "findings"
    grown = work / target / "corpus"
    for folder in (found, grown):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-max_len={LONGEST_INPUT}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "fuzz.py", target, *options, str(grown.resolve()), str(HERE / "corpus" / target)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, errors="replace", check=False)
    elapsed = time.perf_counter() - began
    (work / target / "log.txt").write_text(done.stdout + done.stderr)
    new = tuple(sorted(path.name for path in set(found.iterdir()) - before))
    if done.returncode and not new:
        new = (f"exit code {done.returncode}, see {work / target / 'log.txt'}",)
    return Outcome(target, _stat(done, "number_of_executed_units"), elapsed, _stat(done, "peak_rss_mb"), new)


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    rows = ["| target | executions | seconds | peak memory, MiB | findings |", "|---|---|---|---|---|"]
    for one in outcomes:
        findings = ", ".join(one.findings) or "none"
        rows.append(f"| {one.target} | {one.executions:,} | {one.seconds:.0f} | {one.peak_mib} | {findings} |")
    return "\n".join(rows)


def main() -> int:
    """Fuzz all targets, or those named; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("targets", nargs="*", default=TARGETS)
    arguments = parser.parse_args()
    outcomes = [fuzz(target, arguments.seconds, arguments.work) for target in arguments.targets]
    print(table(outcomes))
    return int(any(one.findings for one in outcomes))


def _stat(done: subprocess.CompletedProcess[str], name: str) -> int:
    found = re.search(rf"stat::{name}:\s+(\d+)", done.stderr + done.stdout)
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    sys.exit(main())
