"""Plots of calibration: does sigma say how large the errors are, and where?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from jeppa.report.files import number
from jeppa.report.saved import Reliability, Sparsification
from jeppa.report.svg import SMALL_SIZE, STAND_IN, colour, dash, height_for, legend, marker, svg


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
            _line(axes, saved.removed, saved.oracle, color=STAND_IN["muted"], linewidth=0.9, label="by true error")
            sobel = {"color": STAND_IN["ink"], "linestyle": (0, (2, 2)), "linewidth": 0.9}
            _line(axes, saved.removed, saved.by_sobel, **sobel, label="by edges")
            _line(axes, saved.removed, saved.by_sigma, color=colour(style), linewidth=1.6, label="by sigma")
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


def _line(axes: Any, x: Sequence[float | None], y: Sequence[float | None], **style: Any) -> None:
    """A line through the pairs that are finite; nothing if there is none."""
    pairs = [(number(a), number(b)) for a, b in zip(x, y, strict=False)]
    kept = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    if len(kept):
        axes.plot(kept[:, 0], kept[:, 1], **style)


def _positive(bins: Reliability) -> NDArray[np.float64]:
    """Predicted and observed values `[2,N]` of the bins that a logarithmic axis can show."""
    pairs = [(p, o) for p, o in zip(bins.predicted, bins.observed, strict=False) if p and o and min(p, o) > 0.0]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T
