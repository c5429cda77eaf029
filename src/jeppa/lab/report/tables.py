"""The metrics of `metrics.json` for people: name, unit, direction and meaning; and the table of them on a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HIGHER, LOWER, BASELINE = "higher is better", "lower is better", "baseline"
NO_REASON = "saved as null without a reason"
NOT_SAVED = "absent from metrics.json"


@dataclass(frozen=True)
class Metric:
    """How to show one key of `metrics.json`.

    Args:
        key: in `metrics.json`.
        name: for people.
        aim: which direction is better, or the target; may be empty.
        text: what it means, in one line.
        unit: may be empty.
        digits: decimal places.
        factor: that converts the saved to the shown unit.
    """

    key: str
    name: str
    aim: str
    text: str
    unit: str = ""
    digits: int = 3
    factor: float = 1.0


def _coverage(percent: int) -> Metric:
    text = f"Share of true values inside the predicted central {percent} % interval."
    name, aim = f"Coverage at {percent} %", f"target {percent}"
    return Metric(f"coverage_{percent}", name, aim, text, "%", digits=1, factor=100.0)


METRICS = (
    Metric("psnr", "PSNR", HIGHER, "Closeness to the original; 6 dB more is half the error.", "dB", digits=2),
    Metric("ssim", "SSIM", HIGHER, "Structural similarity to the original; 1 is a copy."),
    Metric(
        "delta_e2000", "Colour difference", LOWER, "Visible difference of colour; 1 is just seen.",
        "CIEDE2000", digits=2,
    ),
    Metric(
        "gradient_energy_ratio", "Sharpness", "target 1",
        "Mean gradient of the reconstruction over that of the original; below 1 is blurred.",
    ),
    Metric(
        "gradient_energy_ratio_draw", "Sharpness of a draw", "target 1",
        "The same of a reconstruction with a residual drawn from the predicted distribution.",
    ),
    Metric(
        "border_error_ratio", "Error at the border", "target 1",
        "Error of the outer 8 pixels over that of the middle.", digits=2,
    ),
    Metric(
        "lattice_levels", "Lattice on plain areas", LOWER,
        "Largest deviation of a picture of one colour from one colour; half a level is seen by nobody.",
        "8-bit levels", digits=2,
    ),
    Metric(
        "lattice_share", "Lattice, share of energy", LOWER,
        "Energy of a picture of one colour at the stride of the latent, as a share of a white picture's.", "%",
        digits=4, factor=100.0,
    ),
    Metric(
        "gradient_lattice_share", "Lattice on gradients", LOWER, "The same of the error of a smooth gradient.", "%",
        digits=4, factor=100.0,
    ),
    Metric(
        "colour_levels", "Colour of plain areas", LOWER, "Largest error of the colour of a picture of one colour.",
        "8-bit levels", digits=2,
    ),
    Metric("lpips_alex", "LPIPS (AlexNet)", LOWER, "Perceptual distance to the original."),
    Metric("lpips_vgg", "LPIPS (VGG)", LOWER, "Perceptual distance to the original."),
    Metric(
        "fd_efficientnet_lite0", "Fréchet distance", LOWER,
        "Distance between the feature distributions of reconstructions and originals.",
    ),
    Metric("fd_floor", "Fréchet floor", BASELINE, "The same between two halves of the originals."),
    Metric(
        "distortion_bpd", "Distortion", LOWER,
        "Code length of the pixels once the latent is known; pays for error and for a wrong sigma.",
        "bits/dim",
    ),
    Metric("rate_bpd", "Rate", "lower at equal distortion", "Code length of the latent.", "bits/dim"),
    Metric(
        "elbo_bpd", "ELBO", LOWER,
        "Rate plus distortion, a bound on the lossless code length; 8 is an uncompressed picture.",
        "bits/dim",
    ),
    Metric("png_bpd", "PNG", BASELINE, "Lossless code length of the same pictures, header included.", "bits/dim"),
    Metric("jpeg2000_bpd", "Lossless JPEG 2000", BASELINE, "The same by another codec.", "bits/dim"),
    Metric("webp_bpd", "Lossless WebP", BASELINE, "The same by another codec.", "bits/dim"),
    Metric("ence", "ENCE", LOWER, "Mean relative gap of predicted and observed error over bins of sigma."),
    Metric(
        "ence_reference", "ENCE if sigma were right", BASELINE,
        "The same for errors drawn from the prediction itself; no sigma is expected below it.",
    ),
    Metric("ence_constant", "ENCE of one sigma", BASELINE, "The same bins with one constant sigma predicted for all."),
    Metric("ence_sobel", "ENCE of an edge detector", BASELINE, "The same with edges for sigma, in bins of their own."),
    Metric(
        "chi2", "Standardised error", "target 1",
        "Mean of squared error over predicted variance; above 1 is overconfident.", digits=2,
    ),
    Metric(
        "recalibration_slope", "Recalibration slope", "target 1",
        "Factor that log-variances lack, fitted on other images; below 1 sigma varies too much.", digits=2,
    ),
    Metric(
        "recalibration_offset", "Recalibration offset", "target 0",
        "What log-variances lack on average; above 0 sigma is too small.", digits=2,
    ),
    Metric(
        "chi2_recalibrated", "Standardised error, recalibrated", "target 1",
        "The standardised error after slope and offset.", digits=2,
    ),
    Metric("ence_recalibrated", "ENCE, recalibrated", LOWER, "ENCE after slope and offset."),
    Metric(
        "coverage_90_recalibrated", "Coverage at 90 %, recalibrated", "target 90",
        "Coverage after slope and offset.", "%", digits=1, factor=100.0,
    ),
    Metric("crps", "CRPS", LOWER, "Distance of the predicted distribution to the true value."),
    Metric("ause", "AUSE", LOWER, "Cost of discarding pixels by sigma instead of by true error; 0 is ideal."),
    Metric("ause_sobel", "AUSE of an edge detector", BASELINE, "The same with edges for sigma."),
    Metric(
        "sigma_error_spearman", "Sigma ranks the errors", HIGHER,
        "Spearman rank correlation of sigma and |error| over 8×8 blocks; 1 is the perfect order, 0 none.",
    ),
    Metric(
        "sigma_error_spearman_sobel", "An edge detector ranks them", BASELINE,
        "The same with edges for sigma.",
    ),
    Metric("sigma_levels", "Size of sigma", "", "Root mean square of sigma.", "8-bit levels", digits=2),
    *map(_coverage, (50, 68, 90, 95)),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number as text with the ends of its interval, or a dash with a reason and the mark of its footnote.

    Args:
        text: the number.
        low: lower end of the interval; may be empty.
        high: upper end.
        reason: why there is no number.
        mark: number of the footnote with the reason.
        best: whether to emphasise it.
        detail: a further line, such as the values of single seeds.
    """

    text: str
    low: str = ""
    high: str = ""
    reason: str = ""
    mark: int | None = None
    best: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Headline:
    """A number at the top of the page and what it means."""

    value: Cell
    unit: str
    name: str
    text: str


