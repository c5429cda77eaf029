"""Plots of training and calibration, as inline SVG that takes its colours and fonts from the page's style sheet.

matplotlib knows no CSS variables, so each colour role is drawn in a stand-in colour that is then replaced in the SVG.
That makes the same plot legible on light and on dark paper.

Plots of training show running means of logged quantities over optimizer steps. Those of calibration show whether sigma
predicts how large the errors are, and where.
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
from jeppa.lab.contract import ReliabilityCurve, Sparsification
from jeppa.lab.report.tables import to_finite
from jeppa.vae import LIKELIHOODS
from jeppa.vae.likelihoods import Style

_FIRST: tuple[Likelihood, ...] = ("faithful", "shared", "fixed")
_STYLE_OF: dict[str, Style] = {name: LIKELIHOODS[name].style for name in (*_FIRST, *LIKELIHOODS)}
STYLED = tuple(_STYLE_OF)
"""Arms that look the same on every page, the first three as in the demo; others take the styles that are left."""
STYLES = tuple(_STYLE_OF.values())
ARM_STYLES = len(STYLES)
"""How many arms differ by colour, dash and marker; further ones start again with the first style."""
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
"""A legend with more entries goes below the axes, where it covers nothing."""


def svg(name: str, title: str, draw: Any, size: tuple[float, float] = SIZE) -> Markup:
    """Draw on fresh axes and return SVG whose colours, fonts and identifiers fit into the page.

    Args:
        name: identifier of the plot on the page: letters, digits and hyphens.
        title: what the plot shows, for readers who cannot see it.
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
    # matplotlib escapes the texts that it draws, among them the titles of arms, which come from a file.
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


