"""The tables of a comparison: main metrics, paired differences, figures after recalibration, and every metric.

Every part of the page shows an arm with the same label and style. At the top of the page stand four questions that
someone who trains a VAE may have, answered for one arm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jeppa.lab.contract import ComparedArm, Comparison, Pair, Value
from jeppa.lab.report.plots import ARM_STYLES, STYLED
from jeppa.lab.report.tables import (
    HIGHER,
    LOWER,
    METRICS,
    NBSP,
    Cell,
    Headline,
    Metric,
    MetricTable,
    format_metric,
    format_number,
    metric_of,
    metric_table,
    read_interval,
    to_finite,
)

UNMATCHED = "†"
"""Mark after the title of an arm whose rate is not within the tolerance."""
ABSENT = "absent from compare.json"


@dataclass(frozen=True)
class Entry:
    """An arm on the page.

    Args:
        arm: its name in `compare.json`.
        label: its title, marked where its rate is not matched.
        style: index of its colour, dash and marker.
        matched: whether its rate is that of the others; true unless the file says that it is not.
        saved: means by key, with `<key>_ci95` and `reasons`, in the form of `metrics.json`.
        per_seed: values of single seeds by key.
    """

    arm: str
    label: str
    style: int
    matched: bool
    saved: dict[str, Any]
    per_seed: dict[str, list[float | None]]


def list_entries(comparison: Comparison) -> list[Entry]:
    """List the arms in the order of the file."""
    names = [arm.arm for arm in comparison.arms]
    taken = {STYLED.index(name) for name in names if name in STYLED}
    free = [style for style in range(ARM_STYLES) if style not in taken] or list(range(ARM_STYLES))
    others = [name for name in names if name not in STYLED]
    styles = {name: STYLED.index(name) for name in names if name in STYLED}
    styles |= {name: free[order % len(free)] for order, name in enumerate(others)}
    return [_make_entry(arm, styles[arm.arm], comparison) for arm in comparison.arms]


def flatten_value(key: str, value: Value) -> dict[str, Any]:
    """Convert a metric to the form of `metrics.json`."""
    return {key: value.mean, f"{key}_ci95": value.ci95}


def _make_entry(arm: ComparedArm, style: int, comparison: Comparison) -> Entry:
    rate = comparison.budget.rates.get(arm.arm)
    matched = rate is None or rate.matched is not False
    saved: dict[str, Any] = {metric.key: None for metric in METRICS}
    for key, value in arm.metrics.items():
        saved |= flatten_value(key, value)
    absent = {metric.key: ABSENT for metric in METRICS if metric.key not in arm.metrics}
    saved["reasons"] = absent | comparison.reasons.get(arm.arm, {})
    label = arm.title if matched else f"{arm.title} {UNMATCHED}"
    return Entry(arm.arm, label, style, matched, saved, {key: value.per_seed for key, value in arm.metrics.items()})


GROUPS = (
    (
        "Picture",
        ("psnr", "lpips_vgg", "gradient_energy_ratio", "gradient_energy_ratio_draw", "fd_efficientnet_lite0"),
    ),
    ("Code length", ("elbo_bpd", "rate_bpd")),
    ("Sigma", ("crps", "ence", "chi2", "ause", "sigma_error_spearman", "coverage_90")),
)
MAIN = tuple(key for _, keys in GROUPS for key in keys)
CODECS = {"png_bpd": "PNG", "jpeg2000_bpd": "JPEG 2000", "webp_bpd": "WebP"}
CODED = "elbo_bpd"
RECALIBRATED = "_recalibrated"
EMPTY = Cell("–")


@dataclass(frozen=True)
class MainTable:
    """Arms in rows, the main metrics that were measured in columns.

    Args:
        groups: heading of neighbouring columns, and their metrics.
        rows: a cell for each column.
        codecs: lossless codecs with a cell for each column; all are empty but that of the code length.
    """

    groups: list[tuple[str, list[Metric]]]
    rows: list[tuple[Entry, list[Cell]]]
    codecs: list[tuple[str, list[Cell | None]]]


@dataclass(frozen=True)
class PairedRow:
    """A difference of two arms in the shown unit; `clear`, and emphasised, if its interval excludes zero."""

    metric: Metric
    a: str
    b: str
    cell: Cell
    clear: bool


@dataclass(frozen=True)
class PairedTable:
    """Differences to arm `b`: a row for each metric, a column for each other arm; None where none was saved."""

    b: str
    arms: list[str]
    rows: list[tuple[Metric, list[Cell | None]]]


def main_table(comparison: Comparison, arms: Sequence[Entry]) -> MainTable:
    """Make the table of main metrics that at least one arm has; a clear winner of a column is emphasised."""
    measured = {key for key in MAIN if any(to_finite(entry.saved.get(key)) is not None for entry in arms)}
    groups = [(name, [metric_of(key) for key in keys if key in measured]) for name, keys in GROUPS]
    groups = [(name, metrics) for name, metrics in groups if metrics]
    columns = [metric for _, metrics in groups for metric in metrics]
    winners = {metric.key: find_winner(metric, arms) for metric in columns}
    rows = [(entry, [_make_cell(metric, entry, winners[metric.key] is entry) for metric in columns]) for entry in arms]
    codecs = [
        (CODECS.get(key, key), _make_codec_cells(key, value, columns)) for key, value in comparison.codecs.items()
    ]
    return MainTable(groups, rows, [(name, cells) for name, cells in codecs if any(cells)])


def find_winner(metric: Metric, arms: Sequence[Entry]) -> Entry | None:
    """Find the best arm of matched rate whose whole interval is better than the mean of the runner-up; else None.

    There is no winner in a metric without a better direction, or in one that a single arm has.
    """
    ranked = rank_arms(metric, arms)
    if len(ranked) < 2:
        return None
    ends = read_interval(ranked[0].saved, metric.key)
    runner_up = _measure_loss(metric, ranked[1].saved[metric.key])
    if ends is None or runner_up is None:
        return None
    losses = [_measure_loss(metric, end) for end in ends]
    return ranked[0] if all(loss is not None and loss < runner_up for loss in losses) else None


def rank_arms(metric: Metric, arms: Sequence[Entry]) -> list[Entry]:
    """Sort the arms of matched rate, best mean first; empty for a metric without a better direction."""
    losses = [(_measure_loss(metric, entry.saved.get(metric.key)), entry) for entry in arms if entry.matched]
    kept = [(loss, entry) for loss, entry in losses if loss is not None]
    return [entry for _, entry in sorted(kept, key=lambda pair: pair[0])]


def paired_rows(comparison: Comparison, labels: dict[str, str]) -> list[PairedRow]:
    """Format all differences, in the order of the file."""
    return [_make_paired_row(pair, labels) for pair in comparison.paired]


def paired_tables(rows: Sequence[PairedRow]) -> list[PairedTable]:
    """Sort the differences into one table for each arm that others are compared with."""
    tables = []
    for b in dict.fromkeys(row.b for row in rows):
        own = [row for row in rows if row.b == b]
        arms = list(dict.fromkeys(row.a for row in own))
        cells = {(row.metric, row.a): row.cell for row in own}
        metrics = dict.fromkeys(row.metric for row in own)
        tables.append(PairedTable(b, arms, [(metric, [cells.get((metric, a)) for a in arms]) for metric in metrics]))
    return tables


def collect_recalibrated(arms: Sequence[Entry]) -> tuple[list[Metric], list[tuple[Entry, list[tuple[Cell, Cell]]]]]:
    """Collect the metrics that were measured again after recalibration, and for each arm the cells before and after."""
    again = {key for entry in arms for key in entry.saved if key.endswith(RECALIBRATED)}
    keys = [key for key in _sort_keys(again) if any(to_finite(entry.saved.get(key)) is not None for entry in arms)]
    metrics = [metric_of(key.removesuffix(RECALIBRATED)) for key in keys]
    rows = []
    for entry in arms:
        after = [replace(metric, key=metric.key + RECALIBRATED) for metric in metrics]
        cells = zip(metrics, after, strict=True)
        rows.append(
            (
                entry,
                [(format_metric(m, entry.saved) or EMPTY, format_metric(n, entry.saved) or EMPTY) for m, n in cells],
            )
        )
    return metrics, rows


def full_table(arms: Sequence[Entry]) -> MetricTable:
    """Make the table of every metric, with the values of single seeds in each cell."""
    table = metric_table([entry.saved for entry in arms])
    rows = []
    for metric, cells in table.rows:
        seeds = [_format_seeds(metric, entry.per_seed.get(metric.key, [])) for entry in arms]
        rows.append((metric, [replace(cell, detail=text) for cell, text in zip(cells, seeds, strict=True)]))
    return replace(table, rows=rows)


def has_direction(metric: Metric) -> bool:
    """Whether a larger or a smaller value is better, without a target in between."""
    return metric.aim in (HIGHER, LOWER)


def _measure_loss(metric: Metric, value: object) -> float | None:
    """How far a value is from the aim of its metric: smaller is better; None where the aim has no direction."""
    level = to_finite(value)
    if level is None:
        return None
    if has_direction(metric):
        return -level if metric.aim == HIGHER else level
    try:
        target = float(metric.aim.removeprefix("target "))
    except ValueError:
        return None
    return abs(level * metric.factor - target)


def _make_cell(metric: Metric, entry: Entry, best: bool) -> Cell:
    cell = format_metric(metric, entry.saved)
    if cell is None:
        reason = entry.saved["reasons"].get(metric.key, "saved as null without a reason")
        return replace(EMPTY, reason=str(reason))
    return replace(cell, best=best)


def _make_codec_cells(key: str, value: Value, columns: Sequence[Metric]) -> list[Cell | None]:
    """Put the code length of a codec into the column of the arms' code length."""
    return [format_metric(replace(m, key=key), flatten_value(key, value)) if m.key == CODED else None for m in columns]


