"""Runs the benches and writes what they found as JSON and as a Markdown table."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jeppa.bench.clock import Row
from jeppa.bench.decoding import sd_rows
from jeppa.bench.growth import growth_rows
from jeppa.bench.sampling import sampling_rows
from jeppa.bench.training import training_rows
from jeppa.checkpoint import write_text_atomically
from jeppa.errors import ConfigError
from jeppa.machine import commit, machine

BENCHES: dict[str, Callable[[int], Iterator[Row]]] = {
    "sd": sd_rows, "training": training_rows, "sampling": sampling_rows, "growth": growth_rows,
}  # fmt: skip


def run_benches(names: Sequence[str], alternations: int, out: Path, command: str) -> Iterator[Row]:
    """Yield each row as it is known, after writing all so far to `out` and, as Markdown, beside it.

    Args:
        names: keys of `BENCHES`.
        alternations: timed pairs of each race.
        out: JSON file; the table gets the ending .md.
        command: for the record.

    Raises:
        ConfigError: a name is unknown or there are no alternations; before anything runs.
    """
    unknown = [name for name in names if name not in BENCHES]
    if unknown or not names:
        raise ConfigError(f"bench is {', '.join(unknown) or 'empty'}, but must be of {', '.join(BENCHES)}")
    if alternations < 1:
        raise ConfigError(f"alternations is {alternations}, but must be at least 1; 5 show a spread")
    return _run(names, alternations, out, command)


def _run(names: Sequence[str], alternations: int, out: Path, command: str) -> Iterator[Row]:
    record: dict[str, Any] = {
        "command": command, "commit": commit(), "machine": machine(), "alternations": alternations, "rows": [],
    }  # fmt: skip
    for name in names:
        for row in BENCHES[name](alternations):
            record["rows"].append(row.as_json())
            write_text_atomically(out, json.dumps(record, indent=1) + "\n")
            write_text_atomically(out.with_suffix(".md"), table(record))
            yield row


def table(record: dict[str, Any]) -> str:
    """The Markdown of a record."""
    about = record["machine"]
    lines = [
        "# Speed",
        "",
        f"`{record['command']}` at commit {record['commit']}: {about['processor']}, {about['cores']} cores, "
        f"{about['threads']} threads, torch {about['torch']}. Both sides of a ratio were timed in turn, "
        f"{record['alternations']} times after a warm-up; median [least, most]. Above 1 ours is faster.",
        "",
        "| row | ratio | ours, s | peer, s | what |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        times = ["" if row[key] is None else f"{row[key]:.3g}" for key in ("ours_s", "peer_s")]
        ratio = f"{row['ratio']:.3g} [{row['ratio_min']:.3g}, {row['ratio_max']:.3g}]"
        lines.append(f"| `{row['name']}` | {ratio} | {' | '.join(times)} | {row['note']} |")
    return "\n".join([*lines, ""])
