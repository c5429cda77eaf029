"""How soon training gets somewhere, from the logs: steps to a level, as a share of another arm's steps."""

import numpy as np

from claims.compared import Compared, Json, NotMeasuredError
from claims.verdict import Array

LEVEL_AT = 2.0 / 3.0
"""The level is what the arm compared with has reached after this share of its steps."""

SMOOTHED = 0.1
"""Share of a log's lines that each smoothed value is the mean of, itself and those before it."""


def smoothed(log: list[Json], key: str) -> tuple[Array, Array]:
    """Steps and the trailing mean of a logged figure, `[lines]` each; the first lines average fewer.

    Raises:
        NotMeasuredError: fewer than three lines have the figure.
    """
    lines = [(line["step"], line[key]) for line in log if key in line]
    if len(lines) < 3:
        raise NotMeasuredError(f"{len(lines)} log lines with {key}, but a level needs 3")
    steps, values = np.array(lines, dtype=np.float64).T
    width = max(1, round(SMOOTHED * len(values)))
    sums = np.concatenate([[0.0], values.cumsum()])
    start = np.maximum(np.arange(len(values)) + 1 - width, 0)
    stop = np.arange(len(values)) + 1
    return steps, (sums[stop] - sums[start]) / (stop - start)


def steps_to(log: list[Json], key: str, level: float, rising: bool) -> float | None:
    """First step at which the smoothed figure is at `level` or beyond, None if never."""
    steps, values = smoothed(log, key)
    reached = values >= level if rising else values <= level
    return float(steps[reached.argmax()]) if reached.any() else None


def share_of_steps(compared: Compared, arm: str, reference: str, key: str, rising: bool, seed: int) -> float:
    """Steps of `arm` over those of `reference` to the level that the latter has at `LEVEL_AT`.

    An arm that never gets there counts with all its steps: less than the truth, in its favour.
    """
    theirs = compared.log(reference, seed)
    steps, values = smoothed(theirs, key)
    level = float(values[steps <= LEVEL_AT * steps[-1]][-1])
    ours = compared.log(arm, seed)
    mine = steps_to(ours, key, level, rising)
    base = steps_to(theirs, key, level, rising)
    if base is None:
        raise NotMeasuredError(f"{reference}-{seed} never reaches its own level of {key}")
    return (ours[-1]["step"] if mine is None else mine) / base
