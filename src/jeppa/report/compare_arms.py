"""The arms of a comparison as every part of its page shows them: label, style, and metrics by key."""

from dataclasses import dataclass
from typing import Any

from jeppa.report.compare_saved import ComparedArm, Comparison, Value
from jeppa.report.svg import ARM_STYLES
from jeppa.report.table import METRICS

UNMATCHED = "†"
"""Follows the title of an arm whose rate is not within the tolerance."""

STYLED = ("faithful", "shared", "fixed", "nll", "beta-nll", "student-t", "band", "band-beta", "band-faithful")
"""Arms that look the same on every page, the first three as in the demo; others take the styles that are left."""

ABSENT = "absent from compare.json"


@dataclass(frozen=True)
class Entry:
    """An arm on the page.

    Args:
        arm: its name in `compare.json`.
        label: its title, marked where its rate is not matched.
        style: which colour, dash and marker.
        matched: whether its rate is comparable with the others'; true where nobody says it is not.
        saved: mean by key, with `<key>_ci95` and `reasons`, in the form of a `metrics.json`.
        per_seed: values of single seeds by key.
    """

    arm: str
    label: str
    style: int
    matched: bool
    saved: dict[str, Any]
    per_seed: dict[str, list[float | None]]


def entries(comparison: Comparison) -> list[Entry]:
    """The arms in the order of the file."""
    names = [arm.arm for arm in comparison.arms]
    taken = {STYLED.index(name) for name in names if name in STYLED}
    free = [style for style in range(ARM_STYLES) if style not in taken] or list(range(ARM_STYLES))
    others = [name for name in names if name not in STYLED]
    styles = {name: STYLED.index(name) for name in names if name in STYLED}
    styles |= {name: free[order % len(free)] for order, name in enumerate(others)}
    return [_entry(arm, styles[arm.arm], comparison) for arm in comparison.arms]


def flat(key: str, value: Value) -> dict[str, Any]:
    """One metric in the form of a `metrics.json`."""
    return {key: value.mean, f"{key}_ci95": value.ci95}


def _entry(arm: ComparedArm, style: int, comparison: Comparison) -> Entry:
    rate = comparison.budget.rates.get(arm.arm)
    matched = rate is None or rate.matched is not False
    saved: dict[str, Any] = {metric.key: None for metric in METRICS}
    for key, value in arm.metrics.items():
        saved |= flat(key, value)
    absent = {metric.key: ABSENT for metric in METRICS if metric.key not in arm.metrics}
    saved["reasons"] = absent | comparison.reasons.get(arm.arm, {})
    label = arm.title if matched else f"{arm.title} {UNMATCHED}"
    return Entry(arm.arm, label, style, matched, saved, {key: value.per_seed for key, value in arm.metrics.items()})
