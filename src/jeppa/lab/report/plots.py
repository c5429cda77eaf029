"""Plots of training and calibration, as inline SVG that takes its colours and fonts from the page's style sheet.

matplotlib knows no CSS variables, so each colour role is drawn in a stand-in colour that is replaced in the
SVG: the same plot is legible on light and on dark paper.

Plots of training logs show a running mean of what was logged, over optimizer steps; those of calibration whether sigma
says how large the errors are, and where.
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

from jeppa.config import Likelihood
from jeppa.lab.report.contract import Reliability, Sparsification
from jeppa.lab.report.tables import number
from jeppa.vae import LIKELIHOODS
from jeppa.vae.likelihoods import Style

_FIRST: tuple[Likelihood, ...] = ("faithful", "shared", "fixed")
_STYLE_OF: dict[str, Style] = {name: LIKELIHOODS[name].style for name in (*_FIRST, *LIKELIHOODS)}
STYLED = tuple(_STYLE_OF)
"""Arms that look the same on every page, the first three as in the demo; others take the styles that are left."""
STYLES = tuple(_STYLE_OF.values())
ARM_STYLES = len(STYLES)
"""Arms that differ by colour, dash and marker; the next one starts again with the first style."""
ROLES = ("ink", "muted", "rule", *(f"arm-{style}" for style in range(ARM_STYLES)))
STAND_IN = {role: f"#0100{index:02x}" for index, role in enumerate(ROLES)}
SIZE = (4.8, 3.3)
SMALL_SIZE = (3.3, 2.5)
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
MANY = 5
"""Above this many entries a legend goes below the axes, where it covers nothing."""


def svg(name: str, title: str, draw: Any, size: tuple[float, float] = SIZE) -> Markup:
    """Draw on fresh axes and return SVG whose colours, fonts and identifiers fit into the page.

    Args:
        name: identifier of the plot on the page: letters, digits and hyphens.
        title: what it shows, for those who cannot see it.
        draw: called with the axes.
        size: width and height in inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for role, stand_in in STAND_IN.items():
        text = text.replace(stand_in, f"var(--{role})")
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {size[0] * 72:g} {size[1] * 72:g}">'
    # matplotlib escapes the texts that it draws; the titles of arms are the only ones not written here.
    return Markup(head + text[text.index(">") + 1 :])


def colour(style: int) -> str:
    """Stand-in for the colour of an arm."""
    return STAND_IN[f"arm-{style % ARM_STYLES}"]


def dash(style: int) -> Any:
    """Line style of an arm."""
    return STYLES[style % ARM_STYLES].dash


def marker(style: int) -> str:
    """Marker of an arm."""
    return STYLES[style % ARM_STYLES].marker


def arm_colours() -> Markup:
    """CSS that gives each arm its colour on light and on dark paper, as `--arm-0` and so on."""
    light, dark = (
        "; ".join(f"--arm-{style}: {colour}" for style, colour in enumerate(colours))
        for colours in ([style.light for style in STYLES], [style.dark for style in STYLES])
    )
    return Markup(f":root {{ {light}; }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}; }} }}")


