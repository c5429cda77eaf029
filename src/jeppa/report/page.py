"""Saved results -> `report.html`: one file with its style, pictures and plots inside and nothing from the net."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jeppa.report import figures
from jeppa.report.pictures import ColourScale, Picture, colour_map, colour_scale, longest_side, photo
from jeppa.report.saved import (
    Arm,
    ArmPictures,
    Reconstruction,
    Report,
    Scene,
    interval,
    number,
    read_image,
    read_log,
    read_map,
    read_object,
    read_report,
)
from jeppa.report.table import METRICS, Cell, decimals, metric_table, shown

PAGE = "report.html"
COVERAGES = (50, 68, 90, 95)
CURVES = (("psnr", "PSNR", "dB"), ("elbo_bpd", "ELBO", "bits/dim"), ("rate_bpd", "rate", "bits/dim"))


@dataclass(frozen=True)
class Headline:
    """A number at the top of the page and what it means."""

    value: Cell
    unit: str
    name: str
    text: str


@dataclass(frozen=True)
class Tile:
    """One cell of a picture's grid; a reconstruction can be compared with the original."""

    picture: Picture
    caption: str
    detail: str = ""
    compare: bool = False


@dataclass(frozen=True)
class PictureRow:
    """A held-out picture: the heteroscedastic arm's tiles, then the other arms' at the same budget."""

    name: str
    lead: list[Tile]
    others: list[Tile]


@dataclass(frozen=True)
class Strip:
    """Pictures in a row, each with a short label."""

    label: str
    pictures: list[tuple[str, Picture]]


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
    rows, scale = _picture_rows(folder, report)
    html = _template().render(
        report=report,
        metrics=metrics[report.lead.arm],
        headlines=_headlines(report, metrics),
        rows=rows,
        scale=scale,
        calibration=_calibration_plots(report, metrics),
        training=_training_plots(folder, report),
        samples=_samples(folder, report),
        estimates=_strip(folder, "x0 estimate at t", [(f"{e.t}", e.image) for e in report.estimates]),
        interpolation=_interpolation(folder, report),
        table=metric_table(report.arms, metrics),
        times=_times(report),
        total=report.seconds.get("total"),
        scenes=[("Trained on", report.data.train), ("Held out", report.data.heldout)] if report.data else [],
    )
    page, draft = folder / PAGE, folder / f"{PAGE}.tmp"
    draft.write_text(html, encoding="utf-8")
    os.replace(draft, page)
    return page


