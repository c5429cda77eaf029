"""Plot of paired differences: a dot with its interval for each arm, and a line at no difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from jeppa.report.svg import STAND_IN, colour, marker, svg

SEED_OPACITY = 0.35
LABEL_LENGTH = 24


@dataclass(frozen=True)
class Difference:
    """What one arm has more than the reference.

    Args:
        title: of the arm.
        style: which colour and marker.
        mean: in the shown unit.
        ends: of the 95 % interval; None if it was not saved.
        per_seed: values of single seeds.
    """

    title: str
    style: int
    mean: float
    ends: tuple[float, float] | None
    per_seed: list[float]


def differences_plot(name: str, label: str, unit: str, better: str, rows: Sequence[Difference]) -> Markup:
    """One row for each arm, the first on top; hollow where the interval holds zero, single seeds faint.

    Args:
        name: identifier of the plot on the page.
        label: the metric.
        unit: may be empty.
        better: below the axis, which side is better; may be empty.
        rows: one for each arm but the reference.
    """

    def draw(axes: Any) -> None:
        axes.axvline(0.0, color=STAND_IN["muted"], linewidth=1.0)
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
        axes.set_yticklabels([_short(row.title) for row in rows], color=STAND_IN["ink"])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"{label} ({unit})" if unit else label, fontsize=8.5)
        axes.set_xlabel(better or " ")

    return svg(name, f"Differences in {label} to the reference", draw, (3.6, 0.8 + 0.2 * max(3, len(rows))))


def _draw_row(axes: Any, place: int, row: Difference) -> None:
    ink = colour(row.style)
    clear = row.ends is not None and (row.ends[0] > 0.0 or row.ends[1] < 0.0)
    if row.ends:
        axes.plot(row.ends, [place, place], color=ink, linewidth=1.6, solid_capstyle="butt")
    if row.per_seed:
        axes.plot(row.per_seed, [place + 0.28] * len(row.per_seed), "|", color=ink, alpha=SEED_OPACITY, markersize=4)
    axes.plot(
        [row.mean], [place], marker(row.style), color=ink, markersize=5.5,
        fillstyle="full" if clear else "none", markeredgewidth=1.2,
    )  # fmt: skip


def _short(title: str) -> str:
    return title if len(title) <= LABEL_LENGTH else f"{title[: LABEL_LENGTH - 1]}…"
