"""What an optimizer step needs from a model (losses, parameter groups, pictures), and the step itself.

An objective is an `nn.Module`, so that accelerate wraps the whole computation and gradients are synchronised
when several processes train together.

A step takes the gradient of a batch's mean loss, in parts where memory is short, clipped and applied.
Noise is drawn once for the batch and each part takes its share of it, so the parts' gradients add up to that of the
whole but for rounding. Where samples depend on each other by the batch's means, those are found first in a pass
without gradients, which costs time: parts are for want of memory.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jeppa.config import OptimConfig
from jeppa.runtime import Runtime, choose_runtime, lay_out

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


@dataclass(frozen=True)
class Taken:
    """A step.

    Args:
        terms: the objective's, of every sample `[B]`, detached.
        norm: of all gradients before clipping; None where loss or gradient was not finite and nothing was changed.
    """

    terms: Terms
    norm: float | None


@dataclass(frozen=True)
class Stepper:
    """Takes steps.

    Args:
        objective: what is trained.
        wrapped: the same as accelerate wraps it.
        optimizer: over its groups.
        accelerator: what wrapped both.
        runtime: how the net is laid out.
        optim: `batch_size`, `micro_batch` and `clip_norm` of it.
    """

    objective: Objective
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    runtime: Runtime
    optim: OptimConfig

    def take(self, batch: Batch, generator: torch.Generator) -> Taken:
        """Train on one of the objective's batches; state moves once, by the means over the whole of it."""
        drawn = placed(self.objective.draw(batch, generator), self.accelerator.device, self.runtime)
        self.optimizer.zero_grad()
        terms = self._add_gradients(parts(drawn, self.optim))
        means = _mean_terms(terms)
        norms = [
            float(self.accelerator.clip_grad_norm_(group, self.optim.clip_norm)) for group in self.objective.groups()
        ]
        norm = float(np.sqrt(np.square(norms).sum()))
        if not np.isfinite(norm) or not bool(means["loss"].isfinite()):
            self.optimizer.zero_grad()
            return Taken(terms, None)
        self.optimizer.step()
        self.objective.advance(means)
        return Taken(terms, norm)

    def _add_gradients(self, batches: list[Batch]) -> Terms:
        """Those of the mean loss over all parts together."""
        means = self._survey(batches) if len(batches) > 1 and self.objective.coupled else None
        count = sum(_batch_size(batch) for batch in batches)
        found = []
        for batch in batches:
            with self._synchronised(batch is batches[-1]):
                with autocast(self.accelerator.device, self.runtime):
                    terms = self.wrapped(batch, means)
                self.accelerator.backward(terms["loss"].sum() / count)
            found.append({key: value.detach() for key, value in terms.items()})
        return _joined(found)

    @torch.no_grad()
    def _survey(self, batches: list[Batch]) -> Terms:
        """The means over the whole batch of terms that do not depend on such means."""
        with autocast(self.accelerator.device, self.runtime):
            return _mean_terms(_joined([self.objective(batch) for batch in batches]))

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Several devices exchange gradients once, with those of the last part."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.wrapped):
                yield


def training_runtime(objective: Objective, optim: OptimConfig) -> Runtime:
    """The runtime that takes what is computed at a time forth and back fastest on this machine.

    On a CUDA device blocks are compiled too: a run is long enough to pay for it.
    """
    cpu = torch.device("cpu")

    def work(runtime: Runtime) -> None:
        handles = lay_out(objective, runtime)
        batch = objective.draw(next(iter(objective.batches(0, 1))), torch.Generator().manual_seed(0))
        with autocast(cpu, runtime):
            terms = objective(parts(placed(batch, cpu, runtime), optim)[0])
        terms["loss"].mean().backward()
        objective.zero_grad()
        for handle in handles:
            handle.remove()

    count, *sample = objective.batch_shape()
    shape = (min(count, optim.micro_batch or count), *sample)
    chosen = choose_runtime(optim.precision, objective, f"training on {shape}", work)
    on_cuda = next(objective.parameters()).device.type == "cuda"
    return replace(chosen, compiled=True) if on_cuda and optim.precision != "exact" else chosen


def parts(batch: Batch, optim: OptimConfig) -> list[Batch]:
    """A batch cut into the parts that are computed at a time, in order; the last may be smaller.

    A step with fewer, larger crops has about the pixels of any other, so its parts are the same share of it, of one
    crop at least.
    """
    if optim.micro_batch is None:
        return [batch]
    size = max(1, optim.micro_batch * _batch_size(batch) // optim.batch_size)
    cut = {key: value.split(size) for key, value in batch.items()}
    return [dict(zip(cut, part, strict=True)) for part in zip(*cut.values(), strict=True)]


def placed(batch: Batch, device: torch.device, runtime: Runtime) -> Batch:
    """A batch on a device, pictures in the layout of the runtime."""

    def place(value: Tensor) -> Tensor:
        layout = runtime.memory_format if value.ndim == 4 else torch.contiguous_format
        return value.to(device, memory_format=layout)

    return {key: place(value) for key, value in batch.items()}


def autocast(device: torch.device, runtime: Runtime) -> torch.autocast:
    """The runtime's number format."""
    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def _batch_size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _joined(found: list[Terms]) -> Terms:
    return {key: torch.cat([terms[key] for terms in found]) for key in found[0]}


def _mean_terms(terms: Terms) -> Terms:
    return {key: value.mean() for key, value in terms.items()}
