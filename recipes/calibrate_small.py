"""Give the sigma of `small` its size on two kinds of pictures at once, each weighing the same.

    python recipes/calibrate_small.py runs/small-sigma --data DATA --out runs/small-calibrated

Groceries of `DATA/halves` that it was not trained on at 256 pixels, and the training photographs of builtin:photos at
512: it has seen crops of those, but no others may be had that no figure is measured on.
"""

import argparse
from pathlib import Path

from jeppa.data import open_source
from jeppa.lab.recalibrate import calibrate
from jeppa.pipeline import load_model


def main() -> None:
    """Fit and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    codec = load_model(given.run).codec
    groceries, photographs = open_source(given.data / "halves", "train"), open_source("builtin:photos", "train")
    calibrate(codec.vae, [(groceries, 256), (photographs, 512)])
    given.out.mkdir(parents=True, exist_ok=True)
    codec.save(given.out)


if __name__ == "__main__":
    main()
