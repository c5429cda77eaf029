"""How the record of a denoiser is shown: its tables, its first samples, and samples beside training pictures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jeppa.data import write_png
from jeppa.data.images import contact_sheet
from jeppa.outputs import split_into_rows
from results.record import (
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    list_numbers,
    markdown_table,
    show_interval,
)
from results.shipped.features import DRAWS
from results.shipped.neighbours import NEAR, SIDE, Neighbours
from results.shipped.pictures import Pictures

SHOWN = 64
"""Seeds 0 to 63 are shown, whatever they look like."""
PAIRS = 8
NEAREST = 3
PNG_BYTES = 1_000_000
JPEG_QUALITY = 92


def render(record: Json) -> str:
    """The record as Markdown."""
    counts, seconds = record["counts"], record["seconds_for_16"]
    return join_lines([
        f"# The denoiser `{record['name']}`",
        "",
        f"{describe_origin(record)}: {counts['samples']} samples (seeds 0 to "
        f"{counts['samples'] - 1}, labels by their share of the training pictures, guidance {record['guidance']:g}), "
        f"{counts['train']} training and {counts['heldout']} held-out pictures, all {record['resolution']} pixels "
        f"square, 8 bits; {describe_machine(record)}.",
        "",
        f"Sampling 16 pictures in {record['steps']} steps, decoded, as `jeppa generate` does it: "
        f"{seconds['median']:.1f} s, the median of {len(seconds['all'])} after a first one that does not count "
        f"({seconds['threads']} threads; {list_numbers(f'{run:.1f}' for run in seconds['all'])}).",
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
        render_distances(record["distances"]),
        "",
        "Learned variance less plain DDIM of the same seeds against the same pictures; below 0 the variance helps:",
        "",
        render_differences(record),
        "",
        "## Nearest training pictures",
        "",
        f"LPIPS (AlexNet) at {SIDE} pixels to the nearest training picture, as it is or mirrored. Near: nearer than "
        f"all but {100 * NEAR:.0f} % of the held-out pictures are; about {100 * NEAR:.0f} % would be no more than "
        "chance. What the VAE leaves of pictures is compared too, as it could hide a copy: there a copied latent has "
        "distance 0.",
        "",
        render_closeness(record["neighbours"]),
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
        render_accuracies(record),
        "",
        f"## Seeds 0 to {len(record['sheet']['labels']) - 1}",
        "",
        f"![Uncurated samples](../../docs/{record['sheet']['file']})",
        "",
        f"Asked for, in rows of eight: {list_numbers(record['sheet']['labels'])}.",
    ])  # fmt: skip


def render_distances(distances: Json) -> str:
    """Distances of real pictures, of reconstructions and of every sampler."""
    columns = list(next(iter(distances.values())))
    rows = [[name, *(show_draws(cells[column]) for column in columns)] for name, cells in distances.items()]
    return markdown_table(["", *(f"to {column}" for column in columns)], rows)


def render_differences(record: Json) -> str:
    """Learned variance less plain DDIM: distances and accuracy."""
    columns = list(next(iter(record["distances"].values())))
    rows = []
    for pair in record["pairs"]:
        learned, plain = (record["distances"][pair[key]] for key in ("learned", "plain"))
        cells = [show_draws(np.subtract(learned[column], plain[column]).tolist()) for column in columns]
        rows.append([f"{pair['steps']} steps", *cells, show_estimate(pair["accuracy"])])
    return markdown_table(["", *(f"to {column}" for column in columns), "accuracy"], rows)


def render_closeness(neighbours: Json) -> str:
    """How near samples and held-out pictures come to training pictures and to their reconstructions."""
    headers = ["compared with", "median of samples", "median of held-out", "near is below", "share near [95 %]"]
    rows = [
        [
            name, f"{figures['median_samples']:.3f}", f"{figures['median_heldout']:.3f}", f"{figures['near']:.3f}",
            show_interval(figures["share_near"], figures["share_near_ci95"]),
        ]
        for name, figures in neighbours.items()
    ]  # fmt: skip
    return markdown_table(headers, rows)


def render_accuracies(record: Json) -> str:
    """Class accuracy of real pictures, of reconstructions and of every sampler."""
    rows = [[name, estimate["count"], show_estimate(estimate)] for name, estimate in record["accuracy"].items()]
    return markdown_table(["pictures", "how many", "accuracy"], rows)


def show_draws(values: list[float]) -> str:
    """Mean over draws, and their 2.5 and 97.5 %; without these if every draw has the same sets, having no choice."""
    ends = np.quantile(values, [0.025, 0.975]).tolist() if np.ptp(values) > 1e-6 else None
    return show_interval(float(np.mean(values)), ends, ".1f")


def show_estimate(estimate: Json) -> str:
    """Mean and interval of an estimate."""
    return show_interval(estimate["mean"], estimate["ci95"])


def write_sample_sheet(samples: Pictures, stem: Path) -> Path:
    """Write the first samples in rows of eight as PNG, or as JPEG if the PNG is large; returns the path of the file."""
    sheet = contact_sheet(split_into_rows(list(samples.pixels[:SHOWN])))
    png, jpeg = stem.with_suffix(".png"), stem.with_suffix(".jpg")
    write_png(sheet, png)
    jpeg.unlink(missing_ok=True)  # of an earlier run
    if png.stat().st_size <= PNG_BYTES:
        return png
    Image.fromarray(sheet).save(jpeg, quality=JPEG_QUALITY, subsampling=0, optimize=True)
    png.unlink()
    return jpeg


def write_neighbour_sheet(samples: Pictures, train: Pictures, neighbours: Neighbours, path: Path) -> None:
    """Write rows of a sample and its nearest three training pictures: left the first seeds, right the suspects.

    Suspects are those of all samples that lie nearest to a training picture.
    """
    count = min(PAIRS, len(samples))
    suspects = np.argsort(neighbours.nearest, kind="stable")[:count]
    gap = np.full_like(samples.pixels[0], 255)[:, : samples.pixels.shape[2] // 4]
    left, right = (
        [place_beside(samples, train, neighbours, sample) for sample in chosen] for chosen in (range(count), suspects)
    )
    rows = [[np.concatenate([a, gap, b], axis=1)] for a, b in zip(left, right, strict=True)]
    write_png(contact_sheet(rows), path)


def place_beside(samples: Pictures, train: Pictures, neighbours: Neighbours, index: int) -> NDArray[np.uint8]:
    """A sample and its nearest training pictures, mirrored if their mirror images are nearer."""
    cells = [samples.pixels[index]]
    for other in np.argsort(neighbours.distance[index], kind="stable")[:NEAREST]:
        pixels = train.pixels[other]
        cells.append(pixels[:, ::-1] if neighbours.mirrored[index, other] else pixels)
    return contact_sheet([cells])
