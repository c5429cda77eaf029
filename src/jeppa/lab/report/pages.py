"""Write `report.html` or `compare.html` from saved results: one file that contains its style, pictures and plots.

The page loads nothing from the network, and nothing is computed again.
"""

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jeppa.lab.contract import COMPARISON_FILE, REPORT_FILE, Budget, Comparison, Report, Scene, read_object, read_saved
from jeppa.lab.report import compare_tables, sections
from jeppa.lab.report.compare_tables import UNMATCHED, Entry, answer_questions, list_entries
from jeppa.lab.report.pictures import contact_sheets
from jeppa.lab.report.plots import arm_colours
from jeppa.lab.report.sections import (
    Metrics,
    difference_plots,
    plot_calibration_of_arms,
    plot_training_of_arms,
    read_logs,
)
from jeppa.lab.report.tables import METRICS, NBSP, Headline, format_metric, format_number, metric_table, to_finite


def write_page(page: Path, template: str, **values: Any) -> Path:
    """Render a template to `page`, which is written whole or not at all; the same values give the same bytes."""
    html = _template_environment().get_template(template).render(**values)
    draft = page.with_name(f"{page.name}.tmp")
    draft.write_text(html, encoding="utf-8")
    os.replace(draft, page)
    return page


def format_duration(seconds: float) -> str:
    """Format a time span for people: `0.8 s`, `42 s`, `8 min 32 s`, `2 h 5 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def _template_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jeppa.lab.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=format_duration, by_label=_group_by_label)
    environment.globals["arm_colours"] = arm_colours
    return environment


def _group_by_label(scenes: list[Scene]) -> list[tuple[str, list[str]]]:
    """Names of scenes by label, in the order of appearance."""
    groups: dict[str, list[str]] = {}
    for scene in scenes:
        groups.setdefault(scene.label or "", []).append(scene.name)
    return list(groups.items())


REPORT_PAGE = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` beside the results saved in `folder`; the same results give the same bytes.

    Args:
        folder: holds `report.json` and the files that it names, see `jeppa.lab.contract`.

    Returns:
        Path of the page.

    Raises:
        DataError: `report.json` or a file that it names is missing or unusable; one line naming the file.
    """
    report = read_saved(folder, REPORT_FILE, Report)
    metrics = {arm.arm: read_object(folder, f"{arm.run}/metrics.json") for arm in report.arms}
    columns = sections.sample_columns(report)
    # All files are read before any plot is drawn, so that a missing one is reported at once.
    pictures = {
        "gallery": sections.gallery(folder, report),
        "samples": sections.sample_strips(folder, report, columns),
        "estimates": sections.estimates(folder, report),
        "interpolation": sections.interpolation(folder, report.interpolation),
    }
    return write_page(
        folder / REPORT_PAGE,
        "report.html.j2",
        title=report.title,
        report=report,
        lead=metrics[report.lead.arm],
        headlines=_write_headlines(report, metrics),
        **pictures,
        columns=columns,
        training=sections.training_plots(folder, report),
        calibration=sections.calibration_plots(report, metrics),
        sigma_plots=sections.sigma_plots(report),
        table=metric_table([metrics[arm.arm] for arm in report.arms]),
        times=_list_times(report),
        total=report.seconds.get("total"),
        scenes=[("Trained on", report.data.train), ("Held out", report.data.heldout)] if report.data else [],
    )


def _write_headlines(report: Report, metrics: Metrics) -> list[Headline]:
    """Those of picture quality, order of the errors and coverage that were measured for the lead arm."""
    lead = metrics[report.lead.arm]
    by_key = {metric.key: metric for metric in METRICS}
    sobel = format_metric(by_key["sigma_error_spearman_sobel"], lead)
    texts = {
        "psnr": "How close reconstructions come to pictures never trained on." + _compare_with_twin(report, metrics),
        "sigma_error_spearman": "Rank correlation of predicted sigma and actual error over blocks of "
        "8×8 pixels: 1 is the perfect order, 0 is none."
        + (f" An edge detector reaches {sobel.text}." if sobel else ""),
        "coverage_90": "of the true pixel values lie inside the predicted "
        f"90{NBSP}% interval. Less than 90 is overconfident, more is too cautious.",
    }
    cells = ((by_key[key], format_metric(by_key[key], lead), text) for key, text in texts.items())
    return [Headline(cell, metric.unit, metric.name, text) for metric, cell, text in cells if cell]


