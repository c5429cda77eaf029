"""Rejection by uncertainty: which samples of a stream stay, with a score of each kept in memory and no picture."""

import heapq
import math
from fractions import Fraction

from jeppa.errors import ConfigError


def candidates(number: int, keep: float) -> int:
    """How many samples to draw so that `number` of them are the share `keep`, rounded up.

    Raises:
        ConfigError: a number below 1, or a share outside (0, 1].
    """
    if number < 1:
        raise ConfigError(f"number is {number}, but at least 1 picture must be asked for")
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep is {keep}, but must be a share above 0 up to 1: 0.5 keeps the surer half, 1 all")
    # The decimal that was typed, since 21 / 0.35 in floats is a little more than 60.
    return math.ceil(number / Fraction(str(keep)))


class LeastUncertain:
    """The `number` least uncertain samples so far; of equal ones those of the lowest seeds."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._worst_first: list[tuple[float, int]] = []

    def offer(self, seed: int, uncertainty: float) -> int | None:
        """Take a sample in; returns the seed of the one that drops out for it, if any."""
        heapq.heappush(self._worst_first, (-uncertainty, -seed))
        if len(self._worst_first) <= self._number:
            return None
        return -heapq.heappop(self._worst_first)[1]

    def seeds(self) -> list[int]:
        """Those that stay, least uncertain first."""
        return [-seed for _, seed in sorted(self._worst_first, reverse=True)]
