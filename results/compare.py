"""Turn a finished `jeppa compare` into the committed record and the README's picture of draws.

    jeppa compare --data grocery --out comparison --arms shared,faithful,... --steps 700 --images 64 --evaluate-at 192
    python -m results.compare comparison

Copies `compare.json` as it is, and writes `compare.md` and `docs/draws.png`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from jeppa.data import read_pixels, write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import colour_map, contact_sheet
from jeppa.errors import DataError
from jeppa.machine import commit
from results.record import (
    RESULTS,
    Json,
    describe_machine,
    join_lines,
    list_numbers,
    markdown_table,
    run_study,
    show_interval,
    study_parser,
)

KEYS = ("psnr", "ssim", "delta_e2000", "lpips_alex", "lpips_vgg", "fd_efficientnet_lite0", "fd_floor",
        "gradient_energy_ratio", "gradient_energy_ratio_draw", "distortion_bpd", "rate_bpd", "elbo_bpd", "ence",
        "ence_constant", "ence_sobel", "ence_reference", "ence_recalibrated", "chi2", "chi2_recalibrated",
        "coverage_50", "coverage_68", "coverage_90", "coverage_95", "coverage_90_recalibrated", "crps", "ause",
        "ause_sobel", "sigma_error_spearman", "sigma_error_spearman_sobel")  # fmt: skip
DETAIL = 96
"""Pixels of the original that a detail shows, in height and width; it is drawn twice as large."""
ARMS_SHOWN = ("shared", "faithful", "band-faithful", "band-t-faithful")
PICTURES_SHOWN = (0, 1, 3, 4)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("compare", __doc__)
    parser.add_argument("folder", type=Path, help="folder that `jeppa compare` wrote")
    return run_study(parser, record_comparison, arguments)


def record_comparison(options: argparse.Namespace) -> None:
    """Write the record and the picture.

    Raises:
        DataError: the folder holds no finished comparison.
    """
    saved = options.folder / "compare.json"
    if not saved.is_file():
        raise DataError(f"{saved} is missing; give a folder in which `jeppa compare` has finished")
    comparison = json.loads(saved.read_text())
    (options.out / "compare.md").write_text(render({**comparison, "recorded_at": commit()}))
    shutil.copyfile(saved, options.out / "compare.json")
    write_png(draw_details(options.folder, comparison), RESULTS.parent / "docs" / "draws.png")


def render(record: Json) -> str:
    """A comparison as Markdown: every figure of every arm, the paired differences to the reference, the codecs."""
    arms, budget = record["arms"], record["budget"]
    names = [arm["arm"] for arm in arms]
    rows = [
        ["rate / reference", *(show_rate(budget["rates"][name]) for name in names)],
        ["beta at the end", *(f"{np.mean(arm['beta']):.3f}" for arm in arms)],
        *([key, *(show_estimate(arm["metrics"].get(key)) for arm in arms)] for key in KEYS),
    ]
    codecs = ", ".join(f"{key.removesuffix('_bpd')} {show_estimate(size)}" for key, size in record["codecs"].items())
    return join_lines([
        f"# {len(arms)} ways to learn sigma at one budget",
        "",
        f"`{record['command']}`, then `python -m results.compare`, at commit {record.get('recorded_at')}. "
        f"{budget['steps']} steps, batch {budget['batch_size']}, crops of {budget['resolution']} pixels and multiples, "
        f"preset `{budget['preset']}`, seeds {list_numbers(budget['seeds'])}; {budget['heldout_images']} "
        f"held-out pictures at {budget['evaluate_at']} pixels; {describe_machine(record)}, fp32. In brackets 95 % "
        "intervals over seeds and pictures, or over seeds for figures pooled over pictures. beta is adapted until the "
        f"held-out rate is that of `{budget['reference']}` within {budget['rate_tolerance']:.0%}.",
        "",
        markdown_table(["", *names], rows),
        "",
        f"Lossless codecs on the same pictures, bits per dimension: {codecs}.",
        "",
        f"Paired differences to `{budget['reference']}` (arm minus reference, same pictures and seeds):",
        "",
        render_differences(record),
    ])  # fmt: skip


def render_differences(record: Json) -> str:
    """The table of paired differences to the reference arm."""
    reference = record["budget"]["reference"]
    pairs = {(pair["a"], pair["key"]): pair for pair in record["paired"] if pair["b"] == reference}
    names = [arm["arm"] for arm in record["arms"] if arm["arm"] != reference]
    rows = []
    for key in KEYS:
        columns = [pairs.get((name, key)) for name in names]
        if any(columns):
            estimates = [pair and {"mean": pair["difference"], "ci95": pair["ci95"]} for pair in columns]
            rows.append([key, *(show_estimate(estimate, "+.4g") for estimate in estimates)])
    return markdown_table(["", *names], rows)


def show_estimate(estimate: Json | None, spec: str = ".4g") -> str:
    """An estimate `{"mean", "ci95"}` as text."""
    return "none" if estimate is None else show_interval(estimate["mean"], estimate["ci95"], spec, "none")


def show_rate(rate: Json) -> str:
    """The rate of an arm over that of the reference, and whether they match."""
    return f"{rate['ratio']:.3f}{'' if rate['matched'] else ' (not matched)'}"


def draw_details(folder: Path, comparison: Json) -> Pixels:
    """Middles of held-out pictures, twice enlarged: original, mean, a draw of some arms, and a sigma map."""
    rows = []
    for index in PICTURES_SHOWN:
        entry = comparison["gallery"][index]
        draws = [entry["arms"][arm]["draw"] for arm in ARMS_SHOWN if arm in entry["arms"]]
        sigma = np.load(folder / entry["arms"]["band-t-faithful"]["sigma"])
        names = [entry["original"], entry["arms"]["faithful"]["recon"], *draws]
        pictures = [*(read_pixels(folder / name) for name in names), colour_map(sigma)]
        rows.append([enlarge(crop_middle(picture, DETAIL), 2) for picture in pictures])
    return contact_sheet(rows)


def crop_middle(pixels: Pixels, side: int) -> Pixels:
    """The square of `side` pixels in the middle of `[H,W,3]`."""
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def enlarge(pixels: Pixels, factor: int) -> Pixels:
    """Pixels `[H,W,3]` repeated to `[factor*H,factor*W,3]`."""
    return pixels.repeat(factor, 0).repeat(factor, 1)


if __name__ == "__main__":
    sys.exit(main())
