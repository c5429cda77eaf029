"""How unsure the denoiser was of a sample: one number for each, for ranking and rejection.

Of five candidates the mean variance found bad samples best, ahead of means of its logarithm over all steps or the
first, middle or last third of them (`results/sampler.md`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from jeppa.diffusion import SamplerStep
from jeppa.errors import CheckpointError


def step_uncertainty(x0_variance: Tensor) -> Tensor:
    """What one step adds to the score, `[B]`: the mean of Var[x0|zt], `[B,C,h,w]`, over its elements."""
    return x0_variance.double().flatten(1).mean(1)


class Uncertainty:
    """The running score of a batch, fed step by step: the mean over the steps of `step_uncertainty`."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._steps = 0

    def add(self, step: SamplerStep) -> None:
        """Count one step in.

        Raises:
            CheckpointError: the denoiser predicts no variance.
        """
        if step.x0_variance is None:
            raise CheckpointError("the denoiser predicts no variance, so its samples have no score: train a head")
        found = step_uncertainty(step.x0_variance)
        self._total = found if self._total is None else self._total + found
        self._steps += 1

    def score(self) -> Tensor:
        """The score so far, float64 `[B]`; higher is less certain."""
        return torch.empty(0, dtype=torch.float64) if self._total is None else self._total / self._steps


def uncertainty(steps: Iterable[SamplerStep]) -> Tensor:
    """Score of samples from all steps that made them, float64 `[B]`; higher is less certain."""
    running = Uncertainty()
    for step in steps:
        running.add(step)
    return running.score()
