"""Saved results -> `report.html`: one file, its style, pictures and plots inside, nothing from the net."""

from pathlib import Path

from jeppa.report import sections
from jeppa.report.files import number, read_object
from jeppa.report.saved import Report, read_report
from jeppa.report.sections import Metrics
from jeppa.report.table import METRICS, Headline, decimals, metric_table, shown
from jeppa.report.template import NBSP, write_page

PAGE = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` beside the results saved in `folder`; the same results give the same bytes.

    Args:
        folder: holds `report.json` and the files that it names, see `jeppa.report.saved`.

    Returns:
        Path of the page.

    Raises:
        DataError: `report.json` or a file that it names is missing or unusable; one line naming the file.
    """
    report = read_report(folder)
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
        folder / PAGE,
        "report.html.j2",
        title=report.title,
        report=report,
        lead=metrics[report.lead.arm],
        headlines=_headlines(report, metrics),
        **pictures,
        columns=columns,
        training=sections.training_plots(folder, report),
        calibration=sections.calibration_plots(report, metrics),
        sigma_plots=sections.sigma_plots(report),
        table=metric_table([metrics[arm.arm] for arm in report.arms]),
        times=_times(report),
        total=report.seconds.get("total"),
        scenes=[("Trained on", report.data.train), ("Held out", report.data.heldout)] if report.data else [],
    )


def _headlines(report: Report, metrics: Metrics) -> list[Headline]:
    """Picture quality, order of the errors and coverage of the lead arm; those that were measured."""
    lead = metrics[report.lead.arm]
    by_key = {metric.key: metric for metric in METRICS}
    sobel = shown(by_key["sigma_error_spearman_sobel"], lead)
    texts = {
        "psnr": "How close reconstructions come to pictures never trained on." + _against_twin(report, metrics),
        "sigma_error_spearman": "Rank correlation of predicted sigma and actual error over blocks of "
        "8×8 pixels: 1 is the perfect order, 0 is none."
        + (f" An edge detector reaches {sobel.text}." if sobel else ""),
        "coverage_90": "of the true pixel values lie inside the predicted "
        f"90{NBSP}% interval. Less than 90 is overconfident, more is too cautious.",
    }
    cells = ((by_key[key], shown(by_key[key], lead), text) for key, text in texts.items())
    return [Headline(cell, metric.unit, metric.name, text) for metric, cell, text in cells if cell]


def _against_twin(report: Report, metrics: Metrics) -> str:
    """PSNR of the lead arm against its twin, or nothing where there is no twin."""
    ours = number(metrics[report.lead.arm].get("psnr"))
    theirs = number(metrics[report.twin.arm].get("psnr")) if report.twin else None
    if ours is None or theirs is None:
        return ""
    difference = decimals(ours - theirs, 2, signed=True)
    return (
        f" The twin with one shared sigma has {decimals(theirs, 2)}{NBSP}dB, a difference of "
        f"{difference}{NBSP}dB: 0 means that predicting sigma costs the picture nothing."
    )


def _times(report: Report) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the longest for each part."""
    parts = {name: seconds for name, seconds in report.seconds.items() if name != "total"}
    longest = max(parts.values(), default=0.0) or 1.0
    return [(name, seconds, seconds / longest) for name, seconds in parts.items()]