def fit_height(entries: int, size: tuple[float, float] = SIZE) -> tuple[float, float]:
    """Add room for a legend of `entries` below the axes, if there are many of them."""
    rows = -(-entries // 3) if entries > MANY else 0
    return size[0], size[1] + 0.17 * rows


def legend(axes: Any, loc: str = "best") -> None:
    """Draw a legend on the axes, or below them if it has many entries."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > MANY:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=3.0, fontsize=7.5)
    else:
        axes.legend(loc=loc)


RAW_OPACITY = 0.22
SMOOTHING = 12
"""A training curve is a running mean over a twelfth of its points."""


@dataclass(frozen=True)
class Curve:
    """A logged quantity over optimizer steps.

    Args:
        title: name in the legend.
        style: index of its colour, dash and marker.
        steps: `[N]`.
        values: `[N]`, finite.
    """

    title: str
    style: int
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def extract_curve(log: Sequence[dict[str, Any]], key: str, title: str, style: int) -> Curve | None:
    """Extract the curve of `key` from a log; None where no line has a finite value."""
    points = [(to_finite(line.get("step")), to_finite(line.get(key))) for line in log]
    kept = np.array([point for point in points if None not in point], dtype=np.float64).reshape(-1, 2)
    return Curve(title, style, kept[:, 0], kept[:, 1]) if len(kept) else None


def training_plot(name: str, label: str, unit: str, curves: Sequence[Curve]) -> Markup:
    """Plot a quantity over optimizer steps: raw values faint, running means on top.

    Args:
        name: identifier of the plot on the page.
        label: the quantity.
        unit: of the vertical axis; may be empty.
        curves: one for each arm; later ones are thinner, so that curves that coincide stay visible.
    """

    def draw(axes: Any) -> None:
        for order, curve in enumerate(curves):
            _draw_faint(axes, curve.steps, curve.values, curve.style)
            _draw_strong(axes, curve, order, dash(curve.style) if len(curves) > 1 else "-")
        _limit_axis(axes, np.concatenate([curve.values for curve in curves]))
        axes.set(xlabel="optimizer steps", ylabel=f"{label} ({unit})" if unit else label)
        if len(curves) > 1:
            axes.legend()

    return svg(name, f"{label} over training steps", draw)


def seeds_plot(name: str, label: str, unit: str, arms: Sequence[Sequence[Curve]]) -> Markup:
    """Plot running means over optimizer steps: single seeds faint, the mean over seeds on top.

    Args:
        name: identifier of the plot on the page.
        label: the quantity.
        unit: of the vertical axis; may be empty.
        arms: for each arm, the curves of its seeds.
    """

    def draw(axes: Any) -> None:
        for order, seeds in enumerate(arms):
            for curve in seeds:
                _draw_faint(axes, *_running_mean(curve), curve.style)
            _draw_strong(axes, average_seeds(seeds), order, dash(seeds[0].style))
        _limit_axis(axes, np.concatenate([_running_mean(curve)[1] for seeds in arms for curve in seeds]))
        axes.set(xlabel="optimizer steps", ylabel=f"{label} ({unit})" if unit else label)
        legend(axes)

    return svg(name, f"{label} over training steps, mean over seeds", draw, fit_height(len(arms)))


def average_seeds(seeds: Sequence[Curve]) -> Curve:
    """Average curves at the steps that all of them have; if they share none, return the first curve."""
    steps = seeds[0].steps
    for curve in seeds[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if not len(steps):
        return seeds[0]
    values = [curve.values[np.searchsorted(curve.steps, steps)] for curve in map(_sort_steps, seeds)]
    return Curve(seeds[0].title, seeds[0].style, np.unique(steps), np.mean(values, axis=0))


def _sort_steps(curve: Curve) -> Curve:
    """Sort steps and drop repeated ones but the first: the log of a resumed run can hold a step twice."""
    steps, first = np.unique(curve.steps, return_index=True)
    return Curve(curve.title, curve.style, steps, curve.values[first])


def _draw_faint(axes: Any, steps: NDArray[np.float64], values: NDArray[np.float64], style: int) -> None:
    axes.plot(steps, values, color=colour(style), alpha=RAW_OPACITY, linewidth=0.8)


def _draw_strong(axes: Any, curve: Curve, order: int, line: Any) -> None:
    width = max(1.2, 2.4 - 0.5 * order)
    axes.plot(*_running_mean(curve), color=colour(curve.style), linestyle=line, label=curve.title, linewidth=width)


def _running_mean(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running mean of steps and values, where the window is full."""
    window = max(1, len(curve.values) // SMOOTHING)
    weights = np.full(window, 1.0 / window)
    return np.convolve(curve.steps, weights, "valid"), np.convolve(curve.values, weights, "valid")


def _limit_axis(axes: Any, values: NDArray[np.float64]) -> None:
    """Leave out a few extreme values, mostly of the first steps, that would flatten the rest."""
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


def reliability_plot(arms: Sequence[tuple[str, int, ReliabilityCurve]]) -> Markup:
    """Plot observed against predicted error in bins of rising sigma, both logarithmic, with the diagonal.

    Args:
        arms: title, style and bins of each.
    """

    def draw(axes: Any) -> None:
        shown = [(title, style, _keep_positive(bins)) for title, style, bins in arms]
        everything = np.concatenate([points.ravel() for _, _, points in shown])
        if not everything.size:
            everything = np.ones(1)
        ends = everything.min() / 1.25, everything.max() * 1.25
        _draw_diagonal(axes, ends)
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

    return svg("reliability", "Observed error against predicted sigma", draw, fit_height(len(arms) + 1))


def coverage_plot(arms: Sequence[Coverage]) -> Markup:
    """Plot the share of values inside predicted intervals against the nominal share, with the diagonal."""

    def draw(axes: Any) -> None:
        lowest = min([45.0, *(value - 3.0 for arm in arms for value in arm.observed)])
        _draw_diagonal(axes, (lowest, 100.0))
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
    return svg("coverage", title, draw, fit_height(len(arms) + 1))


def sparsification_plots(arms: Sequence[tuple[str, int, Sparsification]]) -> list[Markup]:
    """One plot for each arm, on equal axes: the error that remains when the least certain pixels are removed.

    Args:
        arms: title, style and curves of each.
    """
    values = [v for _, _, saved in arms for curve in (saved.by_sigma, saved.by_sobel, saved.oracle) for v in curve]
    top = 1.05 * max((value for v in values if (value := to_finite(v)) is not None), default=1.0)

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
    """One histogram for each arm, on equal axes: where true values fall in the predicted distribution.

    Args:
        arms: title, style and the share of values in each of N equal parts of [0,1].
    """
    shown = [(title, style, [to_finite(share) or 0.0 for share in shares]) for title, style, shares in arms if shares]
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


def _draw_diagonal(axes: Any, ends: tuple[float, float]) -> None:
    axes.plot(ends, ends, color=STAND_IN["muted"], linewidth=0.9, label="perfect")


def _draw_line(axes: Any, x: Sequence[float | None], y: Sequence[float | None], **style: Any) -> None:
    """Draw a line through the pairs that are finite; nothing if there are none."""
    pairs = [(to_finite(a), to_finite(b)) for a, b in zip(x, y, strict=False)]
    kept = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    if len(kept):
        axes.plot(kept[:, 0], kept[:, 1], **style)


def _keep_positive(bins: ReliabilityCurve) -> NDArray[np.float64]:
    """Keep the bins that a logarithmic axis can show: predicted and observed values, `[2,N]`."""
    pairs = [(p, o) for p, o in zip(bins.predicted, bins.observed, strict=False) if p and o and min(p, o) > 0.0]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T
