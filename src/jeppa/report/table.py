"""The metrics of `metrics.json` in words: unit, direction, what it says; and the rows of the page's table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jeppa.report.saved import Arm, interval, number

HIGHER, LOWER, NONE = "higher is better", "lower is better", ""
NO_REASON = "saved as null without a reason"


@dataclass(frozen=True)
class Metric:
    """How to show one key of `metrics.json`.

    Args:
        key: in `metrics.json`.
        name: for people.
        unit: may be empty.
        aim: which way is better, or the target.
        text: what it says, in one line.
        digits: decimal places.
        factor: from the saved to the shown unit.
    """

    key: str
    name: str
    unit: str
    aim: str
    text: str
    digits: int = 3
    factor: float = 1.0


def _coverage(percent: int) -> Metric:
    text = f"Share of true values inside the predicted central {percent} % interval."
    return Metric(f"coverage_{percent}", f"Coverage {percent}", "%", f"target {percent}", text, 1, 100.0)


METRICS = (
    Metric("psnr", "PSNR", "dB", HIGHER, "Closeness of the mean to the original; 6 dB more is half the error.", 2),
    Metric("ssim", "SSIM", "", HIGHER, "Structural similarity to the original; 1 is a copy."),
    Metric("delta_e2000", "Colour difference", "CIEDE2000", LOWER, "Visible difference of colour; 1 is just seen.", 2),
    Metric(
        "gradient_energy_ratio", "Sharpness", "", "target 1",
        "Mean gradient of the reconstruction over that of the original; below 1 is blurred.",
    ),
    Metric("lpips_alex", "LPIPS (AlexNet)", "", LOWER, "Perceptual distance to the original."),
    Metric("lpips_vgg", "LPIPS (VGG)", "", LOWER, "Perceptual distance to the original."),
    Metric(
        "fd_efficientnet_lite0", "Fréchet distance", "", LOWER,
        "Distance between the feature distributions of reconstructions and originals.",
    ),
    Metric("fd_floor", "Fréchet floor", "", NONE, "The same between two halves of the originals."),
    Metric(
        "distortion_bpd", "Distortion", "bits/dim", LOWER,
        "Code length of the pixels once the latent is known; pays for error and for a wrong sigma.",
    ),
    Metric("rate_bpd", "Rate", "bits/dim", "lower, at equal distortion", "Code length of the latent."),
    Metric(
        "elbo_bpd", "ELBO", "bits/dim", LOWER,
        "Rate plus distortion: an upper bound on the lossless code length; 8 is no compression.",
    ),
    Metric("ence", "ENCE", "", LOWER, "Mean relative gap between predicted and observed error over bins of sigma."),
    Metric("chi2", "Standardised error", "", "target 1", "Mean squared error over predicted variance; above 1 is overconfident.", 2),
    Metric("crps", "CRPS", "", LOWER, "Distance of the predicted distribution to the true value."),
    Metric("ause", "AUSE", "", LOWER, "Cost of discarding pixels by sigma instead of by true error; 0 is ideal."),
    Metric("ause_sobel", "AUSE of an edge detector", "", "baseline", "The same with edges for sigma."),
    Metric(
        "sigma_error_spearman", "Sigma ranks the errors", "", HIGHER,
        "Spearman rank correlation of sigma and |error| over 8×8 blocks; 1 is the perfect order, 0 none.",
    ),
    Metric("sigma_error_spearman_sobel", "… of an edge detector", "", "baseline", "The same with edges for sigma."),
    *map(_coverage, (50, 68, 90, 95)),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One number as text; `spread` is its interval; `reason` and its footnote `mark` say why there is none."""

    text: str
    spread: str = ""
    reason: str = ""
    mark: int | None = None


@dataclass(frozen=True)
class MetricTable:
    """Rows of the table, its footnotes in order, and the names of known metrics that no arm has."""

    rows: list[tuple[Metric, list[Cell]]]
    notes: list[str]
    absent: list[str]


def metric_table(arms: Sequence[Arm], metrics: dict[str, dict[str, Any]]) -> MetricTable:
    """Table of all metrics that at least one arm has, null ones included, columns in the order of `arms`.

    Args:
        arms: the columns.
        metrics: content of `metrics.json` by the name of the arm.
    """
    notes: list[str] = []
    shown = [metric for metric in _all_metrics(metrics) if any(metric.key in saved for saved in metrics.values())]
    rows = [(metric, [_cell(metric, metrics[arm.arm], notes) for arm in arms]) for metric in shown]
    known = {metric.key for metric in shown}
    return MetricTable(rows, notes, [metric.name for metric in METRICS if metric.key not in known])


def decimals(value: float, digits: int, signed: bool = False) -> str:
    """A number with a true minus sign, and none on a zero."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def shown(metric: Metric, metrics: dict[str, Any]) -> Cell | None:
    """The saved mean and interval in the shown unit, or None where there is no number."""
    value, ends = number(metrics.get(metric.key)), interval(metrics, metric.key)
    if value is None:
        return None
    spread = ", ".join(decimals(end * metric.factor, metric.digits) for end in ends) if ends else ""
    return Cell(decimals(value * metric.factor, metric.digits), spread)


def _all_metrics(metrics: dict[str, dict[str, Any]]) -> list[Metric]:
    """Known metrics, then any other key with an interval beside it, under its own name."""
    known = {metric.key for metric in METRICS}
    ends = {key for saved in metrics.values() for key in saved if key.endswith("_ci95")}
    others = sorted({key.removesuffix("_ci95") for key in ends} - known)
    return [*METRICS, *(Metric(key, key, "", NONE, "") for key in others)]


def _cell(metric: Metric, metrics: dict[str, Any], notes: list[str]) -> Cell:
    """The cell of one arm; a reason that is new is added to the footnotes."""
    cell = shown(metric, metrics)
    if cell is not None:
        return cell
    if metric.key not in metrics:
        return Cell("–", reason="not measured for this arm", mark=None)
    reasons = metrics.get("reasons")
    reason = str(reasons.get(metric.key, NO_REASON)) if isinstance(reasons, dict) else NO_REASON
    if reason not in notes:
        notes.append(reason)
    return Cell("–", reason=reason, mark=notes.index(reason) + 1)
