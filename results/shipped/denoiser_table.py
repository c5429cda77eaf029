"""The Markdown of a denoiser's record."""

from typing import Any

import numpy as np

from shipped.distances import DRAWS
from shipped.neighbours import NEAR, SIDE

Json = dict[str, Any]


def table(record: Json) -> str:
    """All tables, from the record alone."""
    machine, counts, seconds = record["machine"], record["counts"], record["seconds_for_16"]
    return "\n".join([
        f"# The denoiser `{record['name']}`",
        "",
        f"`{record['command']}` at commit {record['commit']}: {counts['samples']} samples (seeds 0 to "
        f"{counts['samples'] - 1}, labels by their share of the training pictures, guidance {record['guidance']:g}), "
        f"{counts['train']} training and {counts['heldout']} held-out pictures, all {record['resolution']} pixels "
        f"square, 8 bits; {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}.",
        "",
        f"Sampling 16 pictures in {record['steps']} steps, decoded, as `jeppa generate` does it: "
        f"{seconds['median']:.1f} s, the median of {len(seconds['all'])} after a first one that does not count "
        f"({seconds['threads']} threads; {', '.join(f'{one:.1f}' for one in seconds['all'])}).",
        "",
        "## Frechet distance",
        "",
        "On EfficientNet-Lite0 features at 224 pixels: not a FID, and with few pictures far above that of many. So "
        "each column has sets of one size on both sides, and never a picture on both. Mean over "
        f"{DRAWS} random draws [2.5 %, 97.5 % of the draws]; the draws share pictures, so the brackets say what the "
        "choice of the set does and not how sure the mean is. The first row is what real pictures have, the "
        "second what the VAE alone costs: no denoiser of its latents can be expected below it. Real pictures are whole "
        "centred squares, while the denoiser learned from crops of them.",
        "",
        *_distances(record["distances"]),
        "",
        "Learned variance less plain DDIM of the same seeds against the same pictures; below 0 the variance helps:",
        "",
        *_differences(record),
        "",
        "## Nearest training pictures",
        "",
        f"LPIPS (AlexNet) at {SIDE} pixels to the nearest training picture, as it is or mirrored. Near: nearer than "
        f"all but {100 * NEAR:.0f} % of the held-out pictures are; about {100 * NEAR:.0f} % would be no more than "
        "chance. What the VAE leaves of pictures is compared too, as it could hide a copy: there a copied latent has "
        "distance 0.",
        "",
        *_closeness(record["neighbours"]),
        "",
        f"![Samples beside their nearest three training pictures]({record['name']}-neighbours.png)",
        "",
        "Left seeds 0 to 7, right those eight of all samples that lie nearest to a training picture; each beside its "
        "nearest three.",
        "",
        "## Class accuracy",
        "",
        "Logistic regression on the same features, trained on training pictures and their mirror images alone. "
        f"Guessing: {record['chance']['any']:.3f}, always the most frequent class: "
        f"{record['chance']['most_frequent']:.3f}. Mean [95 % bootstrap interval over pictures].",
        "",
        *_accuracies(record),
        "",
        f"## Seeds 0 to {len(record['sheet']['labels']) - 1}",
        "",
        f"![Uncurated samples](../../docs/{record['sheet']['file']})",
        "",
        "Asked for, in rows of eight: " + ", ".join(record["sheet"]["labels"]) + ".",
        "",
    ])  # fmt: skip


def _distances(found: Json) -> list[str]:
    columns = list(next(iter(found.values())))
    lines = ["| | " + " | ".join(f"to {column}" for column in columns) + " |", "|---|" + "---|" * len(columns)]
    return lines + [f"| {row} | " + " | ".join(_spread(cells[one]) for one in columns) + " |"
                    for row, cells in found.items()]  # fmt: skip


def _differences(record: Json) -> list[str]:
    columns = list(next(iter(record["distances"].values())))
    lines = ["| | " + " | ".join(f"to {column}" for column in columns) + " | accuracy |",
             "|---|" + "---|" * (len(columns) + 1)]  # fmt: skip
    for pair in record["pairs"]:
        learned, plain = (record["distances"][pair[key]] for key in ("learned", "plain"))
        cells = [_spread(list(np.subtract(learned[one], plain[one]))) for one in columns]
        lines.append(f"| {pair['steps']} steps | " + " | ".join([*cells, interval(pair["accuracy"])]) + " |")
    return lines


def _closeness(found: Json) -> list[str]:
    lines = ["| compared with | median of samples | median of held-out | near is below | share near [95 %] |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, one in found.items():
        low, high = one["share_near_ci95"]
        lines.append(f"| {name} | {one['median_samples']:.3f} | {one['median_heldout']:.3f} | {one['near']:.3f} | "
                     f"{one['share_near']:.3f} [{low:.3f}, {high:.3f}] |")  # fmt: skip
    return lines


def _accuracies(record: Json) -> list[str]:
    rows = [f"| {name} | {one['count']} | {interval(one)} |" for name, one in record["accuracy"].items()]
    return ["| pictures | how many | accuracy |", "|---|---|---|", *rows]


def _spread(values: list[float]) -> str:
    """Mean and brackets; without them where every draw is the same sets, because they are all that there is."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{np.mean(values):.1f} [{low:.1f}, {high:.1f}]" if np.ptp(values) > 1e-6 else f"{np.mean(values):.1f}"


def interval(estimate: Json) -> str:
    """Mean and interval of an estimate."""
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"
