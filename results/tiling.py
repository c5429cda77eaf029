"""Large pictures in tiles: time and memory against size, likeness to the untiled answer, seams, and what lost.

    python results/tiling.py MODEL [--data SOURCE] [--largest 8192] [--out results]

MODEL is a run folder of a `small` VAE or a shipped model. Pictures are mosaics of centred squares of the photographs of
SOURCE (builtin:photos unless given), each 384 pixels a side, in random order and mirrored from the second round on;
`enlarged` is one of the photographs scaled up, smooth as large pictures of few details are. Every figure of time and
memory comes from a process of its own.

Writes `tiling.json` (every figure) and `tiling.md` into OUT: what is promised of tiles beside what was found; seconds
and MiB for each size with and without tiles, and their exponents; likeness and seams of each variant, `small` and `sd`.
Without tiles pictures are at most 4096 pixels a side.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from tiling.table import table
from torch import Tensor
from torch.nn import functional as F

from jeppa.cli.flags import say
from jeppa.data import open_source, to_x
from jeppa.data.images import LEVELS_PER_UNIT, Pixels, fit
from jeppa.machine import commit, machine
from jeppa.outputs import reconstruct_pixels
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE, blending, tiling

HERE = Path(__file__).parent
SIDES = (512, 1024, 2048, 4096, 8192)
UNTILED = 4096
CELL = 384


def mosaic(source: str, side: int) -> Pixels:
    """Photographs in a grid, uint8 `[side,side,3]`."""
    refs = open_source(source, "all").refs
    rng = np.random.default_rng(0)
    count = -(-side // CELL)
    order = np.concatenate([rng.permutation(len(refs)) for _ in range(-(-count * count // len(refs)))])
    out = np.empty((count * CELL, count * CELL, 3), np.uint8)
    for i, index in enumerate(order[: count * count]):
        square = fit(refs[index].read_pixels(), CELL)
        top, left = (part * CELL for part in divmod(i, count))
        out[top : top + CELL, left : left + CELL] = square if i < len(refs) else square[:, ::-1]
    return np.ascontiguousarray(out[:side, :side])


def enlarged(source: str, side: int) -> Pixels:
    """The first photograph, scaled up."""
    pixels = fit(open_source(source, "all").refs[0].read_pixels(), 512)
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def memory(key: str) -> float:
    """MiB of this process now (VmRSS) or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def one(run: Path, picture: Path, way: str) -> dict[str, float]:
    """Encode, decode and sigma map of one picture: seconds, and MiB above the loaded model, the picture included."""
    model = load_model(run)
    reconstruct_pixels(model, np.zeros((64, 64, 3), np.uint8))
    before = memory("VmRSS")
    pixels = np.load(picture)
    start = time.perf_counter()
    if way == "rows":
        reconstruct_pixels(model, pixels)
    else:
        if way == "whole":
            model.codec.vae.disable_tiling()
        model.reconstruct(to_x(pixels)[None])
    return {"seconds": time.perf_counter() - start, "mib": memory("VmHWM") - before}


def growth(run: Path, source: str, largest: int) -> list[dict]:
    """`one` for every side and way, each in its own process; without tiles up to `UNTILED`."""
    rows = []
    with TemporaryDirectory() as folder:
        for side in (side for side in SIDES if side <= largest):
            picture = Path(folder) / "picture.npy"
            np.save(picture, mosaic(source, side))
            for way in ("rows", "whole") if side <= UNTILED else ("rows",):
                command = [sys.executable, __file__, "--one", str(run), str(picture), way]
                found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rows.append({"side": side, "way": way, **json.loads(found)})
                say(str(rows[-1]))
    return rows


def exponents(rows: list[dict], way: str) -> dict[str, float]:
    """Slopes of log time and log memory over log pixels."""
    chosen = [row for row in rows if row["way"] == way]
    pixels = np.log([row["side"] ** 2 for row in chosen])
    return {key: float(np.polyfit(pixels, np.log([row[key] for row in chosen]), 1)[0]) for key in ("seconds", "mib")}