def _make_paired_row(pair: Pair, labels: dict[str, str]) -> PairedRow:
    metric = metric_of(pair.key)
    saved = flatten_value(pair.key, Value(mean=pair.difference, ci95=pair.ci95))
    cell, ends = format_metric(metric, saved) or EMPTY, read_interval(saved, pair.key)
    if cell is not EMPTY and pair.difference is not None:
        cell = replace(cell, text=format_number(pair.difference * metric.factor, metric.digits, signed=True))
    clear = ends is not None and (ends[0] > 0.0 or ends[1] < 0.0)
    a, b = labels.get(pair.a, pair.a), labels.get(pair.b, pair.b)
    return PairedRow(metric, a, b, replace(cell, best=clear, detail=_format_seeds(metric, pair.per_seed)), clear)


def _format_seeds(metric: Metric, values: Sequence[float | None]) -> str:
    """Format the values of single seeds in the shown unit; a dash stands for one without a number."""
    texts = [to_finite(value) for value in values]
    return " · ".join("–" if v is None else format_number(v * metric.factor, metric.digits) for v in texts)


def _sort_keys(keys: set[str]) -> list[str]:
    """Sort keys of recalibrated metrics as in the main table, then by name."""
    order = {f"{key}{RECALIBRATED}": place for place, key in enumerate(MAIN)}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))