def _compare_with_twin(report: Report, metrics: Metrics) -> str:
    """A sentence that compares the PSNR of the lead arm with that of its twin; empty where there is no twin."""
    ours = to_finite(metrics[report.lead.arm].get("psnr"))
    theirs = to_finite(metrics[report.twin.arm].get("psnr")) if report.twin else None
    if ours is None or theirs is None:
        return ""
    difference = format_number(ours - theirs, 2, signed=True)
    return (
        f" The twin with one shared sigma has {format_number(theirs, 2)}{NBSP}dB, a difference of "
        f"{difference}{NBSP}dB: 0 means that predicting sigma costs the picture nothing."
    )


def _list_times(report: Report) -> list[tuple[str, float, float]]:
    """Name, seconds, and time relative to the longest part, for each part."""
    parts = {name: seconds for name, seconds in report.seconds.items() if name != "total"}
    longest = max(parts.values(), default=0.0) or 1.0
    return [(name, seconds, seconds / longest) for name, seconds in parts.items()]


COMPARISON_PAGE = "compare.html"


def write_compare(folder: Path) -> Path:
    """Write `compare.html` beside the results saved in `folder`; the same results give the same bytes.

    Args:
        folder: holds `compare.json` and the files that it names, see `jeppa.lab.contract`.

    Returns:
        Path of the page.

    Raises:
        DataError: `compare.json` or a file that it names is missing or unusable; one line naming the file.
    """
    comparison = read_saved(folder, COMPARISON_FILE, Comparison)
    arms = list_entries(comparison)
    # All files are read before any plot is drawn, so that a missing one is reported at once.
    logs = read_logs(folder, comparison)
    gallery = contact_sheets(folder, comparison, arms)
    paired = compare_tables.paired_rows(comparison, {entry.arm: entry.label for entry in arms})
    metrics, recalibrated = compare_tables.collect_recalibrated(arms)
    return write_page(
        folder / COMPARISON_PAGE,
        "compare.html.j2",
        title=comparison.title,
        comparison=comparison,
        budget=comparison.budget,
        reference=_label_reference(comparison, arms),
        arms=arms,
        mark=UNMATCHED,
        rates=_list_rates(comparison),
        headlines=answer_questions(comparison, arms, paired),
        main=compare_tables.main_table(comparison, arms),
        differences=difference_plots(comparison, arms),
        paired=compare_tables.paired_tables(paired),
        gallery=gallery,
        calibration=plot_calibration_of_arms(comparison, arms),
        recalibrated_metrics=metrics,
        recalibrated=recalibrated,
        training=plot_training_of_arms(logs, arms),
        table=compare_tables.full_table(arms),
        facts=_list_facts(comparison.budget),
        models=list(zip(comparison.arms, arms, strict=True)),
    )


def _label_reference(comparison: Comparison, arms: list[Entry]) -> str:
    """Label of the reference arm, or its name where it is not among the arms; may be empty."""
    name = comparison.budget.reference or ""
    return next((entry.label for entry in arms if entry.arm == name), name)


def _list_rates(comparison: Comparison) -> list[tuple[str, str, bool | None]]:
    """Title, ratio to the rate of the reference and whether it matches, for each arm that was checked."""
    rates = comparison.budget.rates
    checked = [(arm.title, rates[arm.arm]) for arm in comparison.arms if arm.arm in rates]
    return [(t, "–" if rate.ratio is None else format_number(rate.ratio, 3), rate.matched) for t, rate in checked]


def _list_facts(budget: Budget) -> list[tuple[str, str]]:
    """What every arm was given, in words; what was not saved is left out."""
    tolerance = budget.rate_tolerance
    facts = {
        "data": budget.data,
        "data fingerprint": budget.data_fingerprint,
        "preset": budget.preset,
        "optimizer steps": budget.steps,
        "crops seen": budget.images,
        "batch size": budget.batch_size,
        "resolution": budget.resolution and f"{budget.resolution} pixels",
        "seeds": ", ".join(map(str, budget.seeds)),
        "held-out pictures": budget.heldout_images,
        "rate tolerance": None if tolerance is None else f"±{format_number(100 * tolerance, 1)}{NBSP}%",
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
