"""The plan of a comparison: which arms are trained on what and for how long, and how their rates are made equal.

A model can lower its distortion by raising its rate, so arms are compared at one rate: that of the reference arm. An
arm whose encoder is the same as the reference's by construction has that rate already. Every other arm adapts beta
until its latent costs as many bits (`train/kl.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from jeppa.config import DataConfig, Likelihood, OptimConfig, Preset, Settings, VAERun
from jeppa.errors import CheckpointError
from jeppa.vae import LIKELIHOODS

RATE_TOLERANCE = 0.03

# Where the controller of beta starts. For `fixed`: near the squared error that the model reaches, because with that
# beta `fixed` weighs rate against distortion as `shared` does.
FIRST_BETA: dict[Likelihood, float] = {"fixed": 0.02}
SETTLED = 0.2
PERCEPTUAL = "+lpips"
PERCEPTUAL_WEIGHT = 0.5


class ComparisonSettings(Settings):
    """Settings of a comparison, the same for every arm and seed."""

    data: str = Field("builtin:photos", description="Folder, zip file or builtin:photos.")
    arms: tuple[str, ...] = Field(("fixed", "shared", "nll", "beta-nll", "faithful"), min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    steps: int = Field(2000, ge=1)
    preset: Preset = "small"
    resolution: int = Field(64, ge=8, multiple_of=8)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(3e-4, gt=0.0, le=1.0)
    colour_jitter: float = Field(0.0, ge=0.0, le=1.0)
    images: int = Field(96, ge=1)
    evaluate_at: int | None = Field(None, ge=8, multiple_of=8)

    @field_validator("arms", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("each may be given only once")
        return values

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        for arm in arms:
            if arm.removesuffix(PERCEPTUAL) not in LIKELIHOODS:
                known = ", ".join(LIKELIHOODS)
                raise ValueError(f"{arm!r} is none of {known}, each with or without {PERCEPTUAL}")
        return arms

    @property
    def reference(self) -> str:
        """The arm that all others are compared with and whose rate they are trained to reach."""
        return "shared" if "shared" in self.arms else self.arms[0]


@dataclass(frozen=True)
class Run:
    """One arm with one seed, in its folder."""

    arm: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def list_runs(comparison: ComparisonSettings, out: Path) -> list[Run]:
    """List all runs, those of the reference arm first, because the others need their rates."""
    arms = sorted(comparison.arms, key=lambda arm: arm != comparison.reference)
    return [Run(arm, seed, out / "runs" / f"{arm}-{seed}") for arm in arms for seed in comparison.seeds]


def find_likelihood(arm: str) -> Likelihood:
    """Find the likelihood of an arm, whether or not LPIPS is added to its loss."""
    name: Likelihood = arm.removesuffix(PERCEPTUAL)  # type: ignore[assignment]
    return name


def needs_rate(comparison: ComparisonSettings, arm: str) -> bool:
    """Whether beta has to be adapted to reach the rate of the reference arm."""
    same = _encodes_as_shared(comparison.reference) and _encodes_as_shared(arm)
    return arm != comparison.reference and not same


def _encodes_as_shared(arm: str) -> bool:
    """Whether the encoder is that of `shared` by construction; with LPIPS in the loss it is another one."""
    return arm == find_likelihood(arm) and LIKELIHOODS[find_likelihood(arm)].mean_of_shared


def make_run_settings(comparison: ComparisonSettings, run: Run, rate: float | None) -> VAERun:
    """Make the training settings of a run.

    Args:
        comparison: settings of the whole comparison.
        run: the run.
        rate: bits a dimension that beta is adapted to; None leaves beta as it is.
    """
    steps = comparison.steps
    optim = OptimConfig(
        steps=steps,
        batch_size=comparison.batch_size,
        learning_rate=comparison.learning_rate,
        warmup_steps=min(100, steps // 10),
        ema_decay=0.99,
        sample_every=steps,
        save_every=max(1, steps // 4),
        keep=1,
        precision="exact",  # a measured choice could give arms different ones
    )
    data = DataConfig(data=comparison.data, resolution=comparison.resolution, colour_jitter=comparison.colour_jitter)
    likelihood = find_likelihood(run.arm)
    return VAERun(
        seed=run.seed,
        preset=comparison.preset,
        likelihood=likelihood,
        beta=FIRST_BETA.get(likelihood, 1.0),
        rate=rate,
        perceptual=PERCEPTUAL_WEIGHT if run.arm.endswith(PERCEPTUAL) else 0.0,
        data=data,
        optim=optim,
    )


def read_settled_rate(run: Run) -> float:
    """Read the rate of a finished run in bits a dimension: its mean over the last fifth of the log.

    Raises:
        CheckpointError: the run has no log.
    """
    try:
        lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        rates = [float(line["rate_bpd"]) for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run.folder / 'log.jsonl'}: not a readable log ({error}); delete the run") from None
    tail = rates[-max(1, round(SETTLED * len(rates))) :]
    return sum(tail) / len(tail)


def has_head(arm: str) -> bool:
    """Whether the arm predicts a sigma for each pixel, and not one for all."""
    return LIKELIHOODS[find_likelihood(arm)].has_head
