"""The table of faults: row, what its test's docstring expects, what the test saw, seconds."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROW = re.compile(r"test_(F\d\d)_")


@dataclass(frozen=True)
class Row:
    """One test of one fault; `seen` starts with "NO: " if the test failed."""

    fault: str
    expected: str
    seen: str
    seconds: float


class Scoreboard:
    """A pytest plugin that collects the rows and, given a file, writes them.

    Args:
        target: Markdown file to write at the end of the session, or None.
    """

    def __init__(self, target: Path | None) -> None:
        self._target = target
        self._rows: list[Row] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function, call: pytest.CallInfo[None]) -> object:
        """Enter a row after the test itself, or after a fixture that failed."""
        report = yield
        name = _ROW.match(item.name)
        if name is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
            self._rows.append(_row(name.group(1), item, report))
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and write it."""
        if self._target is None:
            return
        text = table(self._rows, heading())
        terminalreporter.write_line(text)
        self._target.write_text(text)


def heading() -> str:
    """Command, commit, machine and versions."""
    from jeppa.machine import commit, machine

    facts = machine()
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", "torch", "diffusers", "numpy", "pillow"))
    return (
        f"`make faults` at commit {commit()}. {facts['processor']}, {facts['cores']} cores, "
        f'{facts["memory_gib"]:.0f} GiB, {facts["system"]}; {versions}. "Seen" is what the test observed; where it '
        "starts with NO, the test failed."
    )


def table(rows: list[Row], head: str) -> str:
    """The rows in order of their faults, as Markdown."""
    lines = ["# The faults, and what happens", "", head, "", "| row | expected | seen | seconds |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.fault):
        cells = (row.fault, row.expected, row.seen, f"{row.seconds:.1f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _row(fault: str, item: pytest.Function, report: pytest.TestReport) -> Row:
    expected = (item.function.__doc__ or "").strip().partition("\n")[0]
    seen = "; ".join(str(value) for key, value in item.user_properties if key == "seen")
    if not report.passed:
        problem = str(report.longrepr).strip().splitlines()[-1] if report.longrepr else report.outcome
        seen = f"NO: {problem}"
    return Row(fault, expected, seen, report.duration)
