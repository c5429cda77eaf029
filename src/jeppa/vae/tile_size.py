"""How large tiles may be, and how much of them to leave unused, from a net's architecture."""

import math

from jeppa.bands import CELL
from jeppa.config import VAEConfig
from jeppa.vae.spans import LEAST_TILE

NUMBERS = 2**25
"""Activations of the widest layer for one tile: 128 MiB in float32, of which a pass holds a few."""
PICTURES = 24
"""Numbers for each pixel whatever the net: image, mean, log-variance and the sums of the pool, three each and twice."""
SPREADS = 2.0


def tile_for(config: VAEConfig) -> int:
    """Side of a tile in cells of 8 pixels for which the widest layer has about `NUMBERS` activations."""
    sizes = _level_sizes(config)
    widest = max(channels / size**2 for channels, size in zip(config.block_out_channels, sizes, strict=True))
    return max(LEAST_TILE * margin_for(config), math.isqrt(int(NUMBERS / max(PICTURES, widest))) // CELL)


def margin_for(config: VAEConfig) -> int:
    """Width in cells of the border of a tile whose answers the end of the tile has changed.

    What a place contributes through n layers of 3x3 falls off like a Gaussian of variance 2/3 n (a convolution of n
    boxes), much faster than the whole receptive field suggests; two deviations are left out;
    `results/tiling.py` measures it. Source: Luo et al., Understanding the effective receptive field, arXiv 1701.04128.
    """
    sizes = _level_sizes(config)
    # First and last layer, two blocks in the middle, a block more at each level of the decoder than of the encoder.
    layers = [CELL] * 5 + [sizes[0]]
    for size in sizes:
        layers += [size] * 2 * (config.layers_per_block + 1)
    layers += sizes[:-1]
    variance = 2.0 / 3.0 * sum(size**2 for size in layers)
    return math.ceil(SPREADS * math.sqrt(variance) / CELL)


def _level_sizes(config: VAEConfig) -> list[int]:
    """Pixels a side of one place of each level."""
    return [config.pixel_unshuffle * 2**level for level in range(len(config.block_out_channels))]
