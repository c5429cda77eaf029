"""Put a trained model into the package: its folders with float16 weights, their hashes, and an entry of the catalogue.

    python recipes/ship.py RUN --entry recipes/small.json --figures results/shipped/small.json

RUN is a run folder or what `jeppa calibrate` wrote. The entry holds what a person says of the model: name, kind, vae,
about, data, licence, and `shown`: the title of each figure to list, and where in the measured record it stands
(`a/b/c`). The card (README.md) and the notices of the data (NOTICE) are written by hand into the model's folder.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from jeppa.checkpoint import sha256
from jeppa.pipeline import load_model
from jeppa.shipped import CATALOGUE, ROOT

PARTS = {
    "vae": ("vae", "sigma_head", "model.json"),
    "denoiser": ("unet", "variance_head", "scheduler", "denoiser.json"),
}
MOST_MEGABYTES = 20.0


def main() -> None:
    """Copy, hash, list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--entry", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    given = parser.parse_args()
    entry = json.loads(given.entry.read_text())
    folder = ROOT / entry["name"]
    for part in PARTS[entry["kind"]]:
        copy(given.run / part, folder / part)
    halve_weights(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > MOST_MEGABYTES:
        raise SystemExit(f"{folder}: {size:.1f} MB, but a shipped model has at most {MOST_MEGABYTES:g}")
    models = [one for one in json.loads(CATALOGUE.read_text())["models"] if one["name"] != entry["name"]]
    models.append(catalogued(entry, folder, given.run, json.loads(given.figures.read_text())))
    models.sort(key=lambda one: (one["kind"] != "vae", one["name"]))
    CATALOGUE.write_text(json.dumps({"models": models}, indent=1) + "\n")


def copy(source: Path, target: Path) -> None:
    """Replace a file or folder by a copy."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def halve_weights(folder: Path) -> None:
    """Store float32 weights as float16; whatever else there is stays. `results.shipped.halved` tells what it costs."""
    for path in folder.glob("*/*.safetensors"):
        weights = load_file(path)
        halved = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
        save_file(halved, path, {"format": "pt"})


def catalogued(entry: dict[str, Any], folder: Path, run: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The entry with what can be counted and measured."""
    shown = entry.pop("shown")
    model = load_model(run)
    net = model.denoiser if entry["kind"] == "denoiser" else model.codec.vae
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        **entry,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "figures": {title: round(look_up(measured, path), 4) for title, path in shown.items()},
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in paths},
    }


def look_up(measured: dict[str, Any], path: str) -> float:
    """The figure at `a/b/c` of a record."""
    value: Any = measured
    for key in path.split("/"):
        value = value[key]
    return float(value)


if __name__ == "__main__":
    main()
