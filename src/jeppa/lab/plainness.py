"""Whether a VAE keeps what is plain: constant colours, smooth gradients, and the border of a picture.

A decoder that enlarges its latent in blocks can leave their lattice on plain areas, where people see half a level. A
picture of one colour should come back as one colour, and a gradient without steps at the stride of the latent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lab.metrics import check_same_shape
from jeppa.vae import HeteroscedasticVAE

SIDE = 128
BORDER = 8
"""Width in pixels of the border whose error is compared with that of the middle."""
STEEPNESS = 0.8
COLOURS = {
    "black": (-1.0, -1.0, -1.0),
    "white": (1.0, 1.0, 1.0),
    "grey": (0.0, 0.0, 0.0),
    "red": (1.0, -1.0, -1.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
}


@dataclass(frozen=True)
class Plainness:
    """Figures of the plain pictures, each the worst over them.

    Args:
        lattice_levels: root mean square deviation of a constant picture's reconstruction from its own mean colour,
            8-bit levels.
        lattice_share: energy of a constant picture's reconstruction at the stride of the latent and its harmonics,
            as a share, 0 to 1, of the energy of a white picture.
        gradient_lattice_share: the same of what is wrong with a smooth gradient.
        colour_levels: mean absolute error of the mean colour of a constant picture, 8-bit levels.
    """

    lattice_levels: float
    lattice_share: float
    gradient_lattice_share: float
    colour_levels: float


@torch.no_grad()
def measure_plainness(vae: HeteroscedasticVAE, side: int = SIDE) -> Plainness:
    """Reconstruct constant pictures and gradients.

    Args:
        vae: in evaluation mode.
        side: of the pictures, in pixels, a multiple of the latent's stride.
    """
    plain = torch.tensor(list(COLOURS.values()))[:, :, None, None].expand(-1, -1, side, side)
    ramp = torch.linspace(-STEEPNESS, STEEPNESS, side).expand(3, side, side)
    smooth = torch.stack([ramp, ramp.mT, (ramp + ramp.mT) / 2.0])
    same, smoothed = (vae.reconstruct(x).mean.clamp(-1.0, 1.0) for x in (plain, smooth))
    colour = same.mean((2, 3), keepdim=True)
    deviation = (same - colour).square().mean((1, 2, 3)).sqrt()
    return Plainness(
        lattice_levels=float(deviation.max()) * LEVELS_PER_UNIT,
        lattice_share=float(lattice_energy(same, vae.settings.factor).max()),
        gradient_lattice_share=float(lattice_energy(smoothed - smooth, vae.settings.factor).max()),
        colour_levels=float((colour - plain[:, :, :1, :1]).abs().mean((1, 2, 3)).max()) * LEVELS_PER_UNIT,
    )


def lattice_energy(picture: Tensor, stride: int) -> Tensor:
    """Mean square at the period of `stride` pixels and its harmonics, without the constant part, `[B]`.

    A picture that repeats every `stride` pixels is the mean of its cells, so the energy is that of the mean cell.

    Args:
        picture: `[B,C,H,W]`; rows and columns beyond a multiple of `stride` are left out.
        stride: in pixels, 2 or more.
    """
    height, width = (size - size % stride for size in picture.shape[2:])
    cells = picture[..., :height, :width].unflatten(2, (-1, stride)).unflatten(4, (-1, stride))
    cell = cells.mean((2, 4))
    energy: Tensor = (cell - cell.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
    return energy


def border_error_ratio(x: Tensor, recon: Tensor) -> Tensor:
    """Root mean square error of the outer 8 pixels over that of the middle, `[B]`; 1 where the border is no worse.

    NaN where the middle is exact, or a picture has no middle of its own.

    Args:
        x: original, `[B,3,H,W]` in [-1,1].
        recon: reconstruction, same shape, clamped to [-1,1] here.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(x, recon)
    if min(x.shape[2:]) <= 2 * BORDER:
        return torch.full((len(x),), math.nan)
    squared = (x.float() - recon.float().clamp(-1.0, 1.0)).square().mean(1)
    inside = F.pad(torch.ones_like(squared[:, BORDER:-BORDER, BORDER:-BORDER]), (BORDER,) * 4)
    middle, border = ((squared * part).sum((1, 2)) / part.sum((1, 2)) for part in (inside, 1.0 - inside))
    return torch.where(middle > 0.0, (border / middle).sqrt(), torch.nan)
