"""Where tiles lie along one side of a picture, and the windows that blend them: a partition of unity.

    tile i      ...1111111111\\\\\\\\..........
    tile i+1        ..........////////1111111...
                   margin    margin  margin

Neighbours share three margins. Within one margin of its own end a tile is not trusted at all (the net saw the end of
the tile there instead of the picture), in the middle margin one tile hands over to the next.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from jeppa.errors import ConfigError

OVERLAP = 3
LEAST_TILE = 5
"""Overlap and shortest tile in margins: tiles of half that step must still be able to fade at both ends."""


@dataclass(frozen=True)
class Span:
    """Cells `start` to `stop` of a side; whether there is a neighbour before and after."""

    start: int
    stop: int
    before: bool
    after: bool


def spans(length: int, tile: int, margin: int) -> list[Span]:
    """Tiles of about one size, at most `tile` long, that cover `length` cells; neighbours share 3 margins.

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