def height_for(entries: int, size: tuple[float, float] = SIZE) -> tuple[float, float]:
    """A size with room for a legend of `entries` below the axes, if they are many."""
    rows = -(-entries // 3) if entries > MANY else 0
    return size[0], size[1] + 0.17 * rows


def legend(axes: Any, loc: str = "best") -> None:
    """A legend on the axes, or below them where it has many entries."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > MANY:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.0, fontsize=7.5)
    else:
        axes.legend(loc=loc)


RAW_OPACITY = 0.22
SMOOTHING = 12
"""A training curve is a running mean over one twelfth of its points."""


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
            _faint(axes, curve.steps, curve.values, curve.style)
            _strong(axes, curve, order, dash(curve.style) if len(curves) > 1 else "-")
        _limit(axes, np.concatenate([curve.values for curve in curves]))
        axes.set(xlabel="optimizer steps", ylabel=f"{label} ({unit})" if unit else label)
        if len(curves) > 1:
            axes.legend()

    return svg(name, f"{label} over training steps", draw)


def seeds_plot(name: str, label: str, unit: str, arms: Sequence[Sequence[Curve]]) -> Markup:
    """Running means over optimizer steps: single seeds faint, the mean over seeds on top.

    Args:
        name: identifier of the plot on the page.
        label: the quantity.
        unit: of the vertical axis; may be empty.
        arms: the curves of one arm's seeds, for each arm.
    """

    def draw(axes: Any) -> None:
        for order, seeds in enumerate(arms):
            for curve in seeds:
                _faint(axes, *_running_mean(curve), curve.style)
            _strong(axes, over_seeds(seeds), order, dash(seeds[0].style))
        _limit(axes, np.concatenate([_running_mean(curve)[1] for seeds in arms for curve in seeds]))
        axes.set(xlabel="optimizer steps", ylabel=f"{label} ({unit})" if unit else label)
        legend(axes)

    return svg(name, f"{label} over training steps, mean over seeds", draw, height_for(len(arms)))


def over_seeds(seeds: Sequence[Curve]) -> Curve:
    """The mean of curves at the steps that all of them have; the first curve where they share none."""
    steps = seeds[0].steps
    for curve in seeds[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if not len(steps):
        return seeds[0]
    values = [curve.values[np.searchsorted(curve.steps, steps)] for curve in map(_sort_steps, seeds)]
    return Curve(seeds[0].title, seeds[0].style, np.unique(steps), np.mean(values, axis=0))


def _sort_steps(curve: Curve) -> Curve:
    """Steps sorted and unique: a log that was resumed can hold a step twice, the first one counts."""
    steps, first = np.unique(curve.steps, return_index=True)
    return Curve(curve.title, curve.style, steps, curve.values[first])


def _faint(axes: Any, steps: NDArray[np.float64], values: NDArray[np.float64], style: int) -> None:
    axes.plot(steps, values, color=colour(style), alpha=RAW_OPACITY, linewidth=0.8)


def _strong(axes: Any, curve: Curve, order: int, line: Any) -> None:
    width = max(1.2, 2.4 - 0.5 * order)
    axes.plot(*_running_mean(curve), color=colour(curve.style), linestyle=line, label=curve.title, linewidth=width)


def _running_mean(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running mean of steps and values, only where the window is full."""
    window = max(1, len(curve.values) // SMOOTHING)
    weights = np.full(window, 1.0 / window)
    return np.convolve(curve.steps, weights, "valid"), np.convolve(curve.values, weights, "valid")


def _limit(axes: Any, values: NDArray[np.float64]) -> None:
    """Keep a few wild values, mostly of the first steps, from flattening the rest."""
    low, high = np.quantile(values, [0.01, 0.97])
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(max(low - margin, values.min() - margin), min(high + margin, values.max() + margin))


@dataclass(frozen=True)
class Coverage:
    """Observed against nominal coverage of one arm, in percent; `spread` is the 95 % interval of each."""

    title: str
    style: int
    nominal: list[float]
    observed: list[float]
    spread: list[tuple[float, float]]


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
                predicted, observed, color=colour(style), marker=marker(style), markersize=4,
                linewidth=1.0, linestyle=dash(style), label=title,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(xlabel="predicted sigma (8-bit levels, rms)", ylabel="observed error (8-bit levels, rms)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        legend(axes)

    return svg("reliability", "Observed error against predicted sigma", draw, height_for(len(arms) + 1))


def coverage_plot(arms: Sequence[Coverage]) -> Markup:
    """Share of values inside the predicted interval against its nominal share, with the diagonal."""

    def draw(axes: Any) -> None:
        lowest = min([45.0, *(value - 3.0 for arm in arms for value in arm.observed)])
        _diagonal(axes, (lowest, 100.0))
        for arm in arms:
            ends = np.array(arm.spread, dtype=np.float64).reshape(-1, 2).T
            reach = np.maximum(np.abs(ends - np.array(arm.observed)), 0.0)
            axes.errorbar(
                arm.nominal, arm.observed, yerr=reach, color=colour(arm.style), linewidth=1.2, capsize=2,
                marker=marker(arm.style), markersize=4, elinewidth=0.8,
                linestyle=dash(arm.style), label=arm.title,
            )  # fmt: skip
        axes.set(xlim=(45, 100), ylim=(lowest, 101), xticks=[50, 68, 90, 95])
        axes.set(xlabel="nominal coverage (%)", ylabel="observed coverage (%)")
        legend(axes, loc="lower right")

    title = "Observed against nominal coverage of the predicted intervals"
    return svg("coverage", title, draw, height_for(len(arms) + 1))


def sparsification_plots(arms: Sequence[tuple[str, int, Sparsification]]) -> list[Markup]:
    """One plot for each arm, on the same axes: the error that is left once the least certain pixels are gone.

    Args:
        arms: title, style and curves of each.
    """
    values = [v for _, _, saved in arms for curve in (saved.by_sigma, saved.by_sobel, saved.oracle) for v in curve]
    top = 1.05 * max((value for v in values if (value := number(v)) is not None), default=1.0)

    def plot(order: int, title: str, style: int, saved: Sparsification) -> Markup:
        def draw(axes: Any) -> None:
            _draw_line(axes, saved.removed, saved.oracle, color=STAND_IN["muted"], linewidth=0.9, label="by true error")
            sobel = {"color": STAND_IN["ink"], "linestyle": (0, (2, 2)), "linewidth": 0.9}
            _draw_line(axes, saved.removed, saved.by_sobel, **sobel, label="by edges")
            _draw_line(axes, saved.removed, saved.by_sigma, color=colour(style), linewidth=1.6, label="by sigma")
            axes.set(ylim=(0.0, top), xlabel="share of pixels removed", ylabel="error of the rest")
            axes.set_title(title, fontsize=8.5)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="lower left")

        return svg(f"sparsification-{order}", f"Error left after removing uncertain pixels, {title}", draw, SMALL_SIZE)

    return [plot(order, *arm) for order, arm in enumerate(arms)]


def pit_plots(arms: Sequence[tuple[str, int, list[float | None]]]) -> list[Markup]:
    """One histogram for each arm, on the same axes: where true values fall in the predicted distribution.

    Args:
        arms: title, style and the share of values in each of N equal parts of [0,1].
    """
    shown = [(title, style, [number(share) or 0.0 for share in shares]) for title, style, shares in arms if shares]
    top = 1.05 * max((len(shares) * max(shares) for _, _, shares in shown), default=1.0)

    def plot(order: int, title: str, style: int, shares: list[float]) -> Markup:
        def draw(axes: Any) -> None:
            density = [len(shares) * share for share in shares]
            edges = np.linspace(0.0, 1.0, len(shares) + 1)
            axes.stairs(density, edges, fill=True, color=colour(style), alpha=0.3)
            axes.stairs(density, edges, color=colour(style), linewidth=1.2)
            axes.axhline(1.0, color=STAND_IN["muted"], linewidth=0.9)
            axes.set(xlim=(0.0, 1.0), ylim=(0.0, max(top, 1.2)))
            axes.set(xlabel="quantile of the prediction", ylabel="density of true values")
            axes.set_title(title, fontsize=8.5)

        return svg(f"pit-{order}", f"Histogram of predicted quantiles of the true values, {title}", draw, SMALL_SIZE)

    return [plot(order, *arm) for order, arm in enumerate(shown)]


def _diagonal(axes: Any, ends: tuple[float, float]) -> None:
    axes.plot(ends, ends, color=STAND_IN["muted"], linewidth=0.9, label="perfect")


def _draw_line(axes: Any, x: Sequence[float | None], y: Sequence[float | None], **style: Any) -> None:
    """A line through the pairs that are finite; nothing if there is none."""
    pairs = [(number(a), number(b)) for a, b in zip(x, y, strict=False)]
    kept = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    if len(kept):
        axes.plot(kept[:, 0], kept[:, 1], **style)


def _positive(bins: Reliability) -> NDArray[np.float64]:
    """Predicted and observed values `[2,N]` of the bins that a logarithmic axis can show."""
    pairs = [(p, o) for p, o in zip(bins.predicted, bins.observed, strict=False) if p and o and min(p, o) > 0.0]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T
