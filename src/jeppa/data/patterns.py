"""Drawn training crops: plain colours and gradients, which must come back exactly, and regular structure.

Photographs hardly hold a plain colour or a grating, so a net learns neither from them: plain areas show its lattice,
and stripes finer than a latent come back as something else. A share of crops is drawn instead, for all frequencies and
directions alike.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]

LEAST_PERIOD, LARGEST_PERIOD = 2.0, 64.0
"""Of stripes, in pixels."""
STROKES = 12
OVERSAMPLING = 3
"""Places a side on which a pixel of strokes is averaged."""


def draw_pattern(side: int, rng: np.random.Generator) -> Tensor:
    """One drawn picture, `[3,side,side]` in [-1,1].

    Args:
        side: in pixels.
        rng: all the randomness.
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    low, high = (rng.uniform(-1.0, 1.0, 3) for _ in range(2))
    if rng.random() < 0.5:
        low, high = np.full(3, low[0]), np.full(3, high[0])
    share = torch.from_numpy(kind(side, rng)).float()
    first, second = (torch.from_numpy(colour).float()[:, None, None] for colour in (low, high))
    return first + (second - first) * share


def _plain(side: int, rng: np.random.Generator) -> FloatArray:
    return np.zeros((side, side))


def _gradient(side: int, rng: np.random.Generator) -> FloatArray:
    across = _across(side, rng)
    share: FloatArray = (across - across.min()) / np.ptp(across)
    return share


def _stripes(side: int, rng: np.random.Generator) -> FloatArray:
    """Smooth or sharp stripes of any direction, half of them level or upright."""
    period = math.exp(rng.uniform(math.log(LEAST_PERIOD), math.log(LARGEST_PERIOD)))
    wave = np.sin(2.0 * math.pi * (_across(side, rng) / period + rng.uniform()))
    sharpness = rng.uniform(1.0, 8.0)
    share: FloatArray = 0.5 + 0.5 * np.clip(sharpness * wave, -1.0, 1.0)
    return share


def _net(side: int, rng: np.random.Generator) -> FloatArray:
    """Wires of two directions on a plain ground."""
    share: FloatArray = np.maximum(_stripes(side, rng) ** 4, _stripes(side, rng) ** 4)
    return share


def _strokes(side: int, rng: np.random.Generator) -> FloatArray:
    """Straight strokes of one width, as letters have them, with smooth edges."""
    fine = side * OVERSAMPLING
    down, across = np.mgrid[:fine, :fine] / OVERSAMPLING
    width = math.exp(rng.uniform(0.0, math.log(8.0)))
    drawn = np.zeros((fine, fine), dtype=bool)
    for _ in range(STROKES):
        (top, left), length = rng.uniform(0.0, side, 2), rng.uniform(width, max(width, side / 3.0))
        turn = rng.integers(4) * math.pi / 4.0 if rng.random() < 0.7 else rng.uniform(0.0, math.pi)
        along = (down - top) * math.sin(turn) + (across - left) * math.cos(turn)
        beside = (across - left) * math.sin(turn) - (down - top) * math.cos(turn)
        drawn |= (np.abs(along) < length / 2.0) & (np.abs(beside) < width / 2.0)
    share: FloatArray = drawn.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))
    return share


def _across(side: int, rng: np.random.Generator) -> FloatArray:
    """Pixels along a random direction, `[side,side]`."""
    turn = rng.integers(2) * math.pi / 2.0 if rng.random() < 0.5 else rng.uniform(0.0, math.pi)
    down, across = np.mgrid[:side, :side]
    distance: FloatArray = down * math.sin(turn) + across * math.cos(turn)
    return distance


KINDS: tuple[Callable[[int, np.random.Generator], FloatArray], ...] = (_plain, _gradient, _stripes, _net, _strokes)
