"""The kinds of test: each says in words what it compares, and judges one arm at a time.

The words are made from the thresholds that judge, so the ledger cannot promise one thing and test another.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from results.claims import paths, stability
from results.claims.evidence import Evidence
from results.claims.folder import CompareFolder, NotMeasuredError, take_figure
from results.claims.verdict import Array, Figure, Promise, Verdict, average_images, average_seeds, decide
from results.record import Json

HETEROSCEDASTIC = (
    "faithful", "nll", "beta-nll", "student-t", "band", "band-beta", "band-faithful", "band-t-faithful",
    "band-t-faithful+lpips",
)  # fmt: skip
FEWEST_EXCESS = 2
"""With so many more troubled runs than `shared` has, "stable" is refuted; one more is undecided."""
LEVEL_AT = 2.0 / 3.0
"""Convergence is measured to the level that the reference has after this share of its steps."""
SMOOTHED = 0.1
"""Share of a log's lines over which a smoothed value is the mean, the line itself and those before it."""


@dataclass(frozen=True)
class Finding:
    """The result of one arm in one test; if `figure` is None, it was not measured, and `note` says why."""

    arm: str
    versus: str
    figure: Figure | None
    verdict: Verdict
    note: str = ""


class Trial(Protocol):
    """What every kind of test has."""

    @property
    def name(self) -> str:
        """Short and unique."""

    @property
    def primary(self) -> str:
        """The arm whose verdict is the promise's."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms to judge."""

    @property
    def words(self) -> str:
        """The test with its threshold."""

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """Judge one arm.

        Raises:
            NotMeasuredError: the evidence for it is missing.
        """


@dataclass(frozen=True)
class PerImage:
    """A figure of each image, or its difference to that of another arm, averaged and compared with a threshold.

    Args:
        name: short and unique.
        key: figure, or "a - b" for the difference of two figures of the same image.
        about: the figure in words, with its unit.
        promise: where it must lie.
        versus: the arm whose figure is subtracted, or None.
        primary: the arm whose verdict is the promise's.
        arms: arms to judge.
    """

    name: str
    key: str
    about: str
    promise: Promise
    versus: str | None = "shared"
    primary: str = "faithful"
    arms: tuple[str, ...] = HETEROSCEDASTIC

    @property
    def words(self) -> str:
        """See `Trial`."""
        against = "" if self.versus is None else f", arm minus {self.versus}"
        return f"{self.about}{against}: {self.promise}"

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`."""
        if self.versus is None:
            figure = average_images(evidence.collect(self.key, (arm,))[0])
            return Finding(arm, "", figure, decide(figure, self.promise))
        ours, theirs = evidence.collect(self.key, (arm, self.versus))
        figure = average_images(ours - theirs)
        note = "equal for every image and seed" if np.array_equal(ours, theirs, equal_nan=True) else ""
        return Finding(arm, self.versus, figure, decide(figure, self.promise), note)


@dataclass(frozen=True)
class Convergence:
    """Steps to the level that another arm reaches late in its training, as a share of that arm's steps."""

    name: str
    key: str
    rising: bool
    versus: str = "shared"
    primary: str = "faithful"
    arms: tuple[str, ...] = HETEROSCEDASTIC
    promise: Promise = field(default_factory=lambda: Promise(high=1.0))

    @property
    def words(self) -> str:
        """See `Trial`."""
        return (
            f"steps to the smoothed {self.key} that {self.versus} has after {LEVEL_AT:.0%} of its steps (all steps if "
            f"never), over the steps of {self.versus}: {self.promise} (geometric mean and t interval over seeds)"
        )

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`."""
        folder = evidence.folder

        def measure_share(name: str, seed: int) -> float:
            if name == self.versus:
                return 1.0
            return compare_steps(folder, name, self.versus, self.key, self.rising, seed)

        shares = folder.gather((arm, self.versus), measure_share)
        figure = average_seeds(np.array([share for share, _ in shares.values()]), ratio=True)
        return Finding(arm, self.versus, figure, decide(figure, self.promise))


@dataclass(frozen=True)
class MetricRatio:
    """A figure of a whole run over another figure of the same run."""

    name: str
    over: str
    under: str
    about: str
    promise: Promise
    primary: str = "faithful"
    arms: tuple[str, ...] = HETEROSCEDASTIC

    @property
    def words(self) -> str:
        """See `Trial`."""
        return f"{self.about}: {self.promise} (geometric mean and t interval over seeds)"

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`."""

        def divide(name: str, seed: int) -> float:
            metrics = evidence.folder.read_metrics(name, seed)
            return take_figure(metrics, self.over) / take_figure(metrics, self.under)

        values = [value for (value,) in evidence.folder.gather((arm,), divide).values()]
        figure = average_seeds(np.array(values), ratio=True)
        return Finding(arm, "", figure, decide(figure, self.promise))


