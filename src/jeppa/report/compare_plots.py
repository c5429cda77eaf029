"""The plots of a comparison, section by section, from the saved results to inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jeppa.report import curves, figures
from jeppa.report.compare_arms import Entry, flat
from jeppa.report.compare_saved import Comparison, Pair, Value
from jeppa.report.compare_table import MAIN, has_direction
from jeppa.report.differences import Difference, differences_plot
from jeppa.report.files import interval, number, read_log
from jeppa.report.sections import CURVES, coverage
from jeppa.report.table import HIGHER, Metric, metric_of

LOGGED = (*CURVES, ("active_units", "active latent channels", ""))


@dataclass(frozen=True)
class CalibrationPlots:
    """Reliability with coverage, then one sparsification plot and one histogram for each arm."""

    overall: list[Markup]
    sparsification: list[Markup]
    pit: list[Markup]


def difference_plots(comparison: Comparison, arms: Sequence[Entry]) -> list[Markup]:
    """One plot for each of the most telling metrics that was compared with the reference arm."""
    plots = []
    for metric in map(metric_of, MAIN):
        pairs = {p.a: p for p in comparison.paired if p.key == metric.key and p.b == comparison.budget.reference}
        found = [_difference(metric, pairs[entry.arm], entry) for entry in arms if entry.arm in pairs]
        rows = [row for row in found if row]
        if rows:
            name = f"difference-{metric.key.replace('_', '-')}"
            plots.append(differences_plot(name, metric.name, metric.unit, _better(metric), rows))
    return plots


def calibration_plots(comparison: Comparison, arms: Sequence[Entry]) -> CalibrationPlots:
    """What was saved of each kind, arms in their order."""
    saved = [(e.label, e.style, comparison.curves[e.arm]) for e in arms if e.arm in comparison.curves]
    bins = [(label, style, one.reliability) for label, style, one in saved if one.reliability]
    coverages = [found for e in arms if (found := coverage(e.saved, e.label, e.style))]
    overall = [figures.reliability_plot(bins)] if bins else []
    return CalibrationPlots(
        overall=overall + ([figures.coverage_plot(coverages)] if coverages else []),
        sparsification=figures.sparsification_plots(
            [(t, s, one.sparsification) for t, s, one in saved if one.sparsification]
        ),
        pit=figures.pit_plots([(t, s, one.pit) for t, s, one in saved if one.pit]),
    )


def read_logs(folder: Path, comparison: Comparison) -> dict[str, list[list[dict[str, Any]]]]:
    """The logs of each arm's runs."""
    return {arm.arm: [read_log(folder, run) for run in arm.runs] for arm in comparison.arms}


def training_plots(logs: dict[str, list[list[dict[str, Any]]]], arms: Sequence[Entry]) -> list[Markup]:
    """The logged quantities that at least one run has."""
    plots = []
    for key, label, unit in LOGGED:
        found = [[curves.logged(log, key, e.label, e.style) for log in logs[e.arm]] for e in arms]
        drawn = [[curve for curve in seeds if curve] for seeds in found]
        if any(drawn):
            name = f"training-{key.replace('_', '-')}"
            plots.append(curves.seeds_plot(name, label, unit, [seeds for seeds in drawn if seeds]))
    return plots


def _difference(metric: Metric, pair: Pair, entry: Entry) -> Difference | None:
    """In the shown unit; None without a number."""
    mean = number(pair.difference)
    if mean is None:
        return None
    ends = interval(flat(metric.key, Value(ci95=pair.ci95)), metric.key)
    seeds = [value * metric.factor for saved in pair.per_seed if (value := number(saved)) is not None]
    scaled = (ends[0] * metric.factor, ends[1] * metric.factor) if ends else None
    return Difference(entry.label, entry.style, mean * metric.factor, scaled, seeds)


def _better(metric: Metric) -> str:
    if not has_direction(metric):
        return f"neither side is better ({metric.aim})" if metric.aim.startswith("target") else ""
    return "better →" if metric.aim == HIGHER else "← better"
