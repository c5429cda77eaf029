"""Turn finished demos into the committed record: `demo.json`, `demo.md`, and the README's pictures.

    for seed in 0 1 2; do jeppa demo --out demo-$seed --seed $seed; done
    python results/record_demo.py demo-0 demo-1 demo-2

The pictures are those of the first folder; false colour is that of its grey scenes, the mean chroma (CIELAB) of their
reconstructions.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from skimage.color import rgb2lab

from jeppa.data import read_pixels, write_png
from jeppa.data.images import colour_map, contact_sheet

HERE = Path(__file__).parent
DETAIL = 96
DETAILS = (("gravel.png", 200, 200), ("chelsea.png", 170, 220), ("camera.png", 100, 190))  # name, top, left
KEYS = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "gradient_energy_ratio",
        "distortion_bpd", "rate_bpd", "elbo_bpd", "ence", "chi2", "coverage_50",
        "coverage_68", "coverage_90", "coverage_95", "sigma_error_spearman", "sigma_error_spearman_sobel")  # fmt: skip


def main(folders: list[Path]) -> None:
    """Read every folder's report and metrics; write the record beside this file."""
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    arms = {entry["arm"]: entry["run"] for entry in reports[0]["arms"]}
    metrics = {
        arm: [json.loads((folder / run / "metrics.json").read_text()) for folder in folders]
        for arm, run in arms.items()
    }
    record = {
        "command": "; ".join(report["command"] for report in reports),
        "seeds": [report["seed"] for report in reports],
        "machine": reports[0]["machine"],
        "commit": metrics[reports[0]["leading"]][0]["commit"],
        "seconds": {str(report["seed"]): report["seconds"] for report in reports},
        "arms": {arm: {key: [run[key] for run in runs] for key in KEYS} for arm, runs in metrics.items()},
        "paired_of_first_seed": {key: reports[0]["paired"].get(key) for key in KEYS},
        "ci95_of_first_seed": {arm: {key: runs[0][f"{key}_ci95"] for key in KEYS} for arm, runs in metrics.items()},
        "false_colour": false_colour(folders[0], reports[0]),
    }
    (HERE / "demo.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "demo.md").write_text(table(record))
    write_png(picture(folders[0], reports[0]), HERE.parent / "docs" / "reconstructions.png")
    write_png(samples(folders[0], reports[0]), HERE.parent / "docs" / "samples.png")
    write_png(details(folders[0], reports[0]), HERE.parent / "docs" / "fine-tuning.png")


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: the mean over seeds and, in brackets, the least and the greatest."""
    arms = list(record["arms"])
    lines = [
        "# The demo's figures",
        "",
        f"`{record['command']}`, then `python results/record_demo.py`, at commit {record['commit']}.",
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, torch {record['machine']['torch']}, "
        "measured in fp32. Five held-out scenes, whole pictures. Mean over pictures and seeds "
        f"({', '.join(map(str, record['seeds']))}) [95 % bootstrap interval over the pictures, first seed].",
        "",
        "| metric | " + " | ".join(arms) + " | difference, in pairs, first seed |",
        "|---|" + "---|" * (len(arms) + 1),
    ]
    for key in KEYS:
        cells = [cell(record["arms"][arm][key], record["ci95_of_first_seed"][arm][key]) for arm in arms]
        lines.append(f"| {key} | " + " | ".join([*cells, pair(record["paired_of_first_seed"][key])]) + " |")
    first = [seconds["first pictures"] for seconds in record["seconds"].values()]
    totals = [seconds["total"] for seconds in record["seconds"].values()]
    coloured = "; ".join(
        f"{name} {', '.join(f'{arm} {chroma:.2f}' for arm, chroma in found.items())}"
        for name, found in record["false_colour"].items()
    )
    return "\n".join(
        [
            *lines,
            "",
            f"False colour of the grey scenes, mean chroma: {coloured}.",
            f"Seconds without installation: {', '.join(f'{total:.0f}' for total in totals)}; "
            f"to the first pictures: {', '.join(f'{one:.0f}' for one in first)}.",
            "",
        ]
    )


def cell(values: list[float | None], interval: list[float | None]) -> str:
    """Mean [interval], or a dash where a metric has no value."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f} [{interval[0]:.3f}, {interval[1]:.3f}]" if known else "-"


def pair(found: list[float] | None) -> str:
    """Mean difference [interval], or a dash where pictures have no figure of their own."""
    return f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]" if found else "-"


def picture(folder: Path, report: dict[str, Any]) -> np.ndarray:
    """Central squares; rows: originals, reconstructions, sigma maps, absolute errors; magma, 0 to 32 levels."""
    entries = report["reconstructions"]
    lead = [entry["arms"][report["leading"]] for entry in entries]
    rows = [
        [read_pixels(folder / entry["original"]) for entry in entries],
        [read_pixels(folder / one["recon"]) for one in lead],
        [colour_map(np.load(folder / one["sigma"])) for one in lead],
        [colour_map(np.load(folder / one["error"])) for one in lead],
    ]
    return contact_sheet([[centre(cell) for cell in row] for row in rows])


def centre(pixels: np.ndarray, side: int = 256) -> np.ndarray:
    """The square of `side` pixels in the middle."""
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def details(folder: Path, report: dict[str, Any]) -> np.ndarray:
    """Details of two scenes, three times enlarged: original, as shipped, fine-tuned."""
    entries = {entry["name"]: entry for entry in report["reconstructions"]}
    rows = []
    for name, top, left in DETAILS:
        paths = [entries[name]["original"], *(entries[name]["arms"][arm]["recon"] for arm in ("shipped", "tuned"))]
        parts = [read_pixels(folder / path)[top : top + DETAIL, left : left + DETAIL] for path in paths]
        rows.append([part.repeat(3, 0).repeat(3, 1) for part in parts])
    return contact_sheet(rows)


def false_colour(folder: Path, report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean chroma of the reconstructions of grey pictures, by picture and arm."""
    found = {}
    for entry in report["reconstructions"]:
        original = read_pixels(folder / entry["original"])
        if np.ptp(original, axis=2).max() == 0:
            arms = {arm: read_pixels(folder / one["recon"]) for arm, one in entry["arms"].items()}
            found[entry["name"]] = {arm: float(np.hypot(*rgb2lab(one)[..., 1:].T).mean()) for arm, one in arms.items()}
    return found


def samples(folder: Path, report: dict[str, Any]) -> np.ndarray:
    """A row for each number of DDIM steps, the same seeds in each column."""
    return contact_sheet([[read_pixels(folder / name) for name in row["images"]] for row in report["samples"]])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
