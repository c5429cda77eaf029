"""Times two ways to do the same work in turn, so that what else the machine does hits both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: of the comparison; design.md and the readme know it by this.
        ratio: median of peer time over our time; above 1 ours is faster. Where it is no race, `note` tells.
        ratio_min: least of the alternations.
        ratio_max: most.
        ours_s: median seconds of ours, or None.
        peer_s: median seconds of the peer, or None.
        note: what was raced.
    """

    name: str
    ratio: float
    ratio_min: float
    ratio_max: float
    ours_s: float | None
    peer_s: float | None
    note: str

    def as_json(self) -> dict[str, Any]:
        """With four significant digits."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def race(name: str, ours: Work, peer: Work, alternations: int, note: str) -> Row:
    """Run both once to warm up, then in turn; who begins changes every time.

    Args:
        name: of the row.
        ours: our way.
        peer: theirs.
        alternations: pairs of timed runs, at least 1.
        note: of the row.
    """
    seconds(ours), seconds(peer)
    pairs = []
    for turn in range(alternations):
        if turn % 2:
            theirs = seconds(peer)
            pairs.append((seconds(ours), theirs))
        else:
            own = seconds(ours)
            pairs.append((own, seconds(peer)))
    ratios = [theirs / own for own, theirs in pairs]
    return Row(
        name, statistics.median(ratios), min(ratios), max(ratios),
        statistics.median(own for own, _ in pairs), statistics.median(theirs for _, theirs in pairs), note,
    )  # fmt: skip


def figure(name: str, values: list[float], note: str) -> Row:
    """A row that is no race: the median of `values` in place of the ratio."""
    return Row(name, statistics.median(values), min(values), max(values), None, None, note)


def seconds(work: Work) -> float:
    """Wall-clock seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
