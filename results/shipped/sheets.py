"""The pictures of a denoiser's record: its first samples, and samples beside their nearest training pictures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jeppa.data import write_png
from jeppa.data.images import contact_sheet
from jeppa.outputs import rows_of
from shipped.neighbours import Neighbours
from shipped.pictures import Pictures

SHOWN = 64
"""Seeds 0 to 63, whatever they look like."""
PAIRS = 8
NEAREST = 3
PNG_BYTES = 1_000_000
JPEG_QUALITY = 92


def sample_sheet(samples: Pictures, stem: Path) -> Path:
    """The first samples in rows of eight: a PNG, or where that is large a JPEG; returns its path."""
    sheet = contact_sheet(rows_of(list(samples.pixels[:SHOWN])))
    png, jpeg = stem.with_suffix(".png"), stem.with_suffix(".jpg")
    write_png(sheet, png)
    jpeg.unlink(missing_ok=True)  # of an earlier run
    if png.stat().st_size <= PNG_BYTES:
        return png
    Image.fromarray(sheet).save(jpeg, quality=JPEG_QUALITY, subsampling=0, optimize=True)
    png.unlink()
    return jpeg


def neighbour_sheet(samples: Pictures, train: Pictures, found: Neighbours, path: Path) -> None:
    """Rows of a sample and its nearest three training pictures: left the first seeds, right the suspects.

    Suspects are the samples that lie nearest to a training picture, of all.
    """
    count = min(PAIRS, len(samples))
    suspects = np.argsort(found.nearest, kind="stable")[:count]
    gap = np.full_like(samples.pixels[0], 255)[:, : samples.pixels.shape[2] // 4]
    left, right = ([_beside(samples, train, found, one) for one in which] for which in (range(count), suspects))
    rows = [[np.concatenate([a, gap, b], axis=1)] for a, b in zip(left, right, strict=True)]
    write_png(contact_sheet(rows), path)


def _beside(samples: Pictures, train: Pictures, found: Neighbours, index: int) -> NDArray[np.uint8]:
    """A sample and its nearest training pictures, mirrored where they are nearer so."""
    cells = [samples.pixels[index]]
    for other in np.argsort(found.distance[index], kind="stable")[:NEAREST]:
        pixels = train.pixels[other]
        cells.append(pixels[:, ::-1] if found.mirrored[index, other] else pixels)
    return contact_sheet([cells])
