"""Tables of per-image figures, wherever they come from: evaluation.json, the models, or the stability grid."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from claims import paths, stability
from claims.compared import Compared, Json, NotMeasuredError, number
from claims.decoded import KEYS, DecodedFigures
from claims.verdict import Array


class Evidence:
    """All that the tests look at: the compare folder, what is measured from its models, and the stability grid."""

    def __init__(self, compared: Compared, work: Path, say: Callable[[str], None], grid: bool = True) -> None:
        self.compared = compared
        self._decoded = DecodedFigures(compared)
        self._paths = paths.PathFigures(compared)
        self._work, self._say, self._with_grid = work, say, grid
        self._grid: dict[stability.Job, Json] | None = None

    def table(self, key: str, arms: tuple[str, ...]) -> Array:
        """Per-image figures `[arms,seeds,images]` for the seeds and images that all of `arms` have."""
        read = self._reader(key)
        by_seed = self.compared.gather(arms, lambda arm, seed: self._column(read(arm, seed), key))
        names = sorted(set.intersection(*(set(column) for columns in by_seed.values() for column in columns)))
        if not names:
            raise NotMeasuredError(f"no image with {key} that all runs share")
        per_seed = [[[column[name] for name in names] for column in columns] for columns in by_seed.values()]
        return np.array(per_seed, dtype=np.float64).transpose(1, 0, 2)

    def grid(self) -> dict[stability.Job, Json]:
        """Results of the stability grid, trained when first asked for."""
        if not self._with_grid:
            raise NotMeasuredError("left out by --no-grid")
        if self._grid is None:
            self._grid = stability.run_grid(self.compared, self._work, self._say)
        return self._grid

    @cache  # noqa: B019 (one for the whole program)
    def knob(self, arm: str, seed: int, place: str) -> paths.Knob:
        """The knob of a run, turned once."""
        return paths.turn_knob(self.compared, arm, seed, place)

    def _reader(self, key: str) -> Callable[[str, int], dict[str, Json]]:
        first = key.split(" - ")[0]
        if first in KEYS:
            return self._decoded.rows
        return self._paths.rows if first in paths.PATH_KEYS else self.compared.rows

    @staticmethod
    def _column(rows: dict[str, Json], key: str) -> dict[str, float]:
        return {name: number(row, key) for name, row in rows.items()}
