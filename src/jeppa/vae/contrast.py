"""What of a picture tells how much detail is missing from it, whatever its colours: logs of local contrast.

A sigma head that sees raw colours or features learns the colours of its training scenes ("dark means exact"), and
fails on other scenes. Contrast does not change when a constant is added, and its log turns a change of contrast into
a shift. Rank of sigma against real error on held-out scenes, with and without: `results/ablations.md`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.data.images import LEVELS_PER_UNIT

CELL = 8
LEVEL = 1.0 / LEVELS_PER_UNIT
WIDER = (3, 5)
CHANNELS = 3 * CELL * CELL + 3 * (1 + 4 + len(WIDER))
# Where most logs of contrast lie; subtracting it centres the features.
TYPICAL = -3.0

_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])


def log_contrast(mean: Tensor) -> Tensor:
    """Contrast of a reconstruction on the grid of 8x8-pixel cells, float32 `[B,CHANNELS,H/8,W/8]`.

    The squared gradient of brightness and two opponent colours is given at every pixel of the cell, averaged over
    its quarters, over the cell, and over 3x3 and 5x5 cells; each as log of its root, with a floor of one 8-bit level.

    Args:
        mean: `[B,3,H,W]` in about [-1,1], H and W multiples of 8.
    """
    with torch.autocast(mean.device.type, enabled=False):
        energy = _gradient_energy(mean.float())
    cell = F.avg_pool2d(energy, CELL)
    quarters = F.pixel_unshuffle(F.avg_pool2d(energy, CELL // 2), 2)
    wider = [F.avg_pool2d(cell, side, 1, side // 2, count_include_pad=False) for side in WIDER]
    maps = torch.cat([F.pixel_unshuffle(energy, CELL), cell, quarters, *wider], dim=1)
    return 0.5 * (maps + LEVEL**2).log() - TYPICAL


def _gradient_energy(mean: Tensor) -> Tensor:
    """Squared central differences of the three opponent colours, edges replicated: `[B,3,H,W]`."""
    weights = F.normalize(_OPPONENT, dim=1).to(mean)[..., None, None]
    padded = F.pad(F.conv2d(mean, weights), (1, 1, 1, 1), mode="replicate")
    across = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    down = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    return across.square() + down.square()
