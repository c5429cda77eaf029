"""The tables of a comparison: the most telling metrics, paired differences, recalibration, and every key."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jeppa.report.compare_arms import Entry, flat
from jeppa.report.compare_saved import Comparison, Pair, Value
from jeppa.report.files import interval, number
from jeppa.report.table import HIGHER, LOWER, Cell, Metric, MetricTable, decimals, metric_of, metric_table, shown

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
    """Arms in rows, the most telling of the measured metrics in columns.

    Args:
        groups: what a run of columns is about, and the metrics.
        rows: a cell for each column.
        codecs: lossless codecs, a cell for each column: all empty but that of the code length.
    """

    groups: list[tuple[str, list[Metric]]]
    rows: list[tuple[Entry, list[Cell]]]
    codecs: list[tuple[str, list[Cell | None]]]


@dataclass(frozen=True)
class PairedRow:
    """A difference of two arms in the shown unit; `clear`, and emphasised, if its interval leaves out zero."""

    metric: Metric
    a: str
    b: str
    cell: Cell
    clear: bool


@dataclass(frozen=True)
class PairedTable:
    """Differences to one arm: a row for each metric, a column for each other arm; None where it was not compared."""

    b: str
    arms: list[str]
    rows: list[tuple[Metric, list[Cell | None]]]


def main_table(comparison: Comparison, arms: Sequence[Entry]) -> MainTable:
    """The columns that at least one arm has; the best of a column is emphasised if it is clearly the best."""
    measured = {key for key in MAIN if any(number(entry.saved.get(key)) is not None for entry in arms)}
    groups = [(name, [metric_of(key) for key in keys if key in measured]) for name, keys in GROUPS]
    groups = [(name, metrics) for name, metrics in groups if metrics]
    columns = [metric for _, metrics in groups for metric in metrics]
    winners = {metric.key: clear_winner(metric, arms) for metric in columns}
    rows = [(entry, [_cell(metric, entry, winners[metric.key] is entry) for metric in columns]) for entry in arms]
    codecs = [(CODECS.get(key, key), _codec_cells(key, value, columns)) for key, value in comparison.codecs.items()]
    return MainTable(groups, rows, [(name, cells) for name, cells in codecs if any(cells)])


def clear_winner(metric: Metric, arms: Sequence[Entry]) -> Entry | None:
    """The best arm of matched rate, if all of its interval is better than the mean of the runner-up; else None.

    Metrics without a better direction have no winner, nor has a metric that a single arm has.
    """
    ranked = ranking(metric, arms)
    if len(ranked) < 2:
        return None
    ends = interval(ranked[0].saved, metric.key)
    runner_up = _loss(metric, ranked[1].saved[metric.key])
    if ends is None or runner_up is None:
        return None
    losses = [_loss(metric, end) for end in ends]
    return ranked[0] if all(loss is not None and loss < runner_up for loss in losses) else None


def ranking(metric: Metric, arms: Sequence[Entry]) -> list[Entry]:
    """Arms of matched rate, best mean first; empty for a metric without a better direction."""
    losses = [(_loss(metric, entry.saved.get(metric.key)), entry) for entry in arms if entry.matched]
    kept = [(loss, entry) for loss, entry in losses if loss is not None]
    return [entry for _, entry in sorted(kept, key=lambda pair: pair[0])]


def paired_rows(comparison: Comparison, labels: dict[str, str]) -> list[PairedRow]:
    """All differences, in the order of the file."""
    return [_paired_row(pair, labels) for pair in comparison.paired]


def paired_tables(rows: Sequence[PairedRow]) -> list[PairedTable]:
    """The differences sorted into one table for each arm that others are compared with."""
    tables = []
    for b in dict.fromkeys(row.b for row in rows):
        own = [row for row in rows if row.b == b]
        arms = list(dict.fromkeys(row.a for row in own))
        cells = {(row.metric, row.a): row.cell for row in own}
        metrics = dict.fromkeys(row.metric for row in own)
        tables.append(PairedTable(b, arms, [(metric, [cells.get((metric, a)) for a in arms]) for metric in metrics]))
    return tables


def recalibration(arms: Sequence[Entry]) -> tuple[list[Metric], list[tuple[Entry, list[tuple[Cell, Cell]]]]]:
    """Metrics that were measured again after recalibration; for each arm, the cells before and after."""
    again = {key for entry in arms for key in entry.saved if key.endswith(RECALIBRATED)}
    keys = [key for key in _in_order(again) if any(number(entry.saved.get(key)) is not None for entry in arms)]
    metrics = [metric_of(key.removesuffix(RECALIBRATED)) for key in keys]
    rows = []
    for entry in arms:
        after = [replace(metric, key=metric.key + RECALIBRATED) for metric in metrics]
        cells = zip(metrics, after, strict=True)
        rows.append((entry, [(shown(m, entry.saved) or EMPTY, shown(n, entry.saved) or EMPTY) for m, n in cells]))
    return metrics, rows


def full_table(arms: Sequence[Entry]) -> MetricTable:
    """Every key, with the values of single seeds in each cell."""
    table = metric_table([entry.saved for entry in arms])
    rows = []
    for metric, cells in table.rows:
        seeds = [_seeds(metric, entry.per_seed.get(metric.key, [])) for entry in arms]
        rows.append((metric, [replace(cell, detail=text) for cell, text in zip(cells, seeds, strict=True)]))
    return replace(table, rows=rows)


def has_direction(metric: Metric) -> bool:
    """Whether a larger or a smaller value is better, without a target in between."""
    return metric.aim in (HIGHER, LOWER)


def _loss(metric: Metric, value: object) -> float | None:
    """How bad a value is, from its aim: smaller is better; None where the aim names no direction."""
    level = number(value)
    if level is None:
        return None
    if has_direction(metric):
        return -level if metric.aim == HIGHER else level
    try:
        target = float(metric.aim.removeprefix("target "))
    except ValueError:
        return None
    return abs(level * metric.factor - target)


def _cell(metric: Metric, entry: Entry, best: bool) -> Cell:
    cell = shown(metric, entry.saved)
    if cell is None:
        reason = entry.saved["reasons"].get(metric.key, "saved as null without a reason")
        return replace(EMPTY, reason=str(reason))
    return replace(cell, best=best)


def _codec_cells(key: str, value: Value, columns: Sequence[Metric]) -> list[Cell | None]:
    """The code length of a codec under that of the arms."""
    return [shown(replace(m, key=key), flat(key, value)) if m.key == CODED else None for m in columns]


def _paired_row(pair: Pair, labels: dict[str, str]) -> PairedRow:
    metric = metric_of(pair.key)
    saved = flat(pair.key, Value(mean=pair.difference, ci95=pair.ci95))
    cell, ends = shown(metric, saved) or EMPTY, interval(saved, pair.key)
    if cell is not EMPTY and pair.difference is not None:
        cell = replace(cell, text=decimals(pair.difference * metric.factor, metric.digits, signed=True))
    clear = ends is not None and (ends[0] > 0.0 or ends[1] < 0.0)
    a, b = labels.get(pair.a, pair.a), labels.get(pair.b, pair.b)
    return PairedRow(metric, a, b, replace(cell, best=clear, detail=_seeds(metric, pair.per_seed)), clear)


def _seeds(metric: Metric, values: Sequence[float | None]) -> str:
    """Values of single seeds in the shown unit; a dash for one without a number."""
    texts = [number(value) for value in values]
    return " · ".join("–" if v is None else decimals(v * metric.factor, metric.digits) for v in texts)


def _in_order(keys: set[str]) -> list[str]:
    """Keys of recalibrated metrics in the order of the main table, then by name."""
    order = {f"{key}{RECALIBRATED}": place for place, key in enumerate(MAIN)}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))
