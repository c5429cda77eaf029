"""What the tests look at: figures of each image from any source, the stability grid, and the turned knobs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from results.claims import paths, stability
from results.claims.decoded import KEYS, DecodedFigures
from results.claims.folder import CompareFolder, NotMeasuredError, take_figure
from results.claims.verdict import Array
from results.record import Json


class Evidence:
    """Everything that can be measured for a compare folder, each part when a test first asks for it.

    Args:
        folder: the compare folder.
        work: folder for the stability runs.
        report: called with a line for every stability run that ends.
        grid: whether stability runs may be trained.
    """

    def __init__(self, folder: CompareFolder, work: Path, report: Callable[[str], None], grid: bool = True) -> None:
        self.folder = folder
        self._decoded = DecodedFigures(folder)
        self._paths = paths.PathFigures(folder)
        self._work, self._report, self._with_grid = work, report, grid
        self._grid: dict[stability.Job, Json] | None = None

    def collect(self, key: str, arms: tuple[str, ...]) -> Array:
        """A figure of each image, `[arms,seeds,images]`, for the seeds and images that all of `arms` have.

        Raises:
            NotMeasuredError: there are none.
        """
        read = self._choose_source(key)
        by_seed = self.folder.gather(arms, lambda arm, seed: take_column(read(arm, seed), key))
        names = sorted(set.intersection(*(set(column) for columns in by_seed.values() for column in columns)))
        if not names:
            raise NotMeasuredError(f"no image with {key} that all runs share")
        per_seed = [[[column[name] for name in names] for column in columns] for columns in by_seed.values()]
        return np.array(per_seed, dtype=np.float64).transpose(1, 0, 2)

    def run_grid(self) -> dict[stability.Job, Json]:
        """Results of the stability grid, trained when first asked for."""
        if not self._with_grid:
            raise NotMeasuredError("left out by --no-grid")
        if self._grid is None:
            self._grid = stability.run_grid(self.folder, self._work, self._report)
        return self._grid

    @cache  # noqa: B019 (one object for the whole program)
    def turn_knob(self, arm: str, seed: int, place: str) -> paths.Knob:
        """What turning up the temperature does to a run; measured once."""
        return paths.turn_knob(self.folder, arm, seed, place)

    def _choose_source(self, key: str) -> Callable[[str, int], dict[str, Json]]:
        first = key.split(" - ")[0]
        if first in KEYS:
            return self._decoded.measure_run
        return self._paths.measure_run if first in paths.PATH_KEYS else self.folder.read_rows


def take_column(rows: dict[str, Json], key: str) -> dict[str, float]:
    """One figure of every image, by the image's name."""
    return {name: take_figure(row, key) for name, row in rows.items()}