CODE_LENGTH = metric_of("elbo_bpd")


def answer_questions(comparison: Comparison, arms: Sequence[Entry], paired: Sequence[PairedRow]) -> list[Headline]:
    """Answer which sigma to learn, and what its pictures, maps and draws are worth; where this was measured.

    The answers are about the arm with the shortest code length among those of matched rate; without one there are none.
    """
    ranked = rank_arms(CODE_LENGTH, arms)
    if not ranked:
        return []
    lead = ranked[0]
    texts = {
        "elbo_bpd": ("Which sigma should I learn?", _say_shortest(comparison, arms, ranked)),
        "psnr": ("Does it hurt my picture?", _compare_with_reference(comparison, lead, arms, paired)),
        "coverage_90": ("Can I trust its map?", " ".join(_say_trust(lead))),
        "gradient_energy_ratio_draw": ("How sharp is a drawn picture?", _say_sharpness(lead)),
    }
    cells = ((metric_of(key), format_metric(metric_of(key), lead.saved), *words) for key, words in texts.items())
    return [Headline(cell, metric.unit, name, text) for metric, cell, name, text in cells if cell]


def _say_shortest(comparison: Comparison, arms: Sequence[Entry], ranked: Sequence[Entry]) -> str:
    """Say which arm needs the fewest bits, whether clearly so, and how many lossless codecs need."""
    text = f"The shortest code length (ELBO) is that of {ranked[0].label}."
    if len(ranked) > 1:
        runner_up = format_metric(CODE_LENGTH, ranked[1].saved)
        place = "below the mean of" if find_winner(CODE_LENGTH, arms) else "not clear of"
        text += f" Its interval lies {place} the runner-up, {ranked[1].label} ({runner_up.text if runner_up else '–'})."
    codecs = {CODECS.get(key, key): to_finite(value.mean) for key, value in comparison.codecs.items()}
    known = [f"{name} {format_number(mean, CODE_LENGTH.digits)}" for name, mean in codecs.items() if mean is not None]
    return f"{text} Lossless codecs: {', '.join(known)}." if known else text


def _compare_with_reference(
    comparison: Comparison, lead: Entry, arms: Sequence[Entry], paired: Sequence[PairedRow]
) -> str:
    """Say how the PSNR of the arm differs from that of the reference, on the same pictures and seeds."""
    reference = next((entry.label for entry in arms if entry.arm == comparison.budget.reference), None)
    if reference is None:
        return f"PSNR of {lead.label}."
    if reference == lead.label:
        return f"PSNR of {lead.label}, which is itself the reference."
    match = (row for row in paired if (row.metric.key, row.a, row.b) == ("psnr", lead.label, reference))
    row = next(match, None)
    if row is None or not row.cell.low:
        return f"PSNR of {lead.label}; it was not compared with {reference} pair by pair."
    verdict = "which leaves out zero" if row.clear else "which holds zero: no difference was found"
    return (
        f"PSNR of {lead.label}. Its difference to {reference}, pair by pair, is {row.cell.text}{NBSP}dB with "
        f"the interval {row.cell.low} to {row.cell.high}, {verdict}."
    )


def _say_trust(lead: Entry) -> Iterator[str]:
    """Say what the coverage is, and how well sigma and an edge detector rank the errors."""
    yield f"of the true values lie inside the 90{NBSP}% interval of {lead.label}."
    ours = format_metric(metric_of("sigma_error_spearman"), lead.saved)
    edges = format_metric(metric_of("sigma_error_spearman_sobel"), lead.saved)
    if ours:
        yield f"Its sigma ranks the errors of blocks with a correlation of {ours.text}"
        yield f"(an edge detector: {edges.text})." if edges else "(1 is the perfect order)."


def _say_sharpness(lead: Entry) -> str:
    """Say how sharp a draw is, and how sharp the mean."""
    mean = format_metric(metric_of("gradient_energy_ratio"), lead.saved)
    text = f"Gradient of a picture drawn from {lead.label} over that of the original; 1 is as sharp."
    return f"{text} Its mean has {mean.text}." if mean else text
