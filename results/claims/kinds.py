"""The kinds of test: each says in words what it compares, and judges one arm at a time.

The words are made from the same thresholds that judge, so the ledger cannot promise one thing and test another.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from claims import paths, stability
from claims.compared import number
from claims.convergence import LEVEL_AT, share_of_steps
from claims.evidence import Evidence
from claims.verdict import Figure, Promise, Verdict, decide, over_images, over_seeds

HETEROSCEDASTIC = (
    "faithful", "nll", "beta-nll", "student-t", "band", "band-beta", "band-faithful", "band-t-faithful",
    "band-t-faithful+lpips",
)  # fmt: skip
FEWEST_EXCESS = 2
"""Troubled runs more than those of `shared` from which "stable" is refuted; one more is undecided."""


@dataclass(frozen=True)
class Finding:
    """One arm's result in one test; `figure` is None where it was not measured, and `note` says why."""

    arm: str
    versus: str
    figure: Figure | None
    verdict: Verdict
    note: str = ""


class Trial(Protocol):
    """What the ledger needs of a test, whatever its kind."""

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
        """The finding for one arm."""


@dataclass(frozen=True)
class PerImage:
    """A figure of each image, alone or less the same figure of another arm, averaged and held to a threshold.

    Args:
        name: short and unique.
        key: figure, or "a - b" for the difference of two figures of the same image.
        about: the figure in words, with its unit.
        promise: where it must lie.
        versus: the arm to subtract, or None.
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
            figure = over_images(evidence.table(self.key, (arm,))[0])
            return Finding(arm, "", figure, decide(figure, self.promise))
        ours, theirs = evidence.table(self.key, (arm, self.versus))
        figure = over_images(ours - theirs)
        note = "equal for every image and seed" if np.array_equal(ours, theirs, equal_nan=True) else ""
        return Finding(arm, self.versus, figure, decide(figure, self.promise), note)


@dataclass(frozen=True)
class Convergence:
    """Steps to the level that another arm has reached late in its training, as a share of that arm's steps."""

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
        compared = evidence.compared
        shares = compared.gather(
            (arm, self.versus),
            lambda one, seed: (
                1.0 if one == self.versus else share_of_steps(compared, one, self.versus, self.key, self.rising, seed)
            ),
        )
        figure = over_seeds(np.array([share for share, _ in shares.values()]), ratio=True)
        return Finding(arm, self.versus, figure, decide(figure, self.promise))


@dataclass(frozen=True)
class MetricRatio:
    """A figure of whole runs over another of the same run."""

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

        def ratio(one: str, seed: int) -> float:
            metrics = evidence.compared.metrics(one, seed)
            return number(metrics, self.over) / number(metrics, self.under)

        values = [value for (value,) in evidence.compared.gather((arm,), ratio).values()]
        figure = over_seeds(np.array(values), ratio=True)
        return Finding(arm, "", figure, decide(figure, self.promise))


@dataclass(frozen=True)
class Stability:
    """Troubled runs of the grid, counted."""

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
            f"{stability.FALLEN:g} dB below shared of the same rate and seed, or not finite) or spike (the bound rises "
            f"over {stability.SPIKE:g} bit above its running minimum), less those of shared: 0 or fewer confirms, "
            f"{FEWEST_EXCESS} or more refute"
        )

    def judge(self, evidence: Evidence, arm: str) -> Finding:
        """See `Trial`; the ends of the "interval" are the count itself."""
        found = evidence.grid()
        diverged, spiked, either = stability.troubled(found, arm, self.data)
        base = stability.troubled(found, "shared", self.data)
        excess = float(either - base[2])
        verdict: Verdict = "confirmed" if excess <= 0 else "refuted" if excess >= FEWEST_EXCESS else "undecided"
        note = f"{diverged} diverged, {spiked} spiked; shared: {base[0]} and {base[1]}"
        return Finding(arm, "shared", Figure(excess, excess, excess, (), 0), verdict, note)


@dataclass(frozen=True)
class KnobTurns:
    """Turning up the temperature must move a figure one way at every step, for every seed."""

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
        turned = evidence.compared.gather((arm,), partial(self._least, evidence))
        steps = [step for (step,) in turned.values()]
        images = paths.knob_images(evidence.compared)
        figure = Figure(float(np.mean(steps)), min(steps), max(steps), tuple(steps), images)
        return Finding(arm, "", figure, "confirmed" if min(steps) > 0.0 else "refuted")

    def _least(self, evidence: Evidence, arm: str, seed: int) -> float:
        knob = evidence.knob(arm, seed, self.place)
        return paths.least_step(knob.diversity if self.side == "diversity" else -knob.fidelity)
