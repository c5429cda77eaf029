"""Keep what a VAE run has learned as a small folder: averaged weights as float16, which `--init` and `--model` take.

    python recipes/keep.py RUN --out recipes/pyramid

Prints how far the reconstruction of a built-in photograph by the kept weights is from that by the run's own.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jeppa.data import evaluation_images, open_source
from jeppa.pipeline import load_model


def main() -> None:
    """Export, halve, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = load_model(options.run)
    options.out.mkdir(parents=True, exist_ok=True)
    model.codec.save(options.out)
    for path in options.out.glob("*/*.safetensors"):
        save_file({name: halve(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    _, x = next(evaluation_images(open_source("builtin:photos", "heldout"), 256))
    before, after = (each.reconstruct(x[None]).mean for each in (model, load_model(options.out)))
    print(f"PSNR of float16 to float32: {10.0 * float((4.0 / (after - before).square().mean()).log10()):.1f} dB")  # noqa: T201


def halve(tensor: torch.Tensor) -> torch.Tensor:
    """Float32 as float16; whatever else there is stays."""
    return tensor.half() if tensor.dtype == torch.float32 else tensor


if __name__ == "__main__":
    main()
