"""The page's pictures and plots, section by section, from the saved files to what the template shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jeppa.report import curves, figures
from jeppa.report.files import interval, number, read_image, read_log, read_map
from jeppa.report.pictures import ColourScale, Picture, colour_map, colour_scale, longest_side, photo
from jeppa.report.saved import (
    Arm,
    ArmPictures,
    Interpolation,
    Reconstruction,
    Report,
)

COVERAGES = (50, 68, 90, 95)
CURVES = (("psnr", "PSNR", "dB"), ("elbo_bpd", "ELBO", "bits/dim"), ("rate_bpd", "rate", "bits/dim"))

Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Tile:
    """One cell of a picture's grid; a reconstruction can be compared with the original."""

    picture: Picture
    caption: str
    detail: str = ""
    compare: bool = False


@dataclass(frozen=True)
class PictureGrid:
    """A held-out picture: the heteroscedastic arm's tiles, then the other arms' at the same budget."""

    name: str
    lead: list[Tile]
    others: list[Tile]


@dataclass(frozen=True)
class Gallery:
    """All held-out pictures and the one scale of their maps."""

    grids: list[PictureGrid]
    scale: ColourScale


@dataclass(frozen=True)
class Column:
    """Heading of a column of samples."""

    label: str
    seed: str


@dataclass(frozen=True)
class SampleStrip:
    """Samples drawn with the same number of DDIM steps, and the seconds that they took."""

    steps: int
    seconds: float | None
    pictures: list[Picture]


def gallery(folder: Path, report: Report) -> Gallery | None:
    """The reconstructions, shrunk together to the page's budget; None if there are none."""
    if not report.reconstructions:
        return None
    lead = report.lead.arm
    names = [row.arms[lead].sigma for row in report.reconstructions if lead in row.arms]
    scale = colour_scale([read_map(folder, name) for name in names if name])
    count = sum(1 + sum(2 + (arm == lead) for arm in row.arms) for row in report.reconstructions)
    side = longest_side(count)
    return Gallery([_grid(folder, row, report, scale, side) for row in report.reconstructions], scale)


def calibration_plots(report: Report, metrics: Metrics) -> list[Markup]:
    """Reliability, then coverage; each only if it was saved."""
    styles = {arm.arm: (arm.title, style) for style, arm in enumerate(report.arms)}
    bins = [(*styles[arm], saved) for arm, saved in report.calibration.items() if arm in styles]
    coverages = [found for arm in styles if (found := coverage(metrics[arm], *styles[arm]))]
    plots = [figures.reliability_plot(bins)] if bins else []
    return plots + ([figures.coverage_plot(coverages)] if coverages else [])


def coverage(metrics: dict[str, Any], title: str, style: int) -> figures.Coverage | None:
    """Observed coverage of one arm in percent, at the levels that were measured; None without any."""
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


def sigma_plots(report: Report) -> list[Markup]:
    """Sparsification, then quantile histograms, one plot for each arm that has them."""
    saved = [(arm.title, style, report.calibration.get(arm.arm)) for style, arm in enumerate(report.arms)]
    removed = [(title, style, one.sparsification) for title, style, one in saved if one and one.sparsification]
    quantiles = [(title, style, one.pit) for title, style, one in saved if one and one.pit]
    return figures.sparsification_plots(removed) + figures.pit_plots(quantiles)


def training_plots(folder: Path, report: Report) -> list[Markup]:
    """PSNR, ELBO and rate of the arms, then the diffusion loss, from the logs."""
    logs = [read_log(folder, arm.run) if arm.steps else [] for arm in report.arms]
    denoiser_log = read_log(folder, report.diffusion.run) if report.diffusion else []
    plots = []
    for key, label, unit in CURVES:
        named = enumerate(zip(report.arms, logs, strict=True))
        found = [curves.logged(log, key, arm.title, style) for style, (arm, log) in named]
        drawn = [curve for curve in found if curve]
        if drawn:
            plots.append(curves.training_plot(key.replace("_", "-"), label, unit, drawn))
    loss = curves.logged(denoiser_log, "loss", "diffusion", style=len(report.arms))
    return plots + ([curves.training_plot("diffusion-loss", "diffusion loss", "", [loss])] if loss else [])


def sample_columns(report: Report) -> list[Column]:
    """Label and seed of each column of the sample grid."""
    count = max((len(row.images) for row in report.samples), default=0)
    labels, seeds = report.sample_labels or [], report.sample_seeds or []
    return [
        Column(
            label=(labels[n] if n < len(labels) else None) or "",
            seed=f"seed {seeds[n]}" if n < len(seeds) else f"no. {n + 1}",
        )
        for n in range(count)
    ]


def sample_strips(folder: Path, report: Report, columns: list[Column]) -> list[SampleStrip]:
    """One strip for each number of steps."""
    strips = []
    for row in report.samples:
        pictures = [
            photo(
                read_image(folder, name),
                f"Sample{f' of {c.label}' if c.label else ''}, {c.seed}, {row.steps} steps",
            )
            for name, c in zip(row.images, columns, strict=False)
        ]
        strips.append(SampleStrip(row.steps, row.seconds, pictures))
    return strips


def estimates(folder: Path, report: Report) -> list[tuple[str, Picture]]:
    """The clean picture as estimated on the way, each with its timestep."""
    return [
        (f"t = {e.t}", photo(read_image(folder, e.image), f"Estimate of the clean picture at t = {e.t}"))
        for e in report.estimates
    ]


def interpolation(folder: Path, between: Interpolation | None) -> list[tuple[str, Picture]]:
    """The frames, each with its share of the way."""
    if between is None:
        return []
    last = max(1, len(between.frames) - 1)
    named = [(f"{100 * n / last:.0f} %", name) for n, name in enumerate(between.frames)]
    what = f"of the way from {between.a} to {between.b}"
    return [(share, photo(read_image(folder, name), f"{share} {what}")) for share, name in named]


def _grid(folder: Path, row: Reconstruction, report: Report, scale: ColourScale, side: int) -> PictureGrid:
    lead = [Tile(photo(read_image(folder, row.original), f"Original picture {row.name}", side), "Original")]
    others: list[Tile] = []
    for arm in report.arms:
        if arm.arm in row.arms:
            is_lead = arm.arm == report.lead.arm
            tiles = _tiles(folder, row.name, arm, row.arms[arm.arm], scale, side, is_lead)
            (lead if is_lead else others).extend(tiles)
    return PictureGrid(row.name, lead, others)


def _tiles(
    folder: Path, name: str, arm: Arm, saved: ArmPictures, scale: ColourScale, side: int, is_lead: bool
) -> Iterator[Tile]:
    """Reconstruction, sigma map (of the lead arm: the others have one sigma for all pixels) and error map."""
    recon = photo(read_image(folder, saved.recon), f"Reconstruction of {name}, {arm.title}", side)
    yield Tile(recon, "Reconstruction", arm.title, compare=True)
    levels = f"0 to {scale.top:g} grey levels, bright is large"
    if is_lead and saved.sigma:
        alt = f"Predicted sigma map of {name}, {arm.title}: {levels}"
        yield Tile(colour_map(read_map(folder, saved.sigma), scale, alt, side), "Sigma", "predicted")
    if saved.error:
        alt = f"Absolute error map of {name}, {arm.title}: {levels}"
        detail = "observed" if is_lead else arm.title
        yield Tile(colour_map(read_map(folder, saved.error), scale, alt, side), "|Error|", detail)
