"""Turn a finished `jeppa compare` into the committed record: `compare.json`, `compare.md`, and the README's picture.

jeppa compare --data grocery --out comparison --arms shared,faithful,... --steps 700 --images 64 --evaluate-at 192
python results/record_compare.py comparison
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jeppa.data import read_pixels, write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import colour_map, contact_sheet
from jeppa.machine import commit

HERE = Path(__file__).parent
KEYS = ("psnr", "ssim", "delta_e2000", "lpips_alex", "lpips_vgg", "fd_efficientnet_lite0", "fd_floor",
        "gradient_energy_ratio", "gradient_energy_ratio_draw", "distortion_bpd", "rate_bpd", "elbo_bpd", "ence",
        "ence_constant", "ence_sobel", "ence_reference", "ence_recalibrated", "chi2", "chi2_recalibrated",
        "coverage_50", "coverage_68", "coverage_90", "coverage_95", "coverage_90_recalibrated", "crps", "ause",
        "ause_sobel", "sigma_error_spearman", "sigma_error_spearman_sobel")  # fmt: skip
DETAIL = 96
SHOWN = ("shared", "faithful", "band-faithful", "band-t-faithful")
PICTURES = (0, 1, 3, 4)

Json = dict[str, Any]


def main(folder: Path) -> None:
    """Write the record beside this file."""
    result = json.loads((folder / "compare.json").read_text())
    (HERE / "compare.md").write_text(table(result))
    shutil.copyfile(folder / "compare.json", HERE / "compare.json")
    write_png(details(folder, result), HERE.parent / "docs" / "draws.png")


def table(result: Json) -> str:
    """Markdown: every figure of every arm, the paired differences to the reference arm, the codecs."""
    arms, budget = result["arms"], result["budget"]
    names = [arm["arm"] for arm in arms]
    head = [
        f"# {len(arms)} ways to learn sigma at one budget",
        "",
        f"`{result['command']}`, then `python results/record_compare.py`, at commit {commit()}. "
        f"{budget['steps']} steps, batch {budget['batch_size']}, crops of {budget['resolution']} pixels and multiples, "
        f"preset `{budget['preset']}`, seeds {', '.join(map(str, budget['seeds']))}; {budget['heldout_images']} "
        f"held-out pictures at {budget['evaluate_at']} pixels; {result['machine']['processor']}, "
        f"{result['machine']['cores']} cores, torch {result['machine']['torch']}, fp32. In brackets 95 % intervals "
        "over seeds and pictures, or over seeds for figures pooled over pictures. beta is adapted until the held-out "
        f"rate is that of `{budget['reference']}` within {budget['rate_tolerance']:.0%}.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        "| rate / reference | " + " | ".join(_rate(budget["rates"][name]) for name in names) + " |",
        "| beta at the end | " + " | ".join(f"{np.mean(arm['beta']):.3f}" for arm in arms) + " |",
    ]
    rows = [f"| {key} | " + " | ".join(_cell(arm["metrics"].get(key)) for arm in arms) + " |" for key in KEYS]
    codecs = ", ".join(f"{key.removesuffix('_bpd')} {_cell(value)}" for key, value in result["codecs"].items())
    return "\n".join([*head, *rows, "", f"Lossless codecs on the same pictures, bits per dimension: {codecs}.", "",
                      *_differences(result), ""])  # fmt: skip


def details(folder: Path, result: Json) -> Pixels:
    """Middles of held-out pictures, in native pixels: original, mean, and draws of some arms."""
    rows = []
    for index in PICTURES:
        entry = result["gallery"][index]
        drawn = [entry["arms"][arm]["draw"] for arm in SHOWN if arm in entry["arms"]]
        sigma = np.load(folder / entry["arms"]["band-t-faithful"]["sigma"])
        names = [entry["original"], entry["arms"]["faithful"]["recon"], *drawn]
        cells = [_middle(read_pixels(folder / name)) for name in names]
        rows.append([np.repeat(np.repeat(cell, 2, axis=0), 2, axis=1) for cell in [*cells, _middle(colour_map(sigma))]])
    return contact_sheet(rows)


def _middle(pixels: Pixels) -> Pixels:
    top, left = ((side - DETAIL) // 2 for side in pixels.shape[:2])
    return pixels[top : top + DETAIL, left : left + DETAIL]


def _differences(result: Json) -> list[str]:
    reference = result["budget"]["reference"]
    found = {(entry["a"], entry["key"]): entry for entry in result["paired"] if entry["b"] == reference}
    names = [arm["arm"] for arm in result["arms"] if arm["arm"] != reference]
    keys = [key for key in KEYS if any((name, key) in found for name in names)]
    lines = [
        f"Paired differences to `{reference}` (arm minus reference, same pictures and seeds):",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for key in keys:
        cells = [found.get((name, key)) for name in names]
        shown = [_cell({"mean": one["difference"], "ci95": one["ci95"]} if one else None, "+") for one in cells]
        lines.append(f"| {key} | " + " | ".join(shown) + " |")
    return lines


def _cell(value: Json | None, sign: str = "") -> str:
    if value is None or value["mean"] is None:
        return "none"
    ends = value["ci95"]
    text = f"{value['mean']:{sign}.4g}"
    return text if ends is None else f"{text} [{ends[0]:{sign}.4g}, {ends[1]:{sign}.4g}]"


def _rate(rate: Json) -> str:
    return f"{rate['ratio']:.3f}{'' if rate['matched'] else ' (not matched)'}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
