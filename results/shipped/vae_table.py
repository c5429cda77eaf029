"""The Markdown of a VAE's record."""

import math
from collections.abc import Sequence

from results.claims.verdict import Figure, Promise, Verdict, decide
from results.record import Json, Value, describe_machine, describe_origin, join_lines, markdown_table, show_interval
from results.shipped.codecs import LIKENESS

KEYS = {
    "psnr": 2, "ssim": 3, "lpips_alex": 3, "lpips_vgg": 3, "delta_e2000": 2, "gradient_energy_ratio": 3,
    "fd_efficientnet_lite0": 1, "fd_floor": 1, "distortion_bpd": 3, "rate_bpd": 4, "elbo_bpd": 3, "ence": 3,
    "ence_constant": 3, "ence_sobel": 3, "ence_recalibrated": 3, "chi2": 3, "coverage_50": 3, "coverage_68": 3,
    "coverage_90": 3, "coverage_95": 3, "coverage_90_recalibrated": 3, "sigma_error_spearman": 3,
    "sigma_error_spearman_sobel": 3,
}  # fmt: skip
"""Figures of `jeppa evaluate` that are shown, and how many digits of them."""
DEMANDS = (
    ("psnr", (512,), Promise(low=26.0)),
    ("ence", (256, 512), Promise(high=0.15)),
    ("coverage_90", (256, 512), Promise(0.86, 0.94)),
)
"""What a shipped VAE must reach, and on pictures of how many pixels a side."""


def render(record: Json) -> str:
    """The record as Markdown."""
    models = record["models"]
    properties = [[key, *(model[key] for model in models.values())] for key in models["ours"]]
    lines = [
        f"# The VAE `{record['name']}`",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}.",
        "",
        markdown_table(["", *models], properties),
        "",
        f"Settings in which the two differ: {', '.join(record['differing']) or 'none'}.",
        "",
        "Mean [95 % bootstrap interval over pictures]; of one training run each, so the intervals do not tell what "
        "another seed would give. Below about 20 pictures they are too narrow.",
    ]
    for name, figures in record["sets"].items():
        lines += ["", f"## {name}", "", *render_set(figures)]
    lines += ["", "## What was asked for", "", render_demands(record), ""]
    lines += ["confirmed: the whole interval is on the side asked for; refuted: none of it; else undecided."]
    return join_lines(lines)


def render_set(figures: Json) -> list[str]:
    """The tables of one set of pictures: both models, and the codecs."""
    side, size = figures["resolution"], figures["latent_bytes"]
    metrics, paired = figures["metrics"], figures["paired"]
    rows = []
    for key, digits in KEYS.items():
        cells = [show_interval(model.get(key), model.get(f"{key}_ci95"), f".{digits}f") for model in metrics.values()]
        rows.append(
            [key, *cells, show_interval(paired[key][0], paired[key][1], f".{digits}f") if key in paired else ""]
        )
    reasons = {key: why for model in metrics.values() for key, why in model["reasons"].items() if key in KEYS}
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in figures["rate_bytes"].items())
    return [
        f"{figures['count']} held-out pictures, {side}x{side}.",
        "",
        markdown_table(["", *metrics, "ours less peer, in pairs"], rows),
        "",
        *(f"- no {key}: {why}" for key, why in reasons.items()),
        "",
        "A likelihood of `fixed` states a variance of 1 everywhere, so its bits and its calibration say nothing about "
        "its pictures. With the one variance that suits these pictures best, the bound of the peer would be "
        f"{figures['peer_constant_bpd']:.3f} bits a dimension.",
        "",
        f"A latent is {size} numbers; as one byte each, after rounding to 8 bits and without any entropy coding, "
        f"{size} bytes. Its rate, the KL to the prior, is less (bytes a picture: {rates}). JPEG and WebP have the best "
        f"quality whose whole file, headers included, has at most {size} bytes.",
        "",
        markdown_table(
            ["", "bytes", "within the bytes", "quality", *LIKENESS],
            [list_cells(name, codec) for name, codec in figures["lines"].items()],
        ),
    ]


def list_cells(name: str, codec: Json) -> list[str]:
    """The cells of one codec."""
    quality = f"{codec['quality']:.0f}" if "quality" in codec else ""
    likeness = [show_interval(codec[key], codec[f"{key}_ci95"], f".{KEYS[key]}f") for key in LIKENESS]
    return [name, f"{codec['size']:.0f}", f"{100 * codec['share_fitting']:.0f} %", quality, *likeness]


def render_demands(record: Json) -> str:
    """What was asked for, what was measured, and the verdict."""
    rows = []
    for key, sides, promise in DEMANDS:
        for name, figures in record["sets"].items():
            if figures["resolution"] in sides:
                ours = figures["metrics"]["ours"]
                value, ends = ours[key], ours[f"{key}_ci95"]
                shown = show_interval(value, ends, f".{KEYS[key]}f")
                rows.append([key, name, promise, shown, judge(value, ends, promise)])
    return markdown_table(["figure", "pictures", "asked for", "found", "verdict"], rows)


def judge(value: Value, ends: Sequence[Value], promise: Promise) -> Verdict:
    """A verdict by the rule of the claims study."""
    mean, low, high = (math.nan if number is None else number for number in (value, *ends))
    return decide(Figure(mean, low, high, by_seed=(), images=0), promise)
