"""A net on a picture of any size, tile by tile, in flat memory.

Three things can make the tiles visible, and each has its remedy here:

- near its ends a tile is computed from padding instead of picture: tiles overlap, and the ends have weight 0
  (`jeppa.vae.blending`);
- group norm takes statistics over the whole picture: they are measured once for all tiles;
- self-attention sees only the tile: neighbours are blended, and the one with less variance counts more
  (`jeppa.vae.blending`).

Group norm divides by the mean and the variance of a *whole* picture. With those of a tile, a plain sky comes out in
another tone beside a tile of leaves. The statistics are therefore measured once, on crops spread over the picture
that pass through the net together: at each norm all crops are normalised with their common statistics, so those of
the next norm are measured on the right features. `results/tiling.py` compares this with a thumbnail and with each
tile's own.

Two torch function modes measure and apply the statistics: while a net runs on this thread, they replace its calls of
`group_norm`. How large tiles may be, and how much of them to leave unused, follows from the architecture.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from jeppa.config import CELL, VAEConfig
from jeppa.distributions import Predictive
from jeppa.errors import DataError
from jeppa.machine import lacks_memory, note
from jeppa.vae.blending import LEAST_TILE, P, Plane, Span, Strip, TilePool, gather_rows, join_pictures, spans, window

NUMBERS = 2**25
"""Activations of the widest layer for one tile: 128 MiB in float32, of which a pass holds a few."""
PICTURES = 24
"""Numbers for each pixel with any net: three of image, mean, log-variance and the sums of the pool, all twice."""
SPREADS = 2.0


def tile_for(config: VAEConfig) -> int:
    """Side of a tile in cells for which the widest layer has about `NUMBERS` activations."""
    sizes = _level_sizes(config)
    widest = max(channels / size**2 for channels, size in zip(config.block_out_channels, sizes, strict=True))
    return max(LEAST_TILE * margin_for(config), math.isqrt(int(NUMBERS / max(PICTURES, widest))) // config.multiple)


def margin_for(config: VAEConfig) -> int:
    """Width in cells of the border of a tile in which the prediction depends on where the tile ends.

    The influence of a place through n layers of 3x3 falls off like a Gaussian of variance 2/3 n (a convolution of n
    boxes), much faster than the whole receptive field suggests. The border is two deviations wide;
    `results/tiling.py` measures what remains. Source: Luo et al., Understanding the effective receptive field, arXiv
    1701.04128.
    """
    sizes = _level_sizes(config)
    # First and last layer, two blocks in the middle, a block more at each level of the decoder than of the encoder.
    layers = [sizes[-1]] * 5 + [sizes[0]]
    for size in sizes:
        layers += [size] * _convolutions(config)
    layers += sizes[:-1]
    variance = 2.0 / 3.0 * sum(size**2 for size in layers)
    return math.ceil(SPREADS * math.sqrt(variance) / config.multiple)


def _convolutions(config: VAEConfig) -> int:
    """Layers of 3x3 at each level of the decoder: two to a block, but three to a block of an AutoencoderTiny."""
    if config.tiny is not None:
        return 3 * max(config.tiny.num_decoder_blocks)
    return 2 * (config.layers_per_block + 1)


def _level_sizes(config: VAEConfig) -> list[int]:
    """How many pixels a place of each level covers along a side."""
    return [config.pixel_unshuffle * 2**level for level in range(len(config.block_out_channels))]


Moments = tuple[Tensor, Tensor]
"""Mean and variance of each group over a picture, float64 `[G]`."""


def measure_statistics(net: Callable[[Tensor], object], crops: Tensor, margin: int) -> list[Moments]:
    """Measure the statistics of every group norm of `net`, in the order of its calls.

    Args:
        net: the one that will run on tiles.
        crops: of one picture, `[N,C,S,S]`.
        margin: a border this wide, in the places of `crops`, is left out: the net sees the end of the crop there.
    """
    measuring = _Measuring(crops.shape[-1], margin)
    with torch.no_grad(), measuring:
        net(crops)
    return measuring.statistics


class FixedStatistics(TorchFunctionMode):
    """Lets every group norm of one pass use the given statistics instead of those of its input."""

    def __init__(self, statistics: list[Moments]) -> None:
        super().__init__()
        self._next = iter(statistics)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `group_norm` and pass on all other calls."""
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        return _normalise(next(self._next), *args, **(kwargs or {}))


