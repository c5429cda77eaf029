"""The Markdown of a VAE's record."""

import math
from typing import Any

from claims.verdict import Figure, Promise, decide

from shipped.vae_lines import LIKENESS

Json = dict[str, Any]

KEYS = {
    "psnr": 2, "ssim": 3, "lpips_alex": 3, "lpips_vgg": 3, "delta_e2000": 2, "gradient_energy_ratio": 3,
    "fd_efficientnet_lite0": 1, "fd_floor": 1, "distortion_bpd": 3, "rate_bpd": 4, "elbo_bpd": 3, "ence": 3,
    "ence_constant": 3, "ence_sobel": 3, "ence_recalibrated": 3, "chi2": 3, "coverage_50": 3, "coverage_68": 3,
    "coverage_90": 3, "coverage_95": 3, "coverage_90_recalibrated": 3, "sigma_error_spearman": 3,
    "sigma_error_spearman_sobel": 3,
}  # fmt: skip
"""Figures of `jeppa evaluate` that are shown, with their digits."""
ASKED = (
    ("psnr", (512,), Promise(low=26.0)),
    ("ence", (256, 512), Promise(high=0.15)),
    ("coverage_90", (256, 512), Promise(0.86, 0.94)),
)
"""What a shipped VAE has to reach, and at which sides in pixels."""


def table(record: Json) -> str:
    """All tables, from the record alone."""
    machine, models = record["machine"], record["models"]
    out = [
        f"# The VAE `{record['name']}`",
        "",
        f"`{record['command']}` at commit {record['commit']}; {machine['processor']}, {machine['cores']} cores, torch "
        f"{machine['torch']}.",
        "",
        "| | " + " | ".join(models) + " |",
        "|---|" + "---|" * len(models),
        *(f"| {key} | " + " | ".join(str(one[key]) for one in models.values()) + " |" for key in models["ours"]),
        "",
        f"Settings in which the two differ: {', '.join(record['differing']) or 'none'}.",
        "",
        "Mean [95 % bootstrap interval over pictures]; of one training run each, so the intervals do not tell what "
        "another seed would give. Below about 20 pictures they are too narrow.",
    ]
    for name, found in record["sets"].items():
        out += ["", f"## {name}", "", *_set(found)]
    return "\n".join([*out, "", "## What was asked for", "", *_asked(record), ""])


def _set(found: Json) -> list[str]:
    side, size = found["resolution"], found["latent_bytes"]
    metrics, paired = found["metrics"], found["paired"]
    out = [
        f"{found['count']} held-out pictures, {side}x{side}.",
        "",
        "| | " + " | ".join(metrics) + " | ours less peer, in pairs |",
        "|---|" + "---|" * (len(metrics) + 1),
    ]
    for key, digits in KEYS.items():
        cells = [cell(one.get(key), one.get(f"{key}_ci95"), digits) for one in metrics.values()]
        pair = paired.get(key)
        out.append(f"| {key} | " + " | ".join([*cells, cell(*pair, digits) if pair else ""]) + " |")
    reasons = {key: why for one in metrics.values() for key, why in one["reasons"].items() if key in KEYS}
    rate = ", ".join(f"{name} {value:.0f}" for name, value in found["rate_bytes"].items())
    return [
        *out,
        "",
        *(f"- no {key}: {why}" for key, why in reasons.items()),
        "",
        "A likelihood of `fixed` states a variance of 1 everywhere, so its bits and its calibration say nothing about "
        "its pictures. With the one variance that suits these pictures best, the bound of the peer would be "
        f"{found['peer_constant_bpd']:.3f} bits a dimension.",
        "",
        f"A latent is {size} numbers; as one byte each, after rounding to 8 bits and without any entropy coding, "
        f"{size} bytes. Its rate, the KL to the prior, is less (bytes a picture: {rate}). JPEG and WebP have the best "
        f"quality whose whole file, headers included, has at most {size} bytes.",
        "",
        "| | bytes | within the bytes | quality | " + " | ".join(LIKENESS) + " |",
        "|---|---|---|---|" + "---|" * len(LIKENESS),
        *(_line(name, one) for name, one in found["lines"].items()),
    ]


def _line(name: str, one: Json) -> str:
    cells = [cell(one[key], one[f"{key}_ci95"], KEYS[key]) for key in LIKENESS]
    quality = f"{one['quality']:.0f}" if "quality" in one else ""
    fitting = f"{100 * one['share_fitting']:.0f} %"
    return f"| {name} | {one['size']:.0f} | {fitting} | {quality} | " + " | ".join(cells) + " |"


def _asked(record: Json) -> list[str]:
    out = ["| figure | pictures | asked for | found | verdict |", "|---|---|---|---|---|"]
    for key, sides, promise in ASKED:
        for name, found in record["sets"].items():
            if found["resolution"] in sides:
                ours = found["metrics"]["ours"]
                value, ends = ours[key], ours[f"{key}_ci95"]
                shown = cell(value, ends, KEYS[key])
                out.append(f"| {key} | {name} | {promise} | {shown} | {verdict(value, ends, promise)} |")
    return [*out, "", "confirmed: the whole interval is on the side asked for; refuted: none of it; else undecided."]


def verdict(value: float | None, ends: list[float | None], promise: Promise) -> str:
    """By the rule of the claims ledger."""
    numbers = [math.nan if one is None else one for one in (value, *ends)]
    return decide(Figure(*numbers, by_seed=(), images=0), promise)


def cell(value: float | None, ends: list[float | None] | None, digits: int) -> str:
    """Value [interval], or a dash for what has none."""
    if value is None or math.isnan(value):
        return "-"
    if ends is None or None in ends or any(map(math.isnan, ends)):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
