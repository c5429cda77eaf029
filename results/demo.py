"""Turn finished demos into the committed record and the README's pictures.

    for seed in 0 1 2; do jeppa demo --out demo-$seed --seed $seed; done
    python -m results.demo demo-0 demo-1 demo-2

Writes `demo.json` and `demo.md`, and `docs/reconstructions.png`, `docs/samples.png` and `docs/fine-tuning.png` from the
first folder. "False colour" is the mean chroma (CIELAB) of the reconstructions of its grey scenes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from skimage.color import rgb2lab

from jeppa.data import read_pixels, write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import colour_map, contact_sheet
from jeppa.errors import DataError
from results.compare import crop_middle, enlarge
from results.record import (
    RESULTS,
    Json,
    Value,
    describe_machine,
    join_lines,
    list_numbers,
    markdown_table,
    run_study,
    show_interval,
    study_parser,
)

DETAIL = 96
DETAILS = (("gravel.png", 200, 200), ("chelsea.png", 170, 220), ("camera.png", 100, 190))
"""Name, top and left of the squares of `DETAIL` pixels that are shown before and after fine-tuning."""
KEYS = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "gradient_energy_ratio",
        "distortion_bpd", "rate_bpd", "elbo_bpd", "ence", "chi2", "coverage_50",
        "coverage_68", "coverage_90", "coverage_95", "sigma_error_spearman", "sigma_error_spearman_sobel")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("demo", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders that `jeppa demo` wrote")
    return run_study(parser, record_demos, arguments)


def record_demos(options: argparse.Namespace) -> None:
    """Write the record and the pictures.

    Raises:
        DataError: a folder holds no finished demo.
    """
    folders: list[Path] = options.folders
    for folder in folders:
        if not (folder / "report.json").is_file():
            raise DataError(f"{folder}: no report.json in it; give folders in which `jeppa demo` has finished")
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    record = collect_figures(folders, reports)
    (options.out / "demo.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "demo.md").write_text(render(record))
    docs = RESULTS.parent / "docs"
    write_png(draw_reconstructions(folders[0], reports[0]), docs / "reconstructions.png")
    write_png(draw_samples(folders[0], reports[0]), docs / "samples.png")
    write_png(draw_details(folders[0], reports[0]), docs / "fine-tuning.png")


def collect_figures(folders: list[Path], reports: list[Json]) -> Json:
    """The record: figures of every seed and arm, with intervals and paired differences of the first seed."""
    metrics = {
        entry["arm"]: [json.loads((folder / entry["run"] / "metrics.json").read_text()) for folder in folders]
        for entry in reports[0]["arms"]
    }
    return {
        "command": "; ".join(report["command"] for report in reports),
        "seeds": [report["seed"] for report in reports],
        "machine": reports[0]["machine"],
        "commit": metrics[reports[0]["leading"]][0]["commit"],
        "seconds": {str(report["seed"]): report["seconds"] for report in reports},
        "arms": {arm: {key: [run[key] for run in runs] for key in KEYS} for arm, runs in metrics.items()},
        "paired_of_first_seed": {key: reports[0]["paired"].get(key) for key in KEYS},
        "ci95_of_first_seed": {arm: {key: runs[0][f"{key}_ci95"] for key in KEYS} for arm, runs in metrics.items()},
        "false_colour": measure_false_colour(folders[0], reports[0]),
    }


def measure_false_colour(folder: Path, report: Json) -> dict[str, dict[str, float]]:
    """Mean chroma of the reconstructions of grey pictures, by picture and arm."""
    chroma = {}
    for entry in report["reconstructions"]:
        original = read_pixels(folder / entry["original"])
        if np.ptp(original, axis=2).max() == 0:
            pictures = {arm: read_pixels(folder / files["recon"]) for arm, files in entry["arms"].items()}
            chroma[entry["name"]] = {
                arm: float(np.hypot(*rgb2lab(pixels)[..., 1:].T).mean()) for arm, pixels in pictures.items()
            }
    return chroma


def render(record: Json) -> str:
    """The record as Markdown."""
    arms = list(record["arms"])
    rows = []
    for key in KEYS:
        cells = [show_mean(record["arms"][arm][key], record["ci95_of_first_seed"][arm][key]) for arm in arms]
        rows.append([key, *cells, show_difference(record["paired_of_first_seed"][key])])
    first_pictures = ", ".join(f"{seconds['first pictures']:.0f}" for seconds in record["seconds"].values())
    totals = ", ".join(f"{seconds['total']:.0f}" for seconds in record["seconds"].values())
    colours = "; ".join(
        f"{name} {', '.join(f'{arm} {chroma:.2f}' for arm, chroma in by_arm.items())}"
        for name, by_arm in record["false_colour"].items()
    )
    return join_lines([
        "# The demo's figures",
        "",
        f"`{record['command']}`, then `python -m results.demo`, at commit {record['commit']}.",
        f"{describe_machine(record)}, "
        "measured in fp32. Five held-out scenes, whole pictures. Mean over pictures and seeds "
        f"({list_numbers(record['seeds'])}) [95 % bootstrap interval over the pictures, first seed].",
        "",
        markdown_table(["metric", *arms, "difference, in pairs, first seed"], rows),
        "",
        f"False colour of the grey scenes, mean chroma: {colours}.",
        f"Seconds without installation: {totals}; to the first pictures: {first_pictures}.",
    ])  # fmt: skip


def show_mean(values: list[Value], ends: list[Value]) -> str:
    """Mean over seeds with an interval, or a dash where a metric has no value."""
    known = [value for value in values if value is not None]
    return show_interval(float(np.mean(known)) if known else None, ends)


def show_difference(difference: list[float] | None) -> str:
    """A paired difference `[mean, low, high]`, or a dash for a metric without a value for each picture."""
    return "-" if difference is None else show_interval(difference[0], difference[1:], "+.3f")


def draw_reconstructions(folder: Path, report: Json) -> Pixels:
    """Central squares, in rows: originals, reconstructions, sigma maps, absolute errors (0 to 32 levels)."""
    entries = report["reconstructions"]
    files = [entry["arms"][report["leading"]] for entry in entries]
    rows = [
        [read_pixels(folder / entry["original"]) for entry in entries],
        [read_pixels(folder / names["recon"]) for names in files],
        [colour_map(np.load(folder / names["sigma"])) for names in files],
        [colour_map(np.load(folder / names["error"])) for names in files],
    ]
    return contact_sheet([[crop_middle(picture, 256) for picture in row] for row in rows])


def draw_details(folder: Path, report: Json) -> Pixels:
    """Details of some scenes, three times enlarged: original, as shipped, fine-tuned."""
    entries = {entry["name"]: entry for entry in report["reconstructions"]}
    rows = []
    for name, top, left in DETAILS:
        paths = [entries[name]["original"], *(entries[name]["arms"][arm]["recon"] for arm in ("shipped", "tuned"))]
        details = [read_pixels(folder / path)[top : top + DETAIL, left : left + DETAIL] for path in paths]
        rows.append([enlarge(detail, 3) for detail in details])
    return contact_sheet(rows)


def draw_samples(folder: Path, report: Json) -> Pixels:
    """A row for each number of DDIM steps, with the same seeds in each column."""
    return contact_sheet([[read_pixels(folder / name) for name in row["images"]] for row in report["samples"]])


if __name__ == "__main__":
    sys.exit(main())