def duration(seconds: float) -> str:
    """A time span for people: `0.8 s`, `42 s`, `8 min 32 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("jeppa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, by_label=_by_label)
    return environment.get_template("report.html.j2")


def _headlines(report: Report, metrics: dict[str, dict[str, Any]]) -> list[Headline]:
    """Picture quality, order of the errors and coverage of the lead arm; those that were measured."""
    lead, twin = metrics[report.lead.arm], metrics.get("shared", {})
    by_key = {metric.key: metric for metric in METRICS}
    psnr, other = number(lead.get("psnr")), number(twin.get("psnr"))
    sobel = shown(by_key["sigma_error_spearman_sobel"], lead)
    texts = {
        "psnr": "Closeness of the reconstructions to pictures that were never trained on."
        + _against_twin(psnr, other if report.lead.arm != "shared" else None),
        "sigma_error_spearman": "Rank correlation of predicted sigma and actual error over blocks of 8×8 pixels: "
        "1 is the perfect order, 0 is none." + (f" An edge detector reaches {sobel.text}." if sobel else ""),
        "coverage_90": "of true pixel values fall inside the predicted 90 % interval. "
        "Less than 90 is overconfident, more is too cautious.",
    }
    cells = ((by_key[key], shown(by_key[key], lead), text) for key, text in texts.items())
    return [Headline(cell, metric.unit, metric.name, text) for metric, cell, text in cells if cell]


def _against_twin(psnr: float | None, twin: float | None) -> str:
    if psnr is None or twin is None:
        return ""
    return (
        f" The twin with one shared sigma has {decimals(twin, 2)} dB, a difference of "
        f"{decimals(psnr - twin, 2, signed=True)} dB: 0 means that predicting sigma costs the picture nothing."
    )


def _picture_rows(folder: Path, report: Report) -> tuple[list[PictureRow], ColourScale | None]:
    if not report.reconstructions:
        return [], None
    lead = report.lead.arm
    names = [row.arms[lead].sigma for row in report.reconstructions if lead in row.arms]
    scale = colour_scale([read_map(folder, name) for name in names if name])
    count = sum(1 + sum(2 + (arm == lead) for arm in row.arms) for row in report.reconstructions)
    side = longest_side(count)
    return [_picture_row(folder, row, report, scale, side) for row in report.reconstructions], scale


def _picture_row(
    folder: Path, row: Reconstruction, report: Report, scale: ColourScale, side: int
) -> PictureRow:
    original = photo(read_image(folder, row.original), f"Original picture {row.name}", side)
    tiles = {
        arm.arm: list(_tiles(folder, row.name, arm, row.arms[arm.arm], scale, side, arm is report.lead))
        for arm in report.arms
        if arm.arm in row.arms
    }
    lead = [Tile(original, "Original"), *tiles.pop(report.lead.arm, [])]
    return PictureRow(row.name, lead, [tile for others in tiles.values() for tile in others])


def _tiles(
    folder: Path, name: str, arm: Arm, saved: ArmPictures, scale: ColourScale, side: int, lead: bool
) -> Iterable[Tile]:
    """Reconstruction, sigma map (of the lead arm: the others have one sigma for all pixels) and error map."""
    recon = photo(read_image(folder, saved.recon), f"Reconstruction of {name}, {arm.title}", side)
    yield Tile(recon, "Reconstruction", arm.title, compare=True)
    levels = f"0 to {scale.top:g} grey levels, bright is large"
    if lead and saved.sigma:
        alt = f"Predicted sigma map of {name}, {arm.title}: {levels}"
        yield Tile(colour_map(read_map(folder, saved.sigma), scale, alt, side), "Sigma", "predicted")
    if saved.error:
        alt = f"Absolute error map of {name}, {arm.title}: {levels}"
        detail = "observed" if lead else arm.title
        yield Tile(colour_map(read_map(folder, saved.error), scale, alt, side), "|Error|", detail)


def _calibration_plots(report: Report, metrics: dict[str, dict[str, Any]]) -> list[Markup]:
    styles = {arm.arm: (arm.title, style) for style, arm in enumerate(report.arms)}
    bins = [(*styles[arm], saved) for arm, saved in report.calibration.items() if arm in styles]
    coverages = [c for arm, (title, style) in styles.items() if (c := _coverage(metrics[arm], title, style))]
    plots = [figures.reliability_plot(bins)] if bins else []
    return plots + ([figures.coverage_plot(coverages)] if coverages else [])


def _coverage(metrics: dict[str, Any], title: str, style: int) -> figures.Coverage | None:
    observed = {p: value for p in COVERAGES if (value := number(metrics.get(f"coverage_{p}"))) is not None}
    if not observed:
        return None
    ends = [interval(metrics, f"coverage_{p}") or (value, value) for p, value in observed.items()]
    return figures.Coverage(
        title,
        style,
        nominal=[float(p) for p in observed],
        observed=[100.0 * value for value in observed.values()],
        spread=[(100.0 * lo, 100.0 * hi) for lo, hi in ends],
    )


def _training_plots(folder: Path, report: Report) -> list[Markup]:
    logs = [read_log(folder, arm.run) for arm in report.arms]
    plots = []
    for key, label, unit in CURVES:
        curves = [
            curve
            for style, (arm, log) in enumerate(zip(report.arms, logs, strict=True))
            if (curve := figures.logged(log, key, arm.title, style))
        ]
        if curves:
            plots.append(figures.training_plot(key.replace("_", "-"), label, unit, curves))
    if report.diffusion:
        log = read_log(folder, report.diffusion.run)
        curve = figures.logged(log, "loss", "diffusion", style=len(report.arms))
        if curve:
            plots.append(figures.training_plot("diffusion-loss", "diffusion loss", "", [curve]))
    return plots


def _samples(folder: Path, report: Report) -> list[Strip]:
    """One strip for each number of steps; the labels name the columns."""
    labels, seeds = report.sample_labels or [], report.sample_seeds or []
    strips = []
    for row in report.samples:
        pictures = []
        for column, name in enumerate(row.images):
            seed = f"seed {seeds[column]}" if column < len(seeds) else f"no. {column + 1}"
            heading = ", ".join(filter(None, [labels[column] if column < len(labels) else None, seed]))
            pictures.append((heading, photo(read_image(folder, name), f"Sample, {heading}, {row.steps} steps")))
        time = f" in {duration(row.seconds)}" if row.seconds is not None else ""
        strips.append(Strip(f"{row.steps} steps{time}", pictures))
    return strips


def _interpolation(folder: Path, report: Report) -> list[tuple[str, Picture]]:
    between = report.interpolation
    if between is None:
        return []
    share = [n / max(1, len(between.frames) - 1) for n in range(len(between.frames))]
    named = [(f"{100 * s:.0f} %", name) for s, name in zip(share, between.frames, strict=True)]
    return _strip(folder, f"Between {between.a} and {between.b}, at", named)


def _strip(folder: Path, what: str, named: list[tuple[str, str]]) -> list[tuple[str, Picture]]:
    return [(label, photo(read_image(folder, name), f"{what} {label}")) for label, name in named]


def _times(report: Report) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the longest for each part."""
    parts = {name: seconds for name, seconds in report.seconds.items() if name != "total"}
    longest = max(parts.values(), default=0.0) or 1.0
    return [(name, seconds, seconds / longest) for name, seconds in parts.items()]


def _by_label(scenes: list[Scene]) -> list[tuple[str, list[str]]]:
    """Names of scenes under each label, in the order of appearance."""
    groups: dict[str, list[str]] = {}
    for scene in scenes:
        groups.setdefault(scene.label or "", []).append(scene.name)
    return list(groups.items())
