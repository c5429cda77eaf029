"""What a training loop needs from a model: its losses, its parameter groups, its pictures.

An objective is an `nn.Module`, so that accelerate wraps the whole computation and gradients are synchronised
when several processes train together.
"""

from abc import abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Tensors whose first dimension is that of the samples, so that a batch can be cut into parts."""
Terms = dict[str, Tensor]
"""Losses and other figures of samples, `[B]` each, or their means over a batch, scalars."""


class Objective(nn.Module):
    """Abstract: a model with its loss; see `train.vae` and `train.diffusion`.

    Attributes:
        coupled: whether the loss of a sample depends on the other samples of its batch, by the means of terms.
    """

    coupled = False

    @abstractmethod
    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A batch with all random choices of a step, as `forward` needs it.

        Args:
            batch: what `batches` yields.
            generator: the only source of noise; seeded from the run's seed and the step.
        """

    @abstractmethod
    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        """Losses of a batch, each `[B]`; the mean of `loss` is minimised, the others are logged. Changes no state.

        Args:
            batch: what `draw` gives, or a part of it.
            means: those of the terms over the whole batch, where `batch` is a part and the objective is coupled.
        """

    def advance(self, means: Terms) -> None:
        """Move what the model remembers of its batches on by one step, given the means of the step's terms."""

    @abstractmethod
    def groups(self) -> list[list[nn.Parameter]]:
        """Trainable parameters, in groups whose gradients are clipped apart."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps `start` to `stop - 1`, a pure function of the run's seed."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What is learned from, as plain JSON: `images`, their `fingerprint`, and whatever else weights depend on."""

    @abstractmethod
    def images_seen(self, steps: int) -> int:
        """How many images the first `steps` steps take."""

    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the model sees in the first step."""

    @abstractmethod
    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Figures for the log from the mean of each loss term since the last line."""

    @abstractmethod
    def draw_samples(self, path: Path) -> None:
        """Write a sheet that shows what the model, as it is now, can do."""

    @abstractmethod
    def publish(self, run: Path) -> dict[str, Any]:
        """Measure and export what belongs to a finished model; returns plain JSON for the checkpoint's state."""
