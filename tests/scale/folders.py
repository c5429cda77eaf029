"""Small labelled pictures, and what is compared between two folders."""

from pathlib import Path

import numpy as np

from jeppa.data import write_png

PICTURES = 10


def draw_pictures(folder: Path, count: int = PICTURES) -> Path:
    """Pictures of 40 pixels a side in the folders `even` and `odd`."""
    rng = np.random.default_rng(0)
    for index in range(count):
        target = folder / ("odd" if index % 2 else "even")
        target.mkdir(parents=True, exist_ok=True)
        write_png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), target / f"{index:03d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
