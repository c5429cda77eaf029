"""Edges, colour, texture and artefacts of a reconstruction: what PSNR averages away, one value per image.

Images are float tensors `[B,3,H,W]` in [-1,1]; `recon` is clamped to that range here, as a viewer does. Every
public figure is `[B]` float32 and NaN where an image has no place of the kind that it is about. Where a place counts
as an edge or as flat is decided on the *original* alone, so that two reconstructions are judged at the same pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from jeppa.data.images import LEVELS_PER_UNIT
from jeppa.lab.metrics import check_same_shape

STRONG_EDGE = 16.0
"""8-bit levels per pixel of the Sobel gradient: a sharp step of 32 levels reaches it on both sides."""

EDGE_REACH = 2
"""Pixels around a strong edge, diagonals included, that belong to its band."""

RING_REACH = 8
"""How far from a strong edge ringing is looked for, in pixels: one cell of the latent."""

FLAT = 2.0
"""8-bit levels: the largest local standard deviation of the original that counts as flat."""

SPECK = 12.0
"""8-bit levels by which the colour of a pixel must leave that of its neighbours to be a speck."""

WINDOW = 16
BANDS = ((0.125, 0.25), (0.25, 0.375), (0.375, 0.5))
"""High spatial frequencies in cycles per pixel (0.5 is the finest): waves of 8 to 4, to 2.7, to 2 pixels."""

ROUNDING_POWER = 1.0 / 12.0
"""Variance of 8-bit rounding in squared levels: less power than that is nothing anybody can store."""


def edge_band(x: Tensor, reach: int = EDGE_REACH) -> Tensor:
    """True within `reach` pixels of a strong edge of `x`: bool `[B,1,H,W]`."""
    side = 2 * reach + 1
    wide = functional.max_pool2d((_sobel(x) > STRONG_EDGE).float(), (1, side), stride=1, padding=(0, reach))
    return functional.max_pool2d(wide, (side, 1), stride=1, padding=(reach, 0)) > 0.0


def edge_band_psnr(x: Tensor, recon: Tensor) -> Tensor:
    """PSNR in dB (peak 2, higher is better) over the pixels of `edge_band` alone, at most 100: `[B]`."""
    check_same_shape(x, recon)
    squared = (recon.float().clamp(-1.0, 1.0) - x.float()).square().mean(1, keepdim=True)
    return 10.0 * torch.log10(4.0 / _mean_where(squared, edge_band(x)).clamp_min(4e-10))


def block_colour_error(x: Tensor, recon: Tensor, block: int = 8) -> Tensor:
    """Mean distance between the mean colours of corresponding blocks, in 8-bit levels, lower is better: `[B]`.

    Averages the error of each channel over a block first, so texture and noise cancel and a tint stays. The
    distance is the mean |difference| of the three channels; incomplete blocks are left out.
    """
    check_same_shape(x, recon)
    difference = functional.avg_pool2d(recon.float().clamp(-1.0, 1.0) - x.float(), block)
    return difference.abs().flatten(1).mean(1) * LEVELS_PER_UNIT


def texture_tiles(sigma: Tensor, share: float = 0.25) -> Tensor:
    """The tiles of `WINDOW` pixels a side with the largest mean sigma: bool `[B,H//16,W//16]`, at least one each.

    Args:
        sigma: predicted standard deviation, `[B,C,H,W]`, of *one* model, for all that are to be compared.
        share: of the tiles to choose, above 0 to 1.
    """
    tiles = functional.avg_pool2d(sigma.float().mean(1, keepdim=True), WINDOW)[:, 0]
    count = max(1, round(share * tiles[0].numel()))
    chosen = tiles.flatten(1).topk(count, dim=1).indices
    return torch.zeros_like(tiles, dtype=torch.bool).flatten(1).scatter(1, chosen, True).view_as(tiles)


def spectrum_error(x: Tensor, recon: Tensor, tiles: Tensor) -> Tensor:
    """How far the power of fine texture is off, in dB, lower is better, 0 is the same spectrum: `[B]`.

    Mean over `BANDS` of |10 log10(power of recon / power of original)|, the power in brightness, of the tiles
    chosen, each with its mean removed and under a Hann window. A blurred mean lacks power, noise has too much.

    Args:
        x: original, `[B,3,H,W]` in [-1,1], sides of at least 16.
        recon: of the same shape.
        tiles: which tiles count, from `texture_tiles`.
    """
    check_same_shape(x, recon)
    ratio = _band_power(recon.float().clamp(-1.0, 1.0), tiles) / _band_power(x.float(), tiles)
    return (10.0 * ratio.log10()).abs().mean(1)


def blockiness(x: Tensor, period: int = 8) -> Tensor:
    """Mean |step| across the borders of a grid over that elsewhere, in brightness; 1 is no grid: `[B]`.

    Compare with the original's: natural images are near 1, saved JPEGs above. NaN where nothing changes inside.
    """
    grey = x.float().clamp(-1.0, 1.0).mean(1)
    border, inside = _steps(grey, period)
    down_border, down_inside = _steps(grey.transpose(1, 2), period)
    ratio = (border + down_border) / (inside + down_inside)
    return torch.where(inside + down_inside > 0.0, ratio, torch.nan)


def blockiness_excess(x: Tensor, recon: Tensor) -> Tensor:
    """Blockiness of the reconstruction over that of the original, minus 1; 0 is no grid added: `[B]`."""
    check_same_shape(x, recon)
    return blockiness(recon) / blockiness(x) - 1.0


def ringing(x: Tensor, recon: Tensor) -> Tensor:
    """Ripples that the reconstruction adds beside edges, in 8-bit levels, lower is better: `[B]`.

    Looks where the original is flat (standard deviation of 5x5 pixels below `FLAT`) and a strong edge is at most
    `RING_REACH` but more than `EDGE_REACH` pixels away: there the root mean square of what a 5x5 mean removes
    from the reconstruction, less the same for the original.
    """
    check_same_shape(x, recon)
    place = edge_band(x, RING_REACH) & ~edge_band(x) & (_local_std(x) < FLAT)
    found, own = (_mean_where(_fine(image).square(), place).sqrt() for image in (recon.clamp(-1.0, 1.0), x))
    return (found - own) * LEVELS_PER_UNIT


def colour_specks(x: Tensor, recon: Tensor) -> Tensor:
    """Isolated wrong colours for each thousand pixels, lower is better: `[B]`.

    A speck is a pixel whose Cb or Cr differs by more than `SPECK` levels from the median of its 3x3
    neighbourhood in the reconstruction, but not in the original.
    """
    check_same_shape(x, recon)
    added = _outlying(recon.float().clamp(-1.0, 1.0)) & ~_outlying(x.float())
    return added.float().flatten(1).mean(1) * 1000.0


def _sobel(x: Tensor) -> Tensor:
    """Length of the Sobel gradient, the channels' root mean square, in levels per pixel: `[B,1,H,W]`."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device) / 8.0
    padded = functional.pad(x.float(), (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    energy = functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).square().sum(1)
    return energy.view(x.shape).mean(1, keepdim=True).sqrt() * LEVELS_PER_UNIT


def _mean_where(values: Tensor, place: Tensor) -> Tensor:
    """Mean of `[B,1,H,W]` over the true pixels of each image, NaN where there are none: `[B]`."""
    weight = place.float()
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def _band_power(x: Tensor, tiles: Tensor) -> Tensor:
    """Power of the brightness of the chosen tiles in each band, squared levels: `[B,bands]`."""
    grey = x.mean(1) * LEVELS_PER_UNIT
    parts = grey.unfold(1, WINDOW, WINDOW).unfold(2, WINDOW, WINDOW)
    hann = torch.hann_window(WINDOW, device=x.device)
    window = hann[:, None] * hann
    spectrum = torch.fft.fft2((parts - parts.mean((3, 4), keepdim=True)) * window).abs().square()
    power = spectrum / (window.square().sum() * WINDOW**2) + ROUNDING_POWER / WINDOW**2
    weight = tiles.float()
    mean = torch.einsum("bij,bijuv->buv", weight, power) / weight.sum((1, 2))[:, None, None]
    frequency = torch.fft.fftfreq(WINDOW, device=x.device)
    radius = torch.hypot(frequency[:, None], frequency)
    return torch.stack([mean[:, (radius >= low) & (radius < high)].sum(1) for low, high in BANDS], dim=1)


def _steps(rows: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Mean |horizontal step| of `[B,H,W]` across multiples of `period`, and elsewhere: `[B]` each."""
    step = (rows[..., 1:] - rows[..., :-1]).abs().mean(1)
    border = torch.arange(1, rows.shape[-1], device=rows.device) % period == 0
    return step[:, border].mean(1), step[:, ~border].mean(1)


def _box_mean(x: Tensor) -> Tensor:
    """Mean over 5x5 pixels, edges replicated."""
    return functional.avg_pool2d(functional.pad(x.float(), (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def _fine(x: Tensor) -> Tensor:
    """Root mean square over channels of what the 5x5 mean removes: `[B,1,H,W]`, non-negative."""
    return (x.float() - _box_mean(x)).square().mean(1, keepdim=True).sqrt()


def _local_std(x: Tensor) -> Tensor:
    """Standard deviation within 5x5 pixels, the channels' root mean, in levels: `[B,1,H,W]`."""
    centred = x.float() - x.float().mean((2, 3), keepdim=True)  # E[x^2] - E[x]^2 loses fewer digits
    variance = (_box_mean(centred.square()) - _box_mean(centred).square()).clamp_min(0.0)
    return variance.mean(1, keepdim=True).sqrt() * LEVELS_PER_UNIT


def _outlying(x: Tensor) -> Tensor:
    """True where Cb or Cr (ITU-R BT.601) leaves its 3x3 median by more than `SPECK` levels: `[B,H,W]`.

    The median of nine exceeds a bound exactly where five of them do, which is quicker to count than to sort.
    """
    weights = torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], device=x.device)
    chroma = torch.einsum("cd,bdhw->bchw", weights, x) * LEVELS_PER_UNIT
    padded = functional.pad(chroma, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[2:]
    above, below = (torch.zeros(chroma.shape, dtype=torch.uint8, device=x.device) for _ in range(2))
    for row, column in ((i, j) for i in range(3) for j in range(3)):
        difference = padded[..., row : row + height, column : column + width] - chroma
        above += difference > SPECK
        below += difference < -SPECK
    return ((above >= 5) | (below >= 5)).any(1)
