"""What do float16 weights change in the pictures of the shipped models, against float32 ones?

    python -m results.shipped.halved --full DIR

DIR holds the models as they were before `recipes/ship.py` stored them as float16, in folders of their names. A VAE
reconstructs the held-out built-in photographs at 256 pixels, a denoiser draws eight seeds. Writes `halved.json` and
`halved.md`.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from jeppa.data import evaluation_images, open_source
from jeppa.diffusion import load_denoiser
from jeppa.pipeline import Model, SamplerSettings, load_model
from jeppa.shipped import SHIPPED, ShippedModel
from jeppa.vae import FACTOR, load_folder
from results.record import (
    RESULTS,
    Json,
    describe_machine,
    describe_origin,
    join_lines,
    markdown_table,
    run_study,
    save_record,
    study_parser,
)

SIDE = 256
SEEDS = range(8)
STEPS = 25


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("shipped.halved", __doc__, RESULTS / "shipped")
    parser.add_argument("--full", type=Path, required=True, help="folder of the float32 models")
    return run_study(parser, compare_models, arguments)


def compare_models(options: argparse.Namespace) -> None:
    """Compare every model that DIR has, and write the record."""
    models = [model for model in SHIPPED if (options.full / model.name).is_dir()]
    figures = {model.name: compare_pictures(model, options.full / model.name) for model in models}
    save_record(options.command, options.out / "halved", {"models": figures}, render)


def compare_pictures(model: ShippedModel, full: Path) -> Json:
    """PSNR of the pictures by the shipped weights to those by the full ones, dB, and the sizes of both, MB."""
    shipped = load_model(model.name)
    pictures = [reconstruct(shipped), reconstruct(full)] if model.kind == "vae" else draw_both(shipped, full)
    error = (pictures[0] - pictures[1]).square().flatten(1).mean(1)
    weights = (folder.rglob("*.safetensors") for folder in (model.folder, full))
    sizes = [sum(path.stat().st_size for path in paths) / 1e6 for paths in weights]
    return {"psnr": [10.0 * float((4.0 / value).log10()) for value in error], "megabytes": sizes}


@torch.no_grad()
def reconstruct(model: Model | Path) -> Tensor:
    """Reconstructions of the held-out built-in photographs, `[N,3,H,W]`."""
    vae = load_folder(model)[0] if isinstance(model, Path) else model.codec.vae
    images = evaluation_images(open_source("builtin:photos", "heldout"), SIDE)
    return torch.stack([vae.reconstruct(x[None]).mean[0] for _, x in images])


def draw_both(shipped: Model, full: Path) -> list[Tensor]:
    """Pictures of the same seeds by the shipped weights, and by the full ones with the shipped VAE."""
    settings = SamplerSettings(steps=STEPS)
    halved = torch.stack([sample.x for sample in shipped.generate(SEEDS, settings)])
    full_model = replace(shipped, denoiser=load_denoiser(full, FACTOR)[0])
    return [halved, torch.stack([sample.x for sample in full_model.generate(SEEDS, settings)])]


def render(record: Json) -> str:
    """The record as Markdown."""
    rows = []
    for name, figures in record["models"].items():
        decibels = figures["psnr"]
        sizes = [f"{size:.1f}" for size in figures["megabytes"]]
        rows.append([name, f"{min(decibels):.1f}", f"{sum(decibels) / len(decibels):.1f}", len(decibels), *sizes])
    return join_lines([
        "# float16 weights",
        "",
        f"{describe_origin(record)}; {describe_machine(record)}. Pictures by float16",
        f"weights against those by float32 ones: built-in photographs at {SIDE} pixels, or seeds {SEEDS[0]} to",
        f"{SEEDS[-1]} in {STEPS} steps.",
        "",
        markdown_table(["model", "least PSNR, dB", "mean", "pictures", "MB", "MB before"], rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
