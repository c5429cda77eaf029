"""Plots of training logs: a running mean of what was logged, over optimizer steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from jeppa.report.files import number
from jeppa.report.svg import colour, dash, height_for, legend, svg

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
                _faint(axes, *_smooth(curve), curve.style)
            _strong(axes, over_seeds(seeds), order, dash(seeds[0].style))
        _limit(axes, np.concatenate([_smooth(curve)[1] for seeds in arms for curve in seeds]))
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
    values = [curve.values[np.searchsorted(curve.steps, steps)] for curve in map(_in_order, seeds)]
    return Curve(seeds[0].title, seeds[0].style, np.unique(steps), np.mean(values, axis=0))


def _in_order(curve: Curve) -> Curve:
    """Steps sorted and unique: a log that was resumed can hold a step twice, the first one counts."""
    steps, first = np.unique(curve.steps, return_index=True)
    return Curve(curve.title, curve.style, steps, curve.values[first])


def _faint(axes: Any, steps: NDArray[np.float64], values: NDArray[np.float64], style: int) -> None:
    axes.plot(steps, values, color=colour(style), alpha=RAW_OPACITY, linewidth=0.8)


def _strong(axes: Any, curve: Curve, order: int, line: Any) -> None:
    width = max(1.2, 2.4 - 0.5 * order)
    axes.plot(*_smooth(curve), color=colour(curve.style), linestyle=line, label=curve.title, linewidth=width)


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
