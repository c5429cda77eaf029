"""Plots of the page as inline SVG that takes its colours and fonts from the page's style sheet.

matplotlib knows no CSS variables, so each colour role is drawn in a stand-in colour that is replaced in the
SVG: the same plot is legible on light and on dark paper.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from jeppa.report.saved import Reliability, number

ROLES = ("ink", "muted", "rule", "arm-0", "arm-1", "arm-2", "arm-3", "arm-4")
STAND_IN = {role: f"#0100{index:02x}" for index, role in enumerate(ROLES)}
ARM_STYLES = 5
DASHES: tuple[Any, ...] = ("-", (0, (3, 1.6)), (0, (1, 1.4)), "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
SIZE = (4.8, 3.3)
RAW_OPACITY = 0.22
SMOOTHING = 12
"""A training curve is a running mean over one twelfth of its points."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jeppa",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "text.color": STAND_IN["ink"],
    "axes.labelcolor": STAND_IN["muted"],
    "axes.edgecolor": STAND_IN["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": STAND_IN["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": STAND_IN["rule"],
    "ytick.color": STAND_IN["rule"],
    "xtick.labelcolor": STAND_IN["muted"],
    "ytick.labelcolor": STAND_IN["muted"],
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Curve:
    """A logged quantity over optimizer steps.

    Args:
        title: name in the legend.
        style: which colour, dash and marker.
        steps: `[N]`.
        values: `[N]`, finite.
    """

    title: str
    style: int
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """Observed against nominal coverage of one arm, in percent; `spread` is the 95 % interval of each."""

    title: str
    style: int
    nominal: list[float]
    observed: list[float]
    spread: list[tuple[float, float]]


def logged(log: Sequence[dict[str, Any]], key: str, title: str, style: int) -> Curve | None:
    """The curve of `key` from a log, or None where no line has a finite value."""
    points = [(number(line.get("step")), number(line.get(key))) for line in log]
    kept = np.array([point for point in points if None not in point], dtype=np.float64).reshape(-1, 2)
    return Curve(title, style, kept[:, 0], kept[:, 1]) if len(kept) else None


def training_plot(name: str, label: str, unit: str, curves: Sequence[Curve]) -> Markup:
    """Raw values faint, running means on top, over optimizer steps.

    Args:
        name: identifier of the plot on the page.
        label: the quantity.
        unit: of the vertical axis; may be empty.
        curves: one for each arm; a later one is drawn thinner, so that coinciding ones stay visible.
    """

    def draw(axes: Any) -> None:
        for order, curve in enumerate(curves):
            colour = _colour(curve.style)
            dash = DASHES[curve.style % ARM_STYLES] if len(curves) > 1 else "-"
            axes.plot(curve.steps, curve.values, color=colour, alpha=RAW_OPACITY, linewidth=0.8)
            axes.plot(
                *_smooth(curve), color=colour, linestyle=dash, label=curve.title,
                linewidth=max(1.2, 2.4 - 0.5 * order),
            )  # fmt: skip
        _limit(axes, np.concatenate([curve.values for curve in curves]))
        axes.set(xlabel="optimizer steps", ylabel=f"{label} ({unit})" if unit else label)
        if len(curves) > 1:
            axes.legend()

    return _svg(name, f"{label} over training steps", draw)


def reliability_plot(arms: Sequence[tuple[str, int, Reliability]]) -> Markup:
    """Predicted against observed error in bins of rising sigma, both logarithmic, with the diagonal.

    Args:
        arms: title, style and bins of each.
    """

    def draw(axes: Any) -> None:
        shown = [(title, style, _positive(bins)) for title, style, bins in arms]
        everything = np.concatenate([points.ravel() for _, _, points in shown])
        if not everything.size:
            everything = np.ones(1)
        ends = everything.min() / 1.25, everything.max() * 1.25
        _diagonal(axes, ends)
        for title, style, (predicted, observed) in shown:
            axes.plot(
                predicted, observed, color=_colour(style), marker=MARKERS[style % ARM_STYLES], markersize=4,
                linewidth=1.0, linestyle=DASHES[style % ARM_STYLES], label=title,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(xlabel="predicted sigma (8-bit levels, rms)", ylabel="observed error (8-bit levels, rms)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend()

    return _svg("reliability", "Observed error against predicted sigma", draw)


def coverage_plot(arms: Sequence[Coverage]) -> Markup:
    """Share of values inside the predicted interval against its nominal share, with the diagonal."""

    def draw(axes: Any) -> None:
        lowest = min([45.0, *(value - 3.0 for arm in arms for value in arm.observed)])
        _diagonal(axes, (lowest, 100.0))
        for arm in arms:
            ends = np.array(arm.spread, dtype=np.float64).reshape(-1, 2).T
            reach = np.maximum(np.abs(ends - np.array(arm.observed)), 0.0)
            axes.errorbar(
                arm.nominal, arm.observed, yerr=reach, color=_colour(arm.style), linewidth=1.2, capsize=2,
                marker=MARKERS[arm.style % ARM_STYLES], markersize=4, elinewidth=0.8,
                linestyle=DASHES[arm.style % ARM_STYLES], label=arm.title,
            )  # fmt: skip
        axes.set(xlim=(45, 100), ylim=(lowest, 101), xticks=[50, 68, 90, 95])
        axes.set(xlabel="nominal coverage (%)", ylabel="observed coverage (%)")
        axes.legend(loc="lower right")

    return _svg("coverage", "Observed against nominal coverage of the predicted intervals", draw)


def _svg(name: str, title: str, draw: Any) -> Markup:
    """Draw on fresh axes and return SVG whose colours, fonts and identifiers fit into the page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for role, colour in STAND_IN.items():
        svg = svg.replace(colour, f"var(--{role})")
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {SIZE[0] * 72:g} {SIZE[1] * 72:g}">'
    # matplotlib escapes the texts that it draws; the titles of arms are the only ones not written here.
    return Markup(head + svg[svg.index(">") + 1 :])


def _colour(style: int) -> str:
    return STAND_IN[f"arm-{style % ARM_STYLES}"]


def _diagonal(axes: Any, ends: tuple[float, float]) -> None:
    axes.plot(ends, ends, color=STAND_IN["muted"], linewidth=0.9, label="perfect")


def _positive(bins: Reliability) -> NDArray[np.float64]:
    """Predicted and observed values `[2,N]` of the bins that a logarithmic axis can show."""
    pairs = [(p, o) for p, o in zip(bins.predicted, bins.observed, strict=False) if p and o and min(p, o) > 0.0]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T


def _smooth(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running mean of steps and values, only where the window is full."""
    window = max(1, len(curve.values) // SMOOTHING)
    weights = np.full(window, 1.0 / window)
    return np.convolve(curve.steps, weights, "valid"), np.convolve(curve.values, weights, "valid")


def _limit(axes: Any, values: NDArray[np.float64]) -> None:
    """Keep a few wild values, mostly of the first steps, from flattening the rest."""
    low, high = np.quantile(values, [0.01, 0.97])
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(max(low - margin, values.min() - margin), min(high + margin, values.max() + margin))