@dataclass(frozen=True)
class MetricTable:
    """The metrics that were measured, and those that were not.

    Args:
        rows: metrics that at least one arm has, with a cell for each arm.
        notes: footnotes that say why cells are empty; mark 1 is the first.
        unmeasured: for each reason, the names of the known metrics that no arm has.
    """

    rows: list[tuple[Metric, list[Cell]]]
    notes: list[str]
    unmeasured: dict[str, list[str]]


def metric_table(saved: Sequence[dict[str, Any]]) -> MetricTable:
    """Sort the known metrics, and any others with an interval, into measured and not measured.

    Args:
        saved: content of `metrics.json` for each arm; one column each.
    """
    notes: list[str] = []
    rows: list[tuple[Metric, list[Cell]]] = []
    unmeasured: dict[str, list[str]] = {}
    for metric in _all_metrics(saved):
        if any(to_finite(arm.get(metric.key)) is not None for arm in saved):
            rows.append((metric, [format_metric(metric, arm) or _note_empty(metric, arm, notes) for arm in saved]))
        else:
            unmeasured.setdefault(_find_reason(metric, saved[0]), []).append(metric.name)
    return MetricTable(rows, notes, unmeasured)


def metric_of(key: str) -> Metric:
    """Find how to show `key`; an unknown one is shown under its own name."""
    return next((metric for metric in METRICS if metric.key == key), Metric(key, key, "", ""))


def format_number(value: float, digits: int, signed: bool = False) -> str:
    """Format a number with a true minus sign, and zero without a sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def format_metric(metric: Metric, saved: dict[str, Any]) -> Cell | None:
    """Format the saved mean and interval in the shown unit; None where there is no number."""
    value, ends = to_finite(saved.get(metric.key)), read_interval(saved, metric.key)
    if value is None:
        return None
    text = format_number(value * metric.factor, metric.digits)
    low, high = (format_number(end * metric.factor, metric.digits) for end in ends) if ends else ("", "")
    return Cell(text, low, high)


def _all_metrics(saved: Sequence[dict[str, Any]]) -> list[Metric]:
    """Known metrics, then every other key that has an interval, under its own name."""
    known = {metric.key for metric in METRICS}
    measured = {key.removesuffix("_ci95") for metrics in saved for key in metrics if key.endswith("_ci95")}
    return [*METRICS, *(Metric(key, key, "", "") for key in sorted(measured - known))]


def _note_empty(metric: Metric, saved: dict[str, Any], notes: list[str]) -> Cell:
    """Make a cell with a dash, and add its reason to the footnotes unless it is there."""
    reason = _find_reason(metric, saved)
    if reason not in notes:
        notes.append(reason)
    return Cell("–", reason=reason, mark=notes.index(reason) + 1)


def _find_reason(metric: Metric, saved: dict[str, Any]) -> str:
    if metric.key not in saved:
        return NOT_SAVED
    reasons = saved.get("reasons")
    return str(reasons.get(metric.key, NO_REASON)) if isinstance(reasons, dict) else NO_REASON


def to_finite(value: Any) -> float | None:
    """Convert a finite number to float, and anything else (null, NaN, text, a flag) to None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_interval(metrics: dict[str, Any], key: str) -> tuple[float, float] | None:
    """Read the 95 % interval of metric `key`; None unless both of its ends are finite."""
    ends = metrics.get(f"{key}_ci95")
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    lo, hi = to_finite(ends[0]), to_finite(ends[1])
    return None if lo is None or hi is None else (lo, hi)


NBSP = "\N{NO-BREAK SPACE}"
