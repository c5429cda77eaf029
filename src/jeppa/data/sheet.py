"""Contact sheets and colour-mapped sigma maps: several pictures as one array of pixels."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jeppa.data.decode import Pixels
from jeppa.data.images import LEVELS_PER_UNIT, to_pixels

GAP = 2
BACKGROUND = 255
SIGMA_SCALE = 32.0
COLORMAP = "magma"

Levels = npt.NDArray[np.float32]


def contact_sheet(rows: Sequence[Sequence[Tensor | Pixels]]) -> Pixels:
    """Rows of pictures of one size, two white pixels apart, as uint8 `[H,W,3]`.

    Args:
        rows: pictures as x (`[3,H,W]` in [-1,1]) or pixels (uint8 `[H,W,3]`); rows may differ in length.
    """
    cells = [[to_pixels(cell) if isinstance(cell, Tensor) else cell for cell in row] for row in rows]
    height, width = cells[0][0].shape[:2]
    columns = max(len(row) for row in cells)
    shape = (len(cells) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    sheet = np.full(shape, BACKGROUND, np.uint8)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = cell
    return sheet


def sigma_levels(logvar: Tensor) -> Levels:
    """The sigma map of one image in 8-bit grey levels, float32 `[H,W]`.

    Args:
        logvar: `[3,H,W]` of x in [-1,1]; the colours' variances are averaged before the root.
    """
    sigma = logvar.float().exp().mean(0).sqrt() * LEVELS_PER_UNIT
    return np.asarray(sigma.cpu().numpy(), np.float32)


def error_levels(x: Tensor, mean: Tensor) -> Levels:
    """Absolute error of one image in 8-bit grey levels, mean over colours, float32 `[H,W]` from `[3,H,W]`."""
    error = (x - mean.clamp(-1.0, 1.0)).abs().mean(0) * LEVELS_PER_UNIT
    return np.asarray(error.cpu().numpy(), np.float32)


def colour_map(levels: Levels, full_scale: float = SIGMA_SCALE) -> Pixels:
    """Levels `[H,W]` as magma-coloured pixels `[H,W,3]`: black is 0, pale yellow `full_scale` and above."""
    shown = matplotlib.colormaps[COLORMAP](np.clip(levels / full_scale, 0.0, 1.0), bytes=True)
    return np.asarray(shown[..., :3], np.uint8)


def reconstruction_rows(x: Tensor, mean: Tensor, logvar: Tensor) -> list[list[Tensor | Pixels]]:
    """Rows for a sheet, from batches `[B,3,H,W]`: originals, reconstructions, sigma maps."""
    sigma: list[Tensor | Pixels] = [colour_map(sigma_levels(one)) for one in logvar]
    return [list(torch.unbind(x)), list(torch.unbind(mean)), sigma]