class _Measuring(TorchFunctionMode):
    def __init__(self, side: int, margin: int) -> None:
        super().__init__()
        self.statistics: list[Moments] = []
        self._side, self._margin = side, margin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        hidden, groups = args[:2]
        self.statistics.append(_group_moments(self._inner(hidden), groups))
        return _normalise(self.statistics[-1], *args, **(kwargs or {}))

    def _inner(self, hidden: Tensor) -> Tensor:
        """The input without its border; self-attention has its places in one row, so nothing is cut there."""
        border = self._margin * hidden.shape[-1] // self._side
        return hidden[..., border:-border, border:-border] if hidden.dim() == 4 and border else hidden


def _group_moments(hidden: Tensor, groups: int) -> Moments:
    """Mean and variance over crops, channels of the group and places."""
    grouped = hidden.float().unflatten(1, (groups, -1))
    over = [dim for dim in range(grouped.dim()) if dim != 1]
    variance, mean = torch.var_mean(grouped, dim=over, correction=0)
    return mean.double(), variance.double()


def _normalise(
    moments: Moments, hidden: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Group norm as one multiplication and addition for each channel, in float32; the result has the input's type."""
    mean, variance = (moment.repeat_interleave(hidden.shape[1] // groups) for moment in moments)
    gain = weight.double() * (variance + eps).rsqrt()
    shape = (1, -1, *[1] * (hidden.dim() - 2))
    shift = (bias.double() - mean * gain).float().view(shape)
    return torch.addcmul(shift, hidden, gain.float().view(shape)).to(hidden.dtype)


Net = Callable[[Tensor], Predictive]
Read = Callable[[int, int, int, int], Tensor]
"""The part of one picture from row `top` to `bottom` and column `left` to `right`, `[1,C,bottom-top,right-left]`."""
CROP = 16
CROP_MARGIN = 2
"""Largest side, and border, in cells, of the crops on which statistics are measured."""


@dataclass(frozen=True)
class Tiling:
    """Tiles in cells.

    Args:
        tile: longest side.
        margin: how much is left unused at an end that meets another tile; the tile fades over as much again.
        cell: pixels along a side of a cell: those of a place of the latent, but at least those of the sigma head's.
    """

    tile: int
    margin: int
    cell: int = CELL

    def __post_init__(self) -> None:
        spans(self.tile, self.tile, self.margin)  # for its check alone


def rows_in_tiles(net: Net, read: Read, plane: Plane, tiling: Tiling) -> Iterator[Strip]:
    """Run `net` over one picture, a row of tiles at a time; a picture within one tile passes as it is.

    Where memory is short, smaller tiles are tried, with a note; rows that were already yielded stay as they are.

    Memory holds one row of tiles of the prediction, and what the net needs for one tile.

    Args:
        net: predicts `scale_out / scale_in` places for each place of `read`, along a side.
        read: the picture, at `scale_in` places a cell.
        plane: its size.
        tiling: tiles and margins.

    Raises:
        DataError: the smallest tiles do not fit in memory either.
    """
    yielded = 0
    while yielded < plane.height * plane.scale_out:
        try:
            for strip in _pooled_rows(net, read, plane, tiling):
                bottom = strip.top + strip.mean.shape[2]
                if bottom > yielded:
                    yield strip.below(yielded)
                    yielded = bottom
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        if yielded < plane.height * plane.scale_out:
            tiling = _smaller(tiling, plane)


def predict(net: Callable[[Tensor], P], batch: Tensor, scales: tuple[int, int], tiling: Tiling) -> P:
    """Run `net` on a batch of pictures, those larger than a tile one by one and in tiles.

    A batch that does not fit in memory is halved again and again, down to single pictures, and those are tried in
    smaller tiles. A size that did not fit once is not tried again on the rest of the batch.

    Args:
        net: as for `rows_in_tiles`.
        batch: `[B,C,H,W]`.
        scales: places on a side of a cell, of the input and of the prediction.
        tiling: tiles and margins.

    Raises:
        DataError: as for `rows_in_tiles`.
    """
    plane = Plane(batch.shape[2] // scales[0], batch.shape[3] // scales[0], *scales)
    parts: list[P] = []
    if max(plane.height, plane.width) <= tiling.tile:
        parts, batch = _in_one_piece(net, batch)
        if len(batch):
            tiling = _smaller(tiling, plane)
    for i in range(len(batch)):
        parts.append(gather_rows(rows_in_tiles(net, reader(batch[i : i + 1]), plane, tiling), plane))
    return parts[0] if len(parts) == 1 else join_pictures(parts)


def reader(picture: Tensor) -> Read:
    """Reads from a picture in memory, `[1,C,H,W]`."""
    return lambda top, bottom, left, right: picture[:, :, top:bottom, left:right]


def _in_one_piece(net: Callable[[Tensor], P], batch: Tensor) -> tuple[list[P], Tensor]:
    """Predictions of the pictures that fit in memory without tiles, and the pictures that are left."""
    parts: list[P] = []
    part = len(batch)
    while len(batch) or not parts:
        try:
            parts.append(net(batch[:part]))
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        else:
            batch = batch[part:]
            continue
        # Not in the handler: its traceback keeps the tensors of the failed pass alive.
        if part == 1:
            break
        note(f"a batch of {part} does not fit in memory: trying {(part + 1) // 2} at a time")
        part = (part + 1) // 2
    return parts, batch


def _pooled_rows(net: Net, read: Read, plane: Plane, tiling: Tiling) -> Iterator[Strip]:
    down, across = (spans(side, tiling.tile, tiling.margin) for side in (plane.height, plane.width))
    if len(down) == len(across) == 1:
        whole = net(_part(read, down[0], across[0], plane.scale_in))
        yield Strip(0, whole.mean, whole.logvar, whole.element_logvar, whole)
        return
    statistics = measure_statistics(net, *_crops(read, plane, tiling))
    pool = TilePool(plane)
    for i, row in enumerate(down):
        for column in across:
            with FixedStatistics(statistics):
                predicted = net(_part(read, row, column, plane.scale_in))
            weight = torch.outer(*(window(span, tiling.margin, plane.scale_out) for span in (row, column)))
            pool.add(predicted, weight.to(predicted.mean), row, column)
        yield pool.finish(down[i + 1].start if i + 1 < len(down) else plane.height)


def _part(read: Read, row: Span, column: Span, scale: int) -> Tensor:
    return read(row.start * scale, row.stop * scale, column.start * scale, column.stop * scale)


def _crops(read: Read, plane: Plane, tiling: Tiling) -> tuple[Tensor, int]:
    """Crops evenly spread over the picture, as many as fill a tile, and the border to leave out, both in places."""
    # At most a quarter of a tile: one or two large crops would represent only one place of the picture.
    side = min(CROP, max(1, tiling.tile // 4), plane.height, plane.width)
    count = max(1, (tiling.tile // side) ** 2)
    rows = min(count, max(1, round((count * plane.height / plane.width) ** 0.5)))
    corners = product(_spread(plane.height - side, rows), _spread(plane.width - side, count // rows))
    size, scale = side * plane.scale_in, plane.scale_in
    crops = [read(y * scale, y * scale + size, x * scale, x * scale + size) for y, x in corners]
    return torch.cat(crops), min(CROP_MARGIN, (side - 1) // 2) * plane.scale_in


def _spread(last: int, count: int) -> list[int]:
    """`count` whole numbers evenly from 0 to `last`; the middle for one."""
    return [last // 2] if count == 1 else [i * last // (count - 1) for i in range(count)]


def _smaller(tiling: Tiling, plane: Plane) -> Tiling:
    """Tiles of half the side, with a note.

    Raises:
        DataError: they would be too small to fade.
    """
    side = min(tiling.tile, max(plane.height, plane.width))
    half = side // 2
    if half < LEAST_TILE * tiling.margin:
        size = f"{tiling.cell * plane.width}x{tiling.cell * plane.height}"
        raise DataError(f"a picture of {size} pixels does not fit in memory, not even in tiles: free some memory")
    note(f"{tiling.cell * side} pixels a side do not fit in memory: trying tiles of {tiling.cell * half}")
    return replace(tiling, tile=half)