def likeness(vae: HeteroscedasticVAE, x: Tensor, whole: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of the tiled to the untiled answer: PSNR of the mean, sigma's mean error in 8-bit levels, and seams."""
    found = vae.reconstruct(x)
    error = (found.mean - whole[0]).square().mean()
    sigma = ((0.5 * found.logvar).exp() - (0.5 * whole[1]).exp()).abs().mean() * LEVELS_PER_UNIT
    return {"psnr": float(10.0 * torch.log10(4.0 / error)), "sigma_levels": float(sigma),
            **seams(vae.tiling, found.mean, whole[0])}  # fmt: skip


def seams(used: tiling.Tiling, tiled: Tensor, whole: Tensor) -> dict[str, float]:
    """Mean |gradient| in each column where tiles overlap over that elsewhere, both of the tiled over the untiled.

    `zone` is the mean over these columns, `line` the one farthest from 1; 1 is seamless. A column is compared with
    those at the same place of their cells, since a net leaves a pattern of that period.
    """
    place = torch.arange(tiled.shape[3] - 1) % 8
    overlap = torch.zeros(len(place), dtype=torch.bool)
    for span in blending.spans(tiled.shape[3] // 8, used.tile, used.margin)[1:]:
        overlap[8 * span.start - 1 : 8 * (span.start + blending.OVERLAP * used.margin)] = True
    across = [(one[..., 1:] - one[..., :-1]).abs().mean((0, 1, 2)) for one in (tiled, whole)]
    ratio = across[0] / across[1]
    inside = torch.stack([ratio[(place == one) & ~overlap].mean() for one in range(8)])
    lines = ratio[overlap] / inside[place[overlap]]
    return {"zone": float(lines.mean()), "line": float(lines[(lines - 1.0).abs().argmax()])}


class Unfixed(AbstractContextManager):
    """In place of `FixedStatistics`: every tile by its own statistics."""

    def __init__(self, statistics: object) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def thumbnail(read: tiling.Read, plane: tiling.Plane, _: tiling.Tiling) -> tuple[Tensor, int]:
    """In place of crops: the whole picture, scaled down to a sixteenth of its pixels."""
    whole = read(0, plane.height * plane.scale_in, 0, plane.width * plane.scale_in)
    return F.interpolate(whole, scale_factor=0.25, mode="area"), 0


def hard(span: blending.Span, margin: int, scale: int) -> Tensor:
    """In place of the window: a cut in the middle of the overlap."""
    places = torch.arange((span.stop - span.start) * scale) / scale
    kept = torch.ones_like(places)
    if span.before:
        kept = kept * (places >= 1.5 * margin)
    return kept * (places < span.stop - span.start - 1.5 * margin) if span.after else kept


VARIANTS: dict[str, tuple] = {
    "as it is": (),
    "tile's own statistics": (("FixedStatistics", Unfixed),),
    "tile's own statistics, hard cut": (("FixedStatistics", Unfixed), ("window", hard)),
    "statistics of a thumbnail": (("_crops", thumbnail),),
    "crops with their borders": (("CROP_MARGIN", 0),),
    "crops of 8 cells": (("CROP", 8),),
}


@torch.no_grad()
def variants(
    vae: HeteroscedasticVAE, pictures: dict[str, Pixels], tile: int, names: list[str], margins: list[int]
) -> list[dict]:
    """Likeness of every variant on every picture, at a tile of this many pixels."""
    rows = []
    for name, pixels in pictures.items():
        x = to_x(pixels)[None]
        vae.disable_tiling()
        answer = vae.reconstruct(x)
        whole = answer.mean, answer.logvar
        for variant, margin in [(variant, None) for variant in names] + [("as it is", margin) for margin in margins]:
            vae.enable_tiling(tile, margin)
            with ExitStack() as stack:
                for attribute, value in VARIANTS[variant]:
                    stack.enter_context(patch.object(tiling, attribute, value))
                found = likeness(vae, x, whole)
            rows.append({"picture": name, "side": x.shape[3], "tile": tile, "variant": variant,
                         "margin": 8 * vae.tiling.margin, **found})  # fmt: skip
            say(str(rows[-1]))
    return rows


def main() -> None:
    """Measure all and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="builtin:photos")
    parser.add_argument("--largest", type=int, choices=SIDES[1:], default=SIDES[-1])
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    rows = growth(given.model, given.data, given.largest)
    vae = load_model(given.model).codec.vae
    default = 8 * vae.tiling.tile
    at_1024 = {kind.__name__: kind(given.data, 1024) for kind in (mosaic, enlarged)}
    small = variants(vae, at_1024, 512, list(VARIANTS), [16, 32, 64])
    for side in (side for side in (2048, UNTILED) if default < side <= given.largest):
        pictures = {kind.__name__: kind(given.data, side) for kind in (mosaic, enlarged)}
        small += variants(vae, pictures, default, list(VARIANTS)[: 2 if side < UNTILED else 1], [])
    torch.manual_seed(0)
    random = HeteroscedasticVAE("sd").eval().requires_grad_(False)
    sd = variants(random, {"mosaic": mosaic(given.data, 384)}, 256, list(VARIANTS)[:4], [16, 32])
    command = f"python results/tiling.py {given.model} --data {given.data} --largest {given.largest}"
    record = {"command": command, "commit": commit(), "machine": machine(), "default_tile": default, "growth": rows,
              "exponents": {way: exponents(rows, way) for way in ("rows", "whole")},
              "small": small, "sd": sd}  # fmt: skip
    (given.out / "tiling.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "tiling.md").write_text(table(record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        say(json.dumps(one(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
    else:
        main()