@dataclass(frozen=True)
class Stability:
    """The number of troubled runs of the grid."""

    name: str
    data: str
    primary: str = "faithful"
    arms: tuple[str, ...] = stability.ARMS[1:]

    @property
    def words(self) -> str:
        """See `Trial`."""
        runs = len(stability.RATES) * len(stability.SEEDS)
        return (
            f"of {runs} runs on {stability.DATA[self.data]}, those that diverge (held-out PSNR over "
            f"{stability.LARGEST_LOSS:g} dB below shared of the same rate and seed, or not finite) or spike (the bound "
            f"rises over {stability.SPIKE:g} bit above its running minimum), less those of shared: "
            f"0 or fewer confirms, {FEWEST_EXCESS} or more refute"
        )

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`; the ends of the "interval" are the count itself."""
        results = evidence.run_grid()
        diverged, spiked, troubled = stability.count_troubled(results, arm, self.data)
        shared = stability.count_troubled(results, "shared", self.data)
        excess = float(troubled - shared[2])
        verdict: Verdict = "confirmed" if excess <= 0 else "refuted" if excess >= FEWEST_EXCESS else "undecided"
        note = f"{diverged} diverged, {spiked} spiked; shared: {shared[0]} and {shared[1]}"
        return Finding(arm, "shared", Figure(excess, excess, excess, (), 0), verdict, note)


@dataclass(frozen=True)
class KnobTurns:
    """Every rise of the temperature must move a figure the same way, for every seed."""

    name: str
    place: str
    side: str
    about: str
    primary: str = "faithful"
    arms: tuple[str, ...] = ("faithful", "nll", "band", "band-faithful", "band-t-faithful")

    @property
    def words(self) -> str:
        """See `Trial`."""
        taus = ", ".join(f"{tau:g}" for tau in paths.TAUS)
        return f"{self.about} at temperatures {taus}: smallest step of every seed above 0 (ends: least, greatest seed)"

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`; refuted if it fails for one seed."""
        by_seed = evidence.folder.gather((arm,), partial(self._find_least_step, evidence))
        steps = [step for (step,) in by_seed.values()]
        images = paths.count_knob_images(evidence.folder)
        figure = Figure(float(np.mean(steps)), min(steps), max(steps), tuple(steps), images)
        return Finding(arm, "", figure, "confirmed" if min(steps) > 0.0 else "refuted")

    def _find_least_step(self, evidence: Evidence, arm: str, seed: int) -> float:
        knob = evidence.turn_knob(arm, seed, self.place)
        return paths.find_least_step(knob.diversity if self.side == "diversity" else -knob.fidelity)


def smooth(log: list[Json], key: str) -> tuple[Array, Array]:
    """Steps and the trailing mean of a logged figure, `[lines]` each; the first means are over fewer lines.

    Raises:
        NotMeasuredError: fewer than three lines have the figure.
    """
    lines = [(line["step"], line[key]) for line in log if key in line]
    if len(lines) < 3:
        raise NotMeasuredError(f"{len(lines)} log lines with {key}, but a level needs 3")
    steps, values = np.array(lines, dtype=np.float64).T
    width = max(1, round(SMOOTHED * len(values)))
    sums = np.concatenate([[0.0], values.cumsum()])
    stop = np.arange(len(values)) + 1
    start = np.maximum(stop - width, 0)
    return steps, (sums[stop] - sums[start]) / (stop - start)


def find_step(log: list[Json], key: str, level: float, rising: bool) -> float | None:
    """First step at which the smoothed figure is at `level` or beyond it, None if there is none."""
    steps, values = smooth(log, key)
    reached = values >= level if rising else values <= level
    return float(steps[reached.argmax()]) if reached.any() else None


def compare_steps(folder: CompareFolder, arm: str, reference: str, key: str, rising: bool, seed: int) -> float:
    """Steps of `arm` over those of `reference` to the level that the latter has at `LEVEL_AT`.

    An arm that never reaches the level counts with all its steps, which is less than the truth and so in its favour.
    """
    reference_log = folder.read_log(reference, seed)
    steps, values = smooth(reference_log, key)
    level = float(values[steps <= LEVEL_AT * steps[-1]][-1])
    arm_log = folder.read_log(arm, seed)
    arm_step = find_step(arm_log, key, level, rising)
    reference_step = find_step(reference_log, key, level, rising)
    if reference_step is None:
        raise NotMeasuredError(f"{reference}-{seed} never reaches its own level of {key}")
    return float(arm_log[-1]["step"] if arm_step is None else arm_step) / reference_step
