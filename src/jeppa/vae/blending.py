"""How tiles become one picture: the predictions of a net are pooled where tiles overlap.

A tile is pooled with its neighbours as a product of Gaussians with powers k that sum to 1 at each place. Precisions
add up, 1/v = sum k_i / v_i, and the mean is weighted by inverse variance, m = v sum (k_i / v_i) m_i. Two tiles at one
place predict it from nearly the same pixels, so they are not two independent measurements: v lies between the variances
of the tiles and never below the smallest.

Source: Genest and Zidek, Combining probability distributions, Statistical Science 1(1), 1986.

Tiles lie along one side of a picture like this, and the windows that blend them are a partition of unity:

    tile i      ...1111111111\\\\\\\\..........
    tile i+1        ..........////////1111111...
                   margin    margin  margin

Neighbours share three margins. Within one margin of its own end a tile is not used at all, because the net saw the end
of the tile there instead of the picture. Over the middle margin one tile fades into the next.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from jeppa.distributions import Predictive
from jeppa.errors import ConfigError

OVERLAP = 3
LEAST_TILE = 5
"""Overlap and shortest tile, in margins: the shortest tile can still fade at both ends."""


@dataclass(frozen=True)
class Span:
    """Cells `start` to `stop` of a side; whether there is a neighbour before and after."""

    start: int
    stop: int
    before: bool
    after: bool


def spans(length: int, tile: int, margin: int) -> list[Span]:
    """Tiles of nearly the same size, at most `tile` long, that cover `length` cells; neighbours share 3 margins.

    Raises:
        ConfigError: a tile shorter than 5 margins.
    """
    if margin < 1 or tile < LEAST_TILE * margin:
        raise ConfigError(
            f"tile is {tile} cells of 8 pixels with a margin of {margin}, but the margin must be at least 1 and the "
            f"tile {LEAST_TILE} margins: take larger tiles"
        )
    if length <= tile:
        return [Span(0, length, before=False, after=False)]
    overlap = OVERLAP * margin
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [i * (length - overlap) // count for i in range(count + 1)]
    return [
        Span(start, following + overlap, before=i > 0, after=i < count - 1)
        for i, (start, following) in enumerate(pairwise(starts))
    ]


def window(span: Span, margin: int, scale: int) -> Tensor:
    """Weight of a tile at each of its places, float32 `[(stop - start) * scale]`; over all tiles the sum is 1.

    Args:
        span: the tile, in cells.
        margin: in cells.
        scale: places in a cell.
    """
    places = (torch.arange((span.stop - span.start) * scale) + 0.5) / scale
    weight = torch.ones_like(places)
    if span.before:
        weight = weight * _rise(places / margin - 1.0)
    if span.after:
        weight = weight * _rise((span.stop - span.start - places) / margin - 1.0)
    return weight


def _rise(share: Tensor) -> Tensor:
    """0 up to share 0, 1 from share 1, smooth between; rise(s) + rise(1 - s) = 1."""
    return torch.sin(0.5 * math.pi * share.clamp(0.0, 1.0)).square()


P = TypeVar("P", bound=Predictive)


@dataclass(frozen=True)
class Plane:
    """A picture of `height` x `width` cells of 8x8 pixels, and the places on a side of a cell at a net's two ends."""

    height: int
    width: int
    scale_in: int
    scale_out: int


@dataclass(frozen=True)
class Strip:
    """Finished rows of a prediction, over the whole width.

    Args:
        top: the first row.
        mean: `[1,C,rows,width]`.
        logvar: of each place, same shape.
        element_logvar: of the elements of the family, same shape: `logvar` itself or that of bands.
        family: any prediction of the net, for the parameters that do not depend on the place; if there is only one
            tile, the prediction of it.
    """

    top: int
    mean: Tensor
    logvar: Tensor
    element_logvar: Tensor
    family: Predictive

    def below(self, row: int) -> "Strip":
        """The part of the strip from this row of the picture on."""
        if row <= self.top:
            return self
        kept = (..., slice(row - self.top, None), slice(None))
        return Strip(row, self.mean[kept], self.logvar[kept], self.element_logvar[kept], self.family)


class TilePool:
    """Sums over the tiles of the rows that are not finished yet: precision x mean, precision, precision of bands."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._top = 0
        self._sums: list[Tensor] = []
        self._family: Predictive | None = None

    def add(self, predicted: Predictive, weight: Tensor, row: Span, column: Span) -> None:
        """Add one tile, weighted by its window `[rows,columns]`."""
        precision = weight * (-predicted.logvar.float()).exp()
        terms = [precision * predicted.mean, precision]
        if predicted.element_side > 1:
            elements = _average_blocks(weight, predicted.element_side)
            terms.append(elements * (-predicted.element_logvar.float()).exp())
        self._family = predicted
        self._grow(terms, row.stop)
        scale = self._plane.scale_out
        top, bottom = ((edge - self._top) * scale for edge in (row.start, row.stop))
        for total, term in zip(self._sums, terms, strict=True):
            total[:, :, top:bottom, column.start * scale : column.stop * scale] += term

    def finish(self, stop: int) -> Strip:
        """Return the rows of cells up to `stop`, which no further tile reaches, and forget them."""
        assert self._family is not None
        count = (stop - self._top) * self._plane.scale_out
        done = [total[:, :, :count] for total in self._sums]
        logvar = -done[1].log()
        elements = -done[2].log() if len(done) == 3 else logvar
        strip = Strip(self._top * self._plane.scale_out, done[0] / done[1], logvar, elements, self._family)
        self._sums, self._top = [total[:, :, count:].clone() for total in self._sums], stop
        return strip

    def _grow(self, like: list[Tensor], bottom: int) -> None:
        """Make room for the rows of cells up to `bottom`."""
        scale = self._plane.scale_out
        width = self._plane.width * scale
        sums = self._sums or [term.new_zeros(1, term.shape[1], 0, width) for term in like]
        missing = (bottom - self._top) * scale - sums[0].shape[2]
        self._sums = [F.pad(total, (0, 0, 0, missing)) for total in sums] if missing else sums


def join_pictures(parts: list[P]) -> P:
    """Join predictions of pictures of one size into the prediction of a batch."""
    first = parts[0]
    logvars = torch.cat([part.element_logvar for part in parts])
    return first.around(torch.cat([part.mean for part in parts]), logvars)


def gather_rows(strips: Iterator[Strip], plane: Plane) -> Any:
    """Gather all rows of a picture into one prediction of the net's family."""
    first = next(strips)
    if first.family.mean.shape == first.mean.shape:
        return first.family
    shape = (1, first.mean.shape[1], plane.height * plane.scale_out, first.mean.shape[3])
    mean, logvar = (first.mean.new_empty(shape) for _ in range(2))
    for rows in chain([first], strips):
        bottom = rows.top + rows.mean.shape[2]
        mean[:, :, rows.top : bottom] = rows.mean
        logvar[:, :, rows.top : bottom] = rows.element_logvar
    return first.family.around(mean, logvar)


def _average_blocks(weight: Tensor, side: int) -> Tensor:
    """The mean of a window over each block of `side` x `side` places, at all places of the block."""
    return F.interpolate(F.avg_pool2d(weight[None, None], side), scale_factor=side, mode="nearest")[0, 0]
