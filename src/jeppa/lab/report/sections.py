"""Make the pictures and plots of each section of a page from the saved results.

For a comparison these are plots alone. One kind shows paired differences: for each arm a dot with its interval, and a
line at zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jeppa.data.images import describe_scale
from jeppa.lab.contract import (
    Comparison,
    Interpolation,
    Pair,
    Reconstruction,
    Report,
    ReportedArm,
    SavedPictures,
    Value,
    read_log,
)
from jeppa.lab.report import plots
from jeppa.lab.report.compare_tables import MAIN, Entry, flatten_value, has_direction
from jeppa.lab.report.pictures import (
    ColourScale,
    Picture,
    colour_scale,
    embed_map,
    embed_photo,
    longest_side,
    read_map,
    read_picture,
)
from jeppa.lab.report.plots import STAND_IN, colour, marker, svg
from jeppa.lab.report.tables import HIGHER, Metric, metric_of, read_interval, to_finite

COVERAGES = (50, 68, 90, 95)
CURVES = (("psnr", "PSNR", "dB"), ("elbo_bpd", "ELBO", "bits/dim"), ("rate_bpd", "rate", "bits/dim"))
Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Tile:
    """One cell of the grid of a picture; `compare` lets the reader wipe the original over it."""

    picture: Picture
    caption: str
    detail: str = ""
    compare: bool = False


@dataclass(frozen=True)
class PictureGrid:
    """A held-out picture: the tiles of the lead arm, then those of the other arms."""

    name: str
    lead: list[Tile]
    others: list[Tile]


@dataclass(frozen=True)
class Gallery:
    """All held-out pictures and the scale that their maps share."""

    grids: list[PictureGrid]
    scale: ColourScale


@dataclass(frozen=True)
class Column:
    """Heading of a column of samples."""

    label: str
    seed: str


@dataclass(frozen=True)
class SampleStrip:
    """Samples drawn with the same number of DDIM steps, and the seconds that this took."""

    steps: int
    seconds: float | None
    pictures: list[Picture]


def gallery(folder: Path, report: Report) -> Gallery | None:
    """The reconstructions, shrunk so that all fit into the budget of the page; None if there are none."""
    if not report.reconstructions:
        return None
    lead = report.lead.arm
    names = [row.arms[lead].sigma for row in report.reconstructions if lead in row.arms]
    scale = colour_scale([read_map(folder, name) for name in names if name])
    count = sum(1 + sum(2 + (arm == lead) for arm in row.arms) for row in report.reconstructions)
    side = longest_side(count)
    return Gallery([_read_grid(folder, row, report, scale, side) for row in report.reconstructions], scale)


def calibration_plots(report: Report, metrics: Metrics) -> list[Markup]:
    """Reliability, then coverage; what was not saved is left out."""
    styles = {arm.arm: (arm.title, style) for style, arm in enumerate(report.arms)}
    bins = [(*styles[arm], saved) for arm, saved in report.calibration.items() if arm in styles]
    coverages = [coverage for arm in styles if (coverage := collect_coverage(metrics[arm], *styles[arm]))]
    panels = [plots.reliability_plot(bins)] if bins else []
    return panels + ([plots.coverage_plot(coverages)] if coverages else [])


def collect_coverage(metrics: dict[str, Any], title: str, style: int) -> plots.Coverage | None:
    """Collect the observed coverage of one arm in percent; None if no level was measured."""
    observed = {p: value for p in COVERAGES if (value := to_finite(metrics.get(f"coverage_{p}"))) is not None}
    if not observed:
        return None
    ends = [read_interval(metrics, f"coverage_{p}") or (value, value) for p, value in observed.items()]
    return plots.Coverage(
        title,
        style,
        nominal=[float(p) for p in observed],
        observed=[100.0 * value for value in observed.values()],
        spread=[(100.0 * lo, 100.0 * hi) for lo, hi in ends],
    )


def sigma_plots(report: Report) -> list[Markup]:
    """Sparsification plots, then quantile histograms, one for each arm that has them."""
    saved = [(arm.title, style, report.calibration.get(arm.arm)) for style, arm in enumerate(report.arms)]
    removed = [(title, style, sigma.sparsification) for title, style, sigma in saved if sigma and sigma.sparsification]
    quantiles = [(title, style, sigma.pit) for title, style, sigma in saved if sigma and sigma.pit]
    return plots.sparsification_plots(removed) + plots.pit_plots(quantiles)


def training_plots(folder: Path, report: Report) -> list[Markup]:
    """PSNR, ELBO and rate of the arms, then the diffusion loss, from the logs."""
    logs = [read_log(folder, arm.run) if arm.steps else [] for arm in report.arms]
    denoiser_log = read_log(folder, report.diffusion.run) if report.diffusion else []
    panels = []
    for key, label, unit in CURVES:
        named = enumerate(zip(report.arms, logs, strict=True))
        curves = [plots.extract_curve(log, key, arm.title, style) for style, (arm, log) in named]
        drawn = [curve for curve in curves if curve]
        if drawn:
            panels.append(plots.training_plot(key.replace("_", "-"), label, unit, drawn))
    loss = plots.extract_curve(denoiser_log, "loss", "diffusion", style=len(report.arms))
    return panels + ([plots.training_plot("diffusion-loss", "diffusion loss", "", [loss])] if loss else [])


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
            embed_photo(
                read_picture(folder, name),
                f"Sample{f' of {c.label}' if c.label else ''}, {c.seed}, {row.steps} steps",
            )
            for name, c in zip(row.images, columns, strict=False)
        ]
        strips.append(SampleStrip(row.steps, row.seconds, pictures))
    return strips


def estimates(folder: Path, report: Report) -> list[tuple[str, Picture]]:
    """The estimates of the clean picture, each with its timestep."""
    return [
        (f"t = {e.t}", embed_photo(read_picture(folder, e.image), f"Estimate of the clean picture at t = {e.t}"))
        for e in report.estimates
    ]


def interpolation(folder: Path, between: Interpolation | None) -> list[tuple[str, Picture]]:
    """The frames, each with its share of the way in percent."""
    if between is None:
        return []
    last = max(1, len(between.frames) - 1)
    named = [(f"{100 * n / last:.0f} %", name) for n, name in enumerate(between.frames)]
    what = f"of the way from {between.a} to {between.b}"
    return [(share, embed_photo(read_picture(folder, name), f"{share} {what}")) for share, name in named]


def _read_grid(folder: Path, row: Reconstruction, report: Report, scale: ColourScale, side: int) -> PictureGrid:
    lead = [Tile(embed_photo(read_picture(folder, row.original), f"Original picture {row.name}", side), "Original")]
    others: list[Tile] = []
    for arm in report.arms:
        if arm.arm in row.arms:
            is_lead = arm.arm == report.lead.arm
            tiles = _read_tiles(folder, row.name, arm, row.arms[arm.arm], scale, side, is_lead)
            (lead if is_lead else others).extend(tiles)
    return PictureGrid(row.name, lead, others)


def _read_tiles(
    folder: Path, name: str, arm: ReportedArm, saved: SavedPictures, scale: ColourScale, side: int, is_lead: bool
) -> Iterator[Tile]:
    """Reconstruction, sigma map (of the lead arm alone) and error map."""
    recon = embed_photo(read_picture(folder, saved.recon), f"Reconstruction of {name}, {arm.title}", side)
    yield Tile(recon, "Reconstruction", arm.title, compare=True)
    levels = describe_scale(scale.top)
    if is_lead and saved.sigma:
        alt = f"Predicted sigma map of {name}, {arm.title}: {levels}"
        yield Tile(embed_map(read_map(folder, saved.sigma), scale, alt, side), "Sigma", "predicted")
    if saved.error:
        alt = f"Absolute error map of {name}, {arm.title}: {levels}"
        detail = "observed" if is_lead else arm.title
        yield Tile(embed_map(read_map(folder, saved.error), scale, alt, side), "|Error|", detail)


SEED_OPACITY = 0.35
LABEL_LENGTH = 24


@dataclass(frozen=True)
class Difference:
    """The difference of one arm to the reference.

    Args:
        title: of the arm.
        style: index of its colour and marker.
        mean: in the shown unit.
        ends: of the 95 % interval; None if it was not saved.
        per_seed: values of single seeds.
    """

    title: str
    style: int
    mean: float
    ends: tuple[float, float] | None
    per_seed: list[float]


def differences_plot(name: str, label: str, unit: str, better: str, rows: Sequence[Difference]) -> Markup:
    """One row for each arm, the first on top; a dot is hollow if its interval contains zero, and seeds are faint.

    Args:
        name: identifier of the plot on the page.
        label: the metric.
        unit: may be empty.
        better: text below the axis that says which side is better; may be empty.
        rows: one for each arm but the reference.
    """

    def draw(axes: Any) -> None:
        axes.axvline(0.0, color=STAND_IN["muted"], linewidth=1.0)
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
        axes.set_yticklabels([_shorten(row.title) for row in rows], color=STAND_IN["ink"])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"{label} ({unit})" if unit else label, fontsize=8.5)
        axes.set_xlabel(better or " ")

    return svg(name, f"Differences in {label} to the reference", draw, (3.6, 0.8 + 0.2 * max(3, len(rows))))


def _draw_row(axes: Any, place: int, row: Difference) -> None:
    ink = colour(row.style)
    clear = row.ends is not None and (row.ends[0] > 0.0 or row.ends[1] < 0.0)
    if row.ends:
        axes.plot(row.ends, [place, place], color=ink, linewidth=1.6, solid_capstyle="butt")
    if row.per_seed:
        axes.plot(row.per_seed, [place + 0.28] * len(row.per_seed), "|", color=ink, alpha=SEED_OPACITY, markersize=4)
    axes.plot(
        [row.mean], [place], marker(row.style), color=ink, markersize=5.5,
        fillstyle="full" if clear else "none", markeredgewidth=1.2,
    )  # fmt: skip


def _shorten(title: str) -> str:
    return title if len(title) <= LABEL_LENGTH else f"{title[: LABEL_LENGTH - 1]}…"


LOGGED = (*CURVES, ("active_units", "active latent channels", ""))


@dataclass(frozen=True)
class CalibrationPlots:
    """Reliability and coverage of all arms, then a sparsification plot and a histogram of each arm."""

    overall: list[Markup]
    sparsification: list[Markup]
    pit: list[Markup]


def difference_plots(comparison: Comparison, arms: Sequence[Entry]) -> list[Markup]:
    """One plot for each main metric in which arms were compared with the reference arm."""
    panels = []
    for metric in map(metric_of, MAIN):
        pairs = {p.a: p for p in comparison.paired if p.key == metric.key and p.b == comparison.budget.reference}
        differences = [_make_difference(metric, pairs[entry.arm], entry) for entry in arms if entry.arm in pairs]
        rows = [row for row in differences if row]
        if rows:
            name = f"difference-{metric.key.replace('_', '-')}"
            panels.append(differences_plot(name, metric.name, metric.unit, _name_better_side(metric), rows))
    return panels


def plot_calibration_of_arms(comparison: Comparison, arms: Sequence[Entry]) -> CalibrationPlots:
    """Plot the calibration curves that were saved, arms in their order."""
    saved = [(e.label, e.style, comparison.curves[e.arm]) for e in arms if e.arm in comparison.curves]
    bins = [(label, style, curves.reliability) for label, style, curves in saved if curves.reliability]
    coverages = [coverage for e in arms if (coverage := collect_coverage(e.saved, e.label, e.style))]
    overall = [plots.reliability_plot(bins)] if bins else []
    return CalibrationPlots(
        overall=overall + ([plots.coverage_plot(coverages)] if coverages else []),
        sparsification=plots.sparsification_plots(
            [(label, style, curves.sparsification) for label, style, curves in saved if curves.sparsification]
        ),
        pit=plots.pit_plots([(label, style, curves.pit) for label, style, curves in saved if curves.pit]),
    )


def read_logs(folder: Path, comparison: Comparison) -> dict[str, list[list[dict[str, Any]]]]:
    """Read the logs of the runs of each arm."""
    return {arm.arm: [read_log(folder, run) for run in arm.runs] for arm in comparison.arms}


def plot_training_of_arms(logs: dict[str, list[list[dict[str, Any]]]], arms: Sequence[Entry]) -> list[Markup]:
    """Plot each quantity that at least one run has logged."""
    panels = []
    for key, label, unit in LOGGED:
        curves = [[plots.extract_curve(log, key, e.label, e.style) for log in logs[e.arm]] for e in arms]
        drawn = [[curve for curve in seeds if curve] for seeds in curves]
        if any(drawn):
            name = f"training-{key.replace('_', '-')}"
            panels.append(plots.seeds_plot(name, label, unit, [seeds for seeds in drawn if seeds]))
    return panels


def _make_difference(metric: Metric, pair: Pair, entry: Entry) -> Difference | None:
    """The difference in the shown unit; None if it has no number."""
    mean = to_finite(pair.difference)
    if mean is None:
        return None
    ends = read_interval(flatten_value(metric.key, Value(ci95=pair.ci95)), metric.key)
    seeds = [value * metric.factor for saved in pair.per_seed if (value := to_finite(saved)) is not None]
    scaled = (ends[0] * metric.factor, ends[1] * metric.factor) if ends else None
    return Difference(entry.label, entry.style, mean * metric.factor, scaled, seeds)


def _name_better_side(metric: Metric) -> str:
    if not has_direction(metric):
        return f"neither side is better ({metric.aim})" if metric.aim.startswith("target") else ""
    return "better →" if metric.aim == HIGHER else "← better"
