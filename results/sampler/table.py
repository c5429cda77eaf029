"""The Markdown of the sampler study."""

from typing import Any

import numpy as np
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
        "Frechet distances on EfficientNet-Lite0 features at 128 pixels, half of the samples against half of the "
        "pictures, the mean of both halves; mean over seeds [95 % t-interval].",
        "",
        f"To real pictures. Their halves to each other: {record['floors']['real']:.1f}; reconstructions of one half "
        f"by the VAE to the other half: {record['floors']['reconstructed_to_real']:.1f}.",
        "",
        *_main(record, "fd"),
        "",
        "To reconstructions of real pictures, which is what a denoiser of these latents can reach. Their halves to "
        f"each other: {record['floors']['reconstructed']:.1f}.",
        "",
        *_main(record, "fd_reconstructed"),
        "",
        "Differences by seed, first less second; below 0 the first is better:",
        "",
        *_differences(record),
        "",
        "## Quality against diversity",
        "",
        f"At {record['knob_steps']} evaluations (guidance takes two for each step). Precision: share of samples that "
        "look like reconstructions of real pictures. Recall: share of those that samples cover.",
        "",
        *_knobs(record),
        "",
        "## Rejection of the most uncertain 20 %",
        "",
        "The score was chosen among five on seed 0 and judged on the other seeds. Distances to reconstructions.",
        "",
        *_rejections(record),
        "",
    ])  # fmt: skip


def _shown(values: list[float], digits: int = 2) -> str:
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _column(record: Json, name: str, key: str) -> list[float]:
    return [run[key] for run in record["rows"][name]]


def _main(record: Json, key: str) -> list[str]:
    titles = ("plain", "eta 1", "learned", "learned, last drawn", "dpm-solver++", "unipc")
    lines = ["| evaluations | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for steps in EVALUATIONS:
        names = [f"{title} {steps}" for title in titles]
        cells = [_shown(_column(record, name, key), 1) if name in record["rows"] else "" for name in names]
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    return lines


def _differences(record: Json) -> list[str]:
    pairs = [(f"learned {n}", f"plain {n}") for n in EVALUATIONS]
    pairs += [(f"learned, last drawn {n}", f"plain {n}") for n in LAST_DRAWN]
    pairs += [(f"learned {n}", f"dpm-solver++ {n}") for n in EVALUATIONS]
    pairs += [("learned 10", "plain 20"), ("learned, last drawn 10", "plain 20")]
    lines = ["| first | second | to real | to reconstructions |", "|---|---|---|---|"]
    for first, second in pairs:
        cells = []
        for key in ("fd", "fd_reconstructed"):
            both = zip(_column(record, first, key), _column(record, second, key), strict=True)
            cells.append(_shown([a - b for a, b in both], 1))
        lines.append(f"| {first} | {second} | " + " | ".join(cells) + " |")
    return lines


def _knobs(record: Json) -> list[str]:
    steps = record["knob_steps"]
    order = [
        f"plain {steps}", f"temperature 0.5 {steps}", f"learned {steps}", f"temperature 1.5 {steps}",
        f"eta 0.5 {steps}", f"eta 1 {steps}", f"guidance 2 {steps}", f"guidance 4 {steps}",
    ]  # fmt: skip
    keys = ("fd", "fd_reconstructed", "precision", "recall")
    lines = ["| sampler | FD to real | FD to reconstructions | precision | recall |", "|---|---|---|---|---|"]
    for name in order:
        cells = [_shown(_column(record, name, key), 1 if key.startswith("fd") else 3) for key in keys]
        lines.append(f"| {name.removesuffix(f' {steps}')} | " + " | ".join(cells) + " |")
    return lines


def _rejections(record: Json) -> list[str]:
    lines = [
        "| sampler | score | seeds | FD of the rest | of random 80 % [95 %] | recall | of random 80 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in record["rejection"]:
        lines.append(_rejection(entry["score"], str(entry["seed"]), [entry]))
    for sampler in dict.fromkeys(entry["sampler"] for entry in record["rejection"]):
        judged = [one for one in record["rejection"] if one["sampler"] == sampler and one["seed"] != record["seeds"][0]]
        lines.append(_rejection(judged[0]["score"], " and ".join(str(one["seed"]) for one in judged), judged))
    return lines


def _rejection(score: str, seeds: str, entries: list[Json]) -> str:
    """Means over entries; the k-th random sets of all seeds count as one draw."""
    random = np.mean([entry["fd_random"] for entry in entries], axis=0)
    low, high = np.quantile(random, [0.025, 0.975])
    found, recall, recalled = (np.mean([entry[key] for entry in entries]) for key in ("fd", "recall", "recall_random"))
    return (
        f"| {entries[0]['sampler']} | {score} | {seeds} | {found:.1f} | {random.mean():.1f} [{low:.1f}, {high:.1f}] | "
        f"{recall:.3f} | {recalled:.3f} |"
    )
