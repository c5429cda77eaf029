"""The Markdown of the sampler study."""

import numpy as np

from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    list_numbers,
    markdown_table,
    mean_interval,
    show_interval,
)
from results.sampler.samplers import EVALUATIONS, LAST_DRAWN


def render(record: Json) -> str:
    """The record as Markdown."""
    return join_lines([
        "# Samplers on real latents",
        "",
        f"{describe_origin(record)}: {record['count']} samples of each sampler and "
        f"seed, seeds {list_numbers(record['seeds'])} (each a denoiser of its own), {record['train_steps']} "
        f"training steps, grocery pictures at {record['resolution']} pixels; "
        f"{describe_machine(record)}.",
        "",
        "Frechet distances on EfficientNet-Lite0 features at 128 pixels, half of the samples against half of the "
        "pictures, the mean of both halves; mean over seeds [95 % t-interval].",
        "",
        f"To real pictures. Their halves to each other: {record['floors']['real']:.1f}; reconstructions of one half "
        f"by the VAE to the other half: {record['floors']['reconstructed_to_real']:.1f}.",
        "",
        render_distances(record, "fd"),
        "",
        "To reconstructions of real pictures, which is what a denoiser of these latents can reach. Their halves to "
        f"each other: {record['floors']['reconstructed']:.1f}.",
        "",
        render_distances(record, "fd_reconstructed"),
        "",
        "Differences by seed, first less second; below 0 the first is better:",
        "",
        render_differences(record),
        "",
        "## Quality against diversity",
        "",
        f"At {record['knob_steps']} evaluations (guidance takes two for each step). Precision: share of samples that "
        "look like reconstructions of real pictures. Recall: share of those that samples cover.",
        "",
        render_knobs(record),
        "",
        "## Rejection of the most uncertain 20 %",
        "",
        "The score was chosen among five on seed 0 and judged on the other seeds. Distances to reconstructions.",
        "",
        render_rejections(record),
    ])  # fmt: skip


def show_seeds(values: list[float], digits: int) -> str:
    """Mean over seeds with its 95 % t-interval."""
    mean, low, high = mean_interval(values)
    return show_interval(mean, (low, high), f".{digits}f")


def take_column(record: Json, name: str, key: str) -> list[float]:
    """A figure of one sampler for every seed."""
    return [run[key] for run in record["rows"][name]]


def render_distances(record: Json, key: str) -> str:
    """The main table: a row for each number of evaluations, a column for each sampler."""
    titles = ("plain", "eta 1", "learned", "learned, last drawn", "dpm-solver++", "unipc")
    rows = []
    for steps in EVALUATIONS:
        names = [f"{title} {steps}" for title in titles]
        cells = [show_seeds(take_column(record, name, key), 1) if name in record["rows"] else "" for name in names]
        rows.append([steps, *cells])
    return markdown_table(["evaluations", *titles], rows)


def render_differences(record: Json) -> str:
    """Differences of two samplers by seed."""
    pairs = [(f"learned {n}", f"plain {n}") for n in EVALUATIONS]
    pairs += [(f"learned, last drawn {n}", f"plain {n}") for n in LAST_DRAWN]
    pairs += [(f"learned {n}", f"dpm-solver++ {n}") for n in EVALUATIONS]
    pairs += [("learned 10", "plain 20"), ("learned, last drawn 10", "plain 20")]
    rows = []
    for first, second in pairs:
        cells = []
        for key in ("fd", "fd_reconstructed"):
            seeds = zip(take_column(record, first, key), take_column(record, second, key), strict=True)
            cells.append(show_seeds([a - b for a, b in seeds], 1))
        rows.append([first, second, *cells])
    return markdown_table(["first", "second", "to real", "to reconstructions"], rows)


def render_knobs(record: Json) -> str:
    """Quality against diversity."""
    steps = record["knob_steps"]
    titles = (
        "plain", "temperature 0.5", "learned", "temperature 1.5", "eta 0.5", "eta 1", "guidance 2", "guidance 4",
    )  # fmt: skip
    digits = {"fd": 1, "fd_reconstructed": 1, "precision": 3, "recall": 3}
    rows = [
        [title, *(show_seeds(take_column(record, f"{title} {steps}", key), digits[key]) for key in digits)]
        for title in titles
    ]
    return markdown_table(["sampler", "FD to real", "FD to reconstructions", "precision", "recall"], rows)


def render_rejections(record: Json) -> str:
    """Every rejection on its own, then for each sampler the mean over the seeds on which its score was judged."""
    headers = [
        "sampler", "score", "seeds", "FD of the rest", "of random 80 % [95 %]", "recall", "of random 80 %",
    ]  # fmt: skip
    rows = [list_cells([entry]) for entry in record["rejection"]]
    for sampler in dict.fromkeys(entry["sampler"] for entry in record["rejection"]):
        entries = [entry for entry in record["rejection"] if entry["sampler"] == sampler]
        rows.append(list_cells([entry for entry in entries if entry["seed"] != record["seeds"][0]]))
    return markdown_table(headers, rows)


def list_cells(entries: list[Json]) -> list[str]:
    """Means over entries of one sampler and score; the k-th random sets of all seeds count as one draw."""
    random = np.mean([entry["fd_random"] for entry in entries], axis=0)
    distance, recall, random_recall = (
        float(np.mean([entry[key] for entry in entries])) for key in ("fd", "recall", "recall_random")
    )
    ends = np.quantile(random, [0.025, 0.975]).tolist()
    return [
        entries[0]["sampler"], entries[0]["score"], " and ".join(str(entry["seed"]) for entry in entries),
        f"{distance:.1f}", show_interval(float(random.mean()), ends, ".1f"), f"{recall:.3f}", f"{random_recall:.3f}",
    ]  # fmt: skip
