"""A net on a picture of any size, tile by tile, in flat memory.

Three things make tiles show, and each has its remedy here:

- near its ends a tile is computed from padding instead of picture: tiles overlap, and the ends have weight 0
  (`jeppa.vae.blending`);
- group norm takes statistics over the whole picture: they are measured once for all tiles;
- self-attention sees the tile only: where neighbours differ they are blended, surer ones first (`jeppa.vae.blending`).

Group norm divides by the mean and the variance of a *whole* picture. With those of a tile, a plain sky comes out in
another tone beside a tile of leaves. The statistics are therefore measured once, on crops spread over the picture
that pass through the net together: at each norm all crops are normalised with their common statistics, so those of
the next norm are measured on the right features. `results/tiling.py` compares this with a thumbnail and with each
tile's own.

Measuring and applying them are torch function modes: they replace the calls of `group_norm` of any net, on this
thread, while it runs. How large tiles may be, and how much of them to leave unused, follows from a net's architecture.
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

from jeppa.config import VAEConfig
from jeppa.distributions import CELL, Predictive
from jeppa.errors import DataError
from jeppa.machine import lacks_memory, note
from jeppa.vae.blending import LEAST_TILE, P, Plane, Pool, Span, Strip, gathered, joined, spans, window

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


Moments = tuple[Tensor, Tensor]
"""Mean and variance of each group over a picture, float64 `[G]`."""


def measure_statistics(net: Callable[[Tensor], object], crops: Tensor, margin: int) -> list[Moments]:
    """Statistics of every group norm of `net`, in the order of its calls.

    Args:
        net: what is to run on tiles.
        crops: of one picture, `[N,C,S,S]`.
        margin: a border this wide, in the places of `crops`, is left out: the net sees the end of the crop there.
    """
    measuring = _Measuring(crops.shape[-1], margin)
    with torch.no_grad(), measuring:
        net(crops)
    return measuring.found


class FixedStatistics(TorchFunctionMode):
    """Lets every group norm of one pass use the given statistics instead of those of its input."""

    def __init__(self, statistics: list[Moments]) -> None:
        super().__init__()
        self._next = iter(statistics)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `group_norm`, pass on all else."""
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        return _normalise(next(self._next), *args, **(kwargs or {}))


class _Measuring(TorchFunctionMode):
    def __init__(self, side: int, margin: int) -> None:
        super().__init__()
        self.found: list[Moments] = []
        self._side, self._margin = side, margin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        hidden, groups = args[:2]
        self.found.append(_group_moments(self._inner(hidden), groups))
        return _normalise(self.found[-1], *args, **(kwargs or {}))

    def _inner(self, hidden: Tensor) -> Tensor:
        """Without the border, at whatever resolution; self-attention has its places in one row, so none is cut."""
        border = self._margin * hidden.shape[-1] // self._side
        return hidden[..., border:-border, border:-border] if hidden.dim() == 4 and border else hidden


def _group_moments(hidden: Tensor, groups: int) -> Moments:
    """Over crops, channels of the group and places."""
    grouped = hidden.float().unflatten(1, (groups, -1))
    over = [dim for dim in range(grouped.dim()) if dim != 1]
    variance, mean = torch.var_mean(grouped, dim=over, correction=0)
    return mean.double(), variance.double()


def _normalise(
    moments: Moments, hidden: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Group norm as one multiplication and addition for each channel; computed in float32, answered in the input's."""
    mean, variance = (one.repeat_interleave(hidden.shape[1] // groups) for one in moments)
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
    """Tiles in cells of 8x8 pixels.

    Args:
        tile: longest side.
        margin: at an end that meets another tile, this much is not used, and over as much again the tile fades.
    """

    tile: int
    margin: int

    def __post_init__(self) -> None:
        spans(self.tile, self.tile, self.margin)  # for its check alone


def rows_in_tiles(net: Net, read: Read, plane: Plane, tiling: Tiling) -> Iterator[Strip]:
    """Run `net` over one picture, a row of tiles at a time; a picture within one tile passes as it is.

    Where memory is short, smaller tiles are tried, with a note; rows that were given away stay as they are.

    Memory: a row of tiles of the answer, and what the net needs for one tile.

    Args:
        net: answers places of `read` with a prediction of `scale_out / scale_in` times the size.
        read: the picture, at `scale_in` places a cell.
        plane: its size.
        tiling: tiles and margins.

    Raises:
        DataError: the smallest tiles do not fit in memory either.
    """
    given = 0
    while given < plane.height * plane.scale_out:
        try:
            for strip in _pooled_rows(net, read, plane, tiling):
                bottom = strip.top + strip.mean.shape[2]
                if bottom > given:
                    yield strip.below(given)
                    given = bottom
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        if given < plane.height * plane.scale_out:
            tiling = _smaller(tiling, plane)


def predict(net: Callable[[Tensor], P], batch: Tensor, scales: tuple[int, int], tiling: Tiling) -> P:
    """Run `net` on a batch of pictures, those larger than a tile one by one and in tiles.

    A batch that does not fit in memory is halved down to single pictures, and those are tried in smaller tiles. What
    did not fit once is not tried again on the rest of the batch.

    Args:
        net: as for `rows_in_tiles`.
        batch: `[B,C,H,W]`.
        scales: places of the input and of the answer in a cell.
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
        parts.append(gathered(rows_in_tiles(net, reader(batch[i : i + 1]), plane, tiling), plane))
    return parts[0] if len(parts) == 1 else joined(parts)


def reader(picture: Tensor) -> Read:
    """Reads from a picture in memory, `[1,C,H,W]`."""
    return lambda top, bottom, left, right: picture[:, :, top:bottom, left:right]


def _in_one_piece(net: Callable[[Tensor], P], batch: Tensor) -> tuple[list[P], Tensor]:
    """Answers to the pictures that fit in memory without tiles, and the pictures left where not even one fits."""
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
        # Here and not in the handler, whose traceback holds what the failed pass had made.
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
    pool = Pool(plane)
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
    # A quarter of a small tile: one crop or two would speak for one place of the picture.
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
        size = f"{CELL * plane.width}x{CELL * plane.height}"
        raise DataError(f"a picture of {size} pixels does not fit in memory, not even in tiles: free some memory")
    note(f"{CELL * side} pixels a side do not fit in memory: trying tiles of {CELL * half}")
    return replace(tiling, tile=half)
