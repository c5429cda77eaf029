"""Large pictures in tiles: time and memory against size, likeness to the untiled answer, and seams.

    python -m results.tiling MODEL [--data SOURCE] [--largest 8192]

MODEL is a run folder of a `small` VAE or a shipped model. Pictures are mosaics of centred squares of the photographs of
SOURCE (builtin:photos unless given), each 384 pixels a side, in random order and mirrored from the second round on.
`enlarged` is one photograph scaled up, smooth as large pictures with few details are. Time and memory of each picture
are measured in a process of its own; without tiles pictures have at most 4096 pixels a side.

Writes `tiling.json` and `tiling.md`: what is promised of tiles beside what was measured; seconds and MiB for each size
with and without tiles, and their exponents; likeness and seams of tiles as they are and of variants that were rejected,
for `small` and `sd`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from jeppa.data import open_source, to_x
from jeppa.data.decode import Pixels
from jeppa.data.images import LEVELS_PER_UNIT, fit_square
from jeppa.outputs import reconstruct_pixels
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE, blending, tiling
from jeppa.vae.blending import Plane
from results.record import (
    Json,
    describe_origin,
    join_lines,
    markdown_table,
    report_progress,
    run_study,
    save_record,
    study_parser,
)

SIDES = (512, 1024, 2048, 4096, 8192)
UNTILED = 4096
"""Pixels a side of the largest picture that is also reconstructed without tiles."""
SQUARE = 384
UNCHANGED = "as it is"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("tiling", __doc__)
    parser.add_argument("model", help="run folder or shipped name of a `small` VAE")
    parser.add_argument("--data", default="builtin:photos", help="photographs to make mosaics of")
    parser.add_argument("--largest", type=int, choices=SIDES[1:], default=SIDES[-1], help="pixels a side")
    return run_study(parser, measure_tiling, arguments)


def measure_tiling(options: argparse.Namespace) -> None:
    """Measure everything and write the record."""
    growth = measure_growth(options.model, options.data, options.largest)
    vae = load_model(options.model).codec.vae
    assert vae.tiling is not None
    default_tile = 8 * vae.tiling.tile
    small = compare_variants(vae, make_pictures(options.data, 1024), 512, list(VARIANTS), [16, 32, 64])
    for side in (side for side in (2048, UNTILED) if default_tile < side <= options.largest):
        names = list(VARIANTS)[: 2 if side < UNTILED else 1]
        small += compare_variants(vae, make_pictures(options.data, side), default_tile, names)
    torch.manual_seed(0)
    random_sd = HeteroscedasticVAE("sd").eval().requires_grad_(False)
    mosaic = {"mosaic": make_mosaic(options.data, 384)}
    figures = {
        "default_tile": default_tile,
        "growth": growth,
        "exponents": {way: fit_exponents(growth, way) for way in ("rows", "whole")},
        "small": small,
        "sd": compare_variants(random_sd, mosaic, 256, list(VARIANTS)[:4], [16, 32]),
    }
    save_record(options.command, options.out / "tiling", figures, render)


def make_pictures(source: str, side: int) -> dict[str, Pixels]:
    """A picture of many details and one of few."""
    return {"mosaic": make_mosaic(source, side), "enlarged": enlarge_photograph(source, side)}


def make_mosaic(source: str, side: int) -> Pixels:
    """Photographs in a grid, uint8 `[side,side,3]`."""
    refs = open_source(source, "all").refs
    rng = np.random.default_rng(0)
    count = -(-side // SQUARE)
    order = np.concatenate([rng.permutation(len(refs)) for _ in range(-(-count * count // len(refs)))])
    grid = np.empty((count * SQUARE, count * SQUARE, 3), np.uint8)
    for place, index in enumerate(order[: count * count]):
        square = fit_square(refs[index].read_pixels(), SQUARE)
        top, left = (part * SQUARE for part in divmod(place, count))
        grid[top : top + SQUARE, left : left + SQUARE] = square if place < len(refs) else square[:, ::-1]
    return np.ascontiguousarray(grid[:side, :side])


def enlarge_photograph(source: str, side: int) -> Pixels:
    """The first photograph, scaled up to uint8 `[side,side,3]`."""
    pixels = fit_square(open_source(source, "all").refs[0].read_pixels(), 512)
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def measure_growth(model: str, source: str, largest: int) -> list[Json]:
    """Seconds and MiB for every size, in tiles (`rows`) and up to `UNTILED` without (`whole`)."""
    rows = []
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.npy"
        for side in (side for side in SIDES if side <= largest):
            np.save(picture, make_mosaic(source, side))
            for way in ("rows", "whole") if side <= UNTILED else ("rows",):
                # A process of its own: memory is read as the most that the process ever had.
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    figures = process.submit(measure_reconstruction, model, picture, way).result()
                rows.append({"side": side, "way": way, **figures})
                report_progress(str(rows[-1]))
    return rows


def measure_reconstruction(model: str, picture: Path, way: str) -> dict[str, float]:
    """Encode one picture, decode it and map sigma: seconds, and MiB above the loaded model, the picture included."""
    loaded = load_model(model)
    reconstruct_pixels(loaded, np.zeros((64, 64, 3), np.uint8))
    before = read_memory("VmRSS")
    pixels = np.load(picture)
    start = time.perf_counter()
    if way == "rows":
        reconstruct_pixels(loaded, pixels)
    else:
        loaded.codec.vae.disable_tiling()
        loaded.reconstruct(to_x(pixels)[None])
    return {"seconds": time.perf_counter() - start, "mib": read_memory("VmHWM") - before}


def read_memory(key: str) -> float:
    """MiB that this process has now (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def fit_exponents(growth: list[Json], way: str) -> dict[str, float]:
    """Slopes of log time and log memory over log pixels."""
    rows = [row for row in growth if row["way"] == way]
    pixels = np.log([row["side"] ** 2 for row in rows])
    return {key: float(np.polyfit(pixels, np.log([row[key] for row in rows]), 1)[0]) for key in ("seconds", "mib")}


class OwnStatistics(AbstractContextManager[None]):
    """Stands in for `FixedStatistics`: group norm takes the statistics of each tile."""

    def __init__(self, statistics: object) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def read_thumbnail(read: tiling.Read, plane: Plane, _: tiling.Tiling) -> tuple[Tensor, int]:
    """Stands in for the crops that statistics are measured on: the whole picture, at a sixteenth of its pixels."""
    whole = read(0, plane.height * plane.scale_in, 0, plane.width * plane.scale_in)
    return F.interpolate(whole, scale_factor=0.25, mode="area"), 0


def cut_hard(span: blending.Span, margin: int, scale: int) -> Tensor:
    """Stands in for the window that blends tiles: a cut in the middle of the overlap."""
    places = torch.arange((span.stop - span.start) * scale) / scale
    weights = torch.ones_like(places)
    if span.before:
        weights = weights * (places >= 1.5 * margin)
    return weights * (places < span.stop - span.start - 1.5 * margin) if span.after else weights


VARIANTS: dict[str, tuple[tuple[str, object], ...]] = {
    UNCHANGED: (),
    "tile's own statistics": (("FixedStatistics", OwnStatistics),),
    "tile's own statistics, hard cut": (("FixedStatistics", OwnStatistics), ("window", cut_hard)),
    "statistics of a thumbnail": (("_crops", read_thumbnail),),
    "crops with their borders": (("CROP_MARGIN", 0),),
    "crops of 8 cells": (("CROP", 8),),
}
"""What each variant replaces in `jeppa.vae.tiling`, by attribute."""


@torch.no_grad()
def compare_variants(
    vae: HeteroscedasticVAE, pictures: dict[str, Pixels], tile: int, names: list[str], margins: Sequence[int] = ()
) -> list[Json]:
    """Likeness of every variant to the untiled answer, on every picture.

    Args:
        vae: the model.
        pictures: uint8 `[H,W,3]` by name.
        tile: pixels a side of a tile.
        names: variants, keys of `VARIANTS`, with the default margin.
        margins: in pixels, for which tiles as they are are compared too.
    """
    rows = []
    for picture, pixels in pictures.items():
        x = to_x(pixels)[None]
        vae.disable_tiling()
        untiled = vae.reconstruct(x)
        settings = [*((name, None) for name in names), *((UNCHANGED, margin) for margin in margins)]
        for variant, margin in settings:
            vae.enable_tiling(tile, margin)
            assert vae.tiling is not None
            with ExitStack() as stack:
                for attribute, replacement in VARIANTS[variant]:
                    stack.enter_context(patch.object(tiling, attribute, replacement))
                tiled = vae.reconstruct(x)
            error = (tiled.mean - untiled.mean).square().mean()
            sigma_error = ((0.5 * tiled.logvar).exp() - (0.5 * untiled.logvar).exp()).abs().mean()
            row = {
                "picture": picture, "side": x.shape[3], "tile": tile, "variant": variant,
                "margin": 8 * vae.tiling.margin, "psnr": float(10.0 * torch.log10(4.0 / error)),
                "sigma_levels": LEVELS_PER_UNIT * float(sigma_error),
                **measure_seams(vae.tiling, tiled.mean, untiled.mean),
            }  # fmt: skip
            report_progress(str(row))
            rows.append(row)
    return rows


def measure_seams(settings: tiling.Tiling, tiled: Tensor, untiled: Tensor) -> dict[str, float]:
    """Mean |gradient| in each column where tiles overlap over that elsewhere, both of the tiled over the untiled.

    `zone` is the mean over these columns, `line` the one farthest from 1; 1 is seamless. A column is compared with
    those at the same place within their cells of 8 pixels, since a net leaves a pattern of that period.
    """
    phase = torch.arange(tiled.shape[3] - 1) % 8
    overlap = torch.zeros(len(phase), dtype=torch.bool)
    for span in blending.spans(tiled.shape[3] // 8, settings.tile, settings.margin)[1:]:
        overlap[8 * span.start - 1 : 8 * (span.start + blending.OVERLAP * settings.margin)] = True
    ours, theirs = ((x[..., 1:] - x[..., :-1]).abs().mean((0, 1, 2)) for x in (tiled, untiled))
    ratio = ours / theirs
    elsewhere = torch.stack([ratio[(phase == column) & ~overlap].mean() for column in range(8)])
    lines = ratio[overlap] / elsewhere[phase[overlap]]
    return {"zone": float(lines.mean()), "line": float(lines[(lines - 1.0).abs().argmax()])}


def render(record: Json) -> str:
    """The record as Markdown."""
    about = record["machine"]
    growth = [[row["side"], row["way"], f"{row['seconds']:.1f}", f"{row['mib']:.0f}"] for row in record["growth"]]
    lines = [
        "# Tiles",
        "",
        f"{describe_origin(record)}, {about['processor']}, {about['threads']} threads, torch {about['torch']}.",
        "",
        "## Promised and found",
        "",
        markdown_table(["what", "promised", "found"], list_promises(record)),
        "",
        "## Time and memory",
        "",
        f"Encode, decode and sigma map of a mosaic with `small`, tiles of {record['default_tile']} pixels; MiB above "
        "the loaded model, pictures included. `rows` is what `jeppa reconstruct` does, `whole` has no tiles.",
        "",
        markdown_table(["side", "way", "seconds", "MiB"], growth),
        "",
        *(
            f"- exponents in pixels, {way}: time {slopes['seconds']:.2f}, memory {slopes['mib']:.2f}"
            for way, slopes in record["exponents"].items()
        ),
        "",
        "## Likeness to the untiled answer, and seams",
        "",
        "PSNR of the mean against the untiled mean; mean error of sigma in 8-bit levels; mean |gradient| where "
        "tiles overlap over that elsewhere, relative to the untiled answer, in all these columns and in the worst.",
    ]
    titles = {"small": "`small`, trained", "sd": "`sd`, random weights: self-attention in the middle"}
    headers = ["picture", "side", "tile", "margin", "variant", "PSNR", "sigma", "zone", "line"]
    for key, title in titles.items():
        rows = [
            [
                *(row[name] for name in headers[:5]), f"{row['psnr']:.1f}", f"{row['sigma_levels']:.3f}",
                f"{row['zone']:.4f}", f"{row['line']:.3f}",
            ]
            for row in record[key]
        ]  # fmt: skip
        lines += ["", f"### {title}", "", markdown_table(headers, rows)]
    return join_lines(lines)


def list_promises(record: Json) -> list[tuple[str, str, str]]:
    """What is promised of `small` with the default tiles: the figure, its bound, and what was measured."""
    rows = [row for row in record["small"] if row["variant"] == UNCHANGED and row["tile"] == record["default_tile"]]
    largest = max((row["side"] for row in rows), default=0)
    rows = [row for row in rows if row["side"] == largest]
    memory = {row["side"]: f"{row['mib']:.0f}" for row in record["growth"] if row["way"] == "rows"}
    return [
        ("MiB above the model at 4096", "at most 2560", memory.get(4096, "not run")),
        *(
            (f"exponent of {key} in pixels, in tiles", "at most 1.05", f"{slope:.2f}")
            for key, slope in record["exponents"]["rows"].items()
        ),
        *(
            (f"PSNR against untiled, {row['picture']} of {largest}", "at least 40 dB", f"{row['psnr']:.1f} dB")
            for row in rows
        ),
        *(
            (
                f"gradients at seams, {row['picture']} of {largest}", "0.95 to 1.05",
                f"{row['zone']:.4f}, worst column {row['line']:.3f}",
            )
            for row in rows
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
