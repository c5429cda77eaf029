"""The Markdown of the sampler study."""

from typing import Any

import torch

from sampler.measuring import interval
from sampler.samplers import EVALUATIONS, LAST_DRAWN

Json = dict[str, Any]


def table(record: Json) -> str:
    """All tables, from the record alone."""
    machine = record["machine"]
    return "\n".join([
        "# Samplers on real latents",
        "",
        f"`{record['command']}` at commit {record['commit']}: {record['count']} samples of each sampler and "
        f"seed, seeds {', '.join(map(str, record['seeds']))} (each a denoiser of its own), {record['train_steps']} "
        f"training steps, grocery pictures at {record['resolution']} pixels; {machine['processor']}, "
        f"{machine['cores']} cores, torch {torch.__version__}.",
        "",
        "Frechet distance on EfficientNet-Lite0 features at 128 pixels, half of the samples against half of the real "
        f"pictures, the mean of both halves. Two halves of the real pictures: {record['floor']:.2f}. One half's "
        f"reconstructions by the VAE against the other half: {record['reconstruction_floor']:.2f}. Mean over seeds "
        "[95 % t-interval].",
        "",
        *_main(record),
        "",
        "Differences by seed, first less second; below 0 the first is better:",
        "",
        *_differences(record),
        "",
        "## Quality against diversity",
        "",
        f"At {record['knob_steps']} evaluations. Precision: share of samples that look real. Recall: share of real "
        "pictures that samples cover.",
        "",
        *_knobs(record),
        "",
        "## Rejection of the most uncertain 20 %",
        "",
        "The score was chosen among five on seed 0 and judged on the other seeds.",
        "",
        *_rejections(record),
        "",
    ])  # fmt: skip


def _shown(values: list[float], digits: int = 2) -> str:
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _column(record: Json, name: str, key: str) -> list[float]:
    return [run[key] for run in record["rows"][name]]


def _main(record: Json) -> list[str]:
    titles = ("plain", "eta 1", "learned", "learned, last drawn", "dpm-solver++", "unipc")
    lines = ["| evaluations | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for steps in EVALUATIONS:
        names = [f"{title} {steps}" for title in titles]
        cells = [_shown(_column(record, name, "fd")) if name in record["rows"] else "" for name in names]
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    return lines


def _differences(record: Json) -> list[str]:
    pairs = [(f"learned {n}", f"plain {n}") for n in EVALUATIONS]
    pairs += [(f"learned, last drawn {n}", f"plain {n}") for n in LAST_DRAWN]
    pairs += [(f"learned {n}", f"dpm-solver++ {n}") for n in EVALUATIONS]
    pairs += [("learned 10", "plain 20"), ("learned, last drawn 10", "plain 20")]
    lines = ["| first | second | difference |", "|---|---|---|"]
    for first, second in pairs:
        both = zip(_column(record, first, "fd"), _column(record, second, "fd"), strict=True)
        lines.append(f"| {first} | {second} | {_shown([a - b for a, b in both])} |")
    return lines


def _knobs(record: Json) -> list[str]:
    steps = record["knob_steps"]
    order = [
        f"plain {steps}", f"temperature 0.5 {steps}", f"learned {steps}", f"temperature 1.5 {steps}",
        f"eta 0.5 {steps}", f"eta 1 {steps}", f"guidance 2 {steps}", f"guidance 4 {steps}",
    ]  # fmt: skip
    lines = ["| sampler | FD | precision | recall |", "|---|---|---|---|"]
    for name in order:
        cells = [_shown(_column(record, name, key), 2 if key == "fd" else 3) for key in ("fd", "precision", "recall")]
        lines.append(f"| {name.removesuffix(f' {steps}')} | " + " | ".join(cells) + " |")
    return lines


def _rejections(record: Json) -> list[str]:
    lines = [
        "| sampler | score | seed | FD of the rest | FD of random 80 % [95 %] | recall | recall of random 80 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in record["rejection"]:
        lines.append(
            f"| {entry['sampler']} | {entry['score']} | {entry['seed']} | {entry['fd']:.2f} | {entry['fd_random']:.2f} "
            f"[{entry['fd_random_lo']:.2f}, {entry['fd_random_hi']:.2f}] | {entry['recall']:.3f} | "
            f"{entry['recall_random']:.3f} |"
        )
    return lines
