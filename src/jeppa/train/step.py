"""What training needs from a model and its data, what it changes, and one optimizer step.

`Objective` is the model with its loss and with what is shown of it; `TrainingData` is what it learns from. An objective
is an `nn.Module`, so that accelerate wraps the whole computation and gradients are synchronised when several processes
train together. `TrainState` is all that changes in training and all that a checkpoint has to hold.

A step takes the gradient of a batch's mean loss, clips it and applies it. With `micro_batch` the batch is computed in
parts, to save memory. Noise is drawn once for the whole batch and each part takes its share, so the gradients of the
parts add up to that of the whole but for rounding. Where the loss of a sample depends on means over the batch, an extra
pass without gradients computes those means first, which costs time.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from jeppa.config import OptimConfig, RunConfig
from jeppa.data import ImageSource
from jeppa.runtime import Runtime, choose_runtime, lay_out
from jeppa.train.ranks import ALONE, COUNTED, Part, Ranks, mean_of_batch

Batch = dict[str, Tensor]
"""Tensors whose first dimension is that of the samples, so that a batch can be cut into parts."""
Terms = dict[str, Tensor]
"""Losses and other figures of samples, `[B]` each, or their means over a batch, scalars."""


class TrainingData(ABC):
    """What an objective learns from: a batch for each step.

    Attributes:
        source: the training images.
    """

    source: ImageSource

    @abstractmethod
    def batches(self, start: int, stop: int, ranks: Ranks = ALONE) -> Generator[Batch, None, None]:
        """The batches of steps `start` to `stop - 1`, a pure function of the run's seed.

        Args:
            start: first step, from 0.
            stop: the step after the last one.
            ranks: of each batch only the part of this process is read; by default the whole.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain JSON: `images`, their `fingerprint`, and whatever else beside the settings decides the weights."""

    @abstractmethod
    def images_seen(self, steps: int) -> int:
        """How many images the first `steps` steps take, in all processes."""

    def part(self, step: int, ranks: Ranks) -> Part:
        """The samples of step `step`, from 0, that this process takes."""
        return ranks.part(self.images_seen(step + 1) - self.images_seen(step))

    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the model sees in the first step."""


class Objective(nn.Module):
    """Abstract: a model with its loss; see `train.vae`, `train.diffusion` and `train.texture`.

    Attributes:
        config: all settings of the run.
        data: what is learned from.
        coupled: whether the loss of a sample depends on the other samples of its batch, by the means of terms.
    """

    config: RunConfig
    data: TrainingData
    coupled = False

    @abstractmethod
    def draw(self, batch: Batch, generator: torch.Generator, part: Part | None = None) -> Batch:
        """Make all random choices of a step: those of the whole batch, of which this process takes its part.

        Args:
            batch: what `data.batches` yields.
            generator: the only source of noise; seeded from the run's seed and the step.
            part: what the batch is of that of the step; None for all of it.

        Returns:
            The batch as `forward` needs it.
        """

    @abstractmethod
    def forward(self, batch: Batch, means: Terms | None = None) -> Terms:
        """Losses of a batch, each `[B]`; the mean of `loss` is minimised, the others are logged. Changes no state.

        Args:
            batch: what `draw` gives, or a part of it.
            means: those of the terms over the whole batch, where `batch` is a part and the objective is coupled.
        """

    def advance(self, means: Terms) -> None:
        """Update what the model remembers of its batches, given the means of the terms of the step just taken."""

    @abstractmethod
    def groups(self) -> list[list[nn.Parameter]]:
        """Trainable parameters, in groups whose gradients are clipped apart."""

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
class TrainState:
    """All that training changes, and that a checkpoint holds.

    Args:
        objective: the model; what it remembers of its batches is in its buffers.
        optimizer: AdamW over its groups.
        schedule: of the learning rate.
        ema: the averaged weights.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    ema: EMAModel

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """Within the block the model has its averaged weights and is in evaluation mode."""
        self.ema.store(_trainable(self.objective))
        self.ema.copy_to(_trainable(self.objective))
        self.objective.eval()
        try:
            yield
        finally:
            self.ema.restore(_trainable(self.objective))
            self.objective.train()

    def advance(self) -> None:
        """Move the average towards the present weights."""
        self.ema.step(_trainable(self.objective))


def make_state(objective: Objective) -> TrainState:
    """The state before the first step."""
    optim = objective.config.optim
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in objective.groups()],
        optim.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=optim.steps)
    ema = EMAModel(_trainable(objective), optim.ema_decay, foreach=True)
    return TrainState(objective, optimizer, schedule, ema)


def _trainable(objective: Objective) -> list[nn.Parameter]:
    return [parameter for group in objective.groups() for parameter in group]


@dataclass(frozen=True)
class StepResult:
    """What came of a step.

    Args:
        terms: the objective's, of every sample of this process `[B]`, detached.
        means: theirs over the whole batch.
        norm: of all gradients before clipping; None where loss or gradient was not finite and nothing was changed.
    """

    terms: Terms
    means: Terms
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
        ranks: the processes that train together.
    """

    objective: Objective
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    runtime: Runtime
    ranks: Ranks = ALONE

    def take(self, batch: Batch, generator: torch.Generator, part: Part | None = None) -> StepResult:
        """Train on one of the objective's batches, of which `part` says what it is of the step's.

        State moves once, by the means over the whole batch.
        """
        count = _batch_size(batch)
        part = part or Part(range(count), count)
        drawn = self.objective.draw(batch, generator, part)
        if self.ranks.count > 1:
            drawn[COUNTED] = torch.full((count,), float(part.counts))
        drawn = place(drawn, self.accelerator.device, self.runtime)
        self.optimizer.zero_grad()
        terms = self._add_gradients(split_batch(drawn, self.objective.config.optim, part.whole), part.whole)
        means = _mean_terms(terms, drawn.get(COUNTED))
        clip = self.objective.config.optim.clip_norm
        norms = [float(self.accelerator.clip_grad_norm_(group, clip)) for group in self.objective.groups()]
        norm = float(np.sqrt(np.square(norms).sum()))
        if not np.isfinite(norm) or not bool(means["loss"].isfinite()):
            self.optimizer.zero_grad()
            return StepResult(terms, means, None)
        self.optimizer.step()
        self.objective.advance(means)
        return StepResult(terms, means, norm)

    def _add_gradients(self, batches: list[Batch], whole: int) -> Terms:
        """Add the gradients of the mean loss over the `whole` batch; returns the terms of every own sample.

        Processes that train together average their gradients, so each takes its loss as many times as there are.
        """
        means = self._measure_means(batches) if self._in_parts(batches) and self.objective.coupled else None
        terms_of_parts = []
        for batch in batches:
            with self._synchronised(batch is batches[-1]):
                with autocast(self.accelerator.device, self.runtime):
                    terms = self.wrapped(batch, means)
                loss = terms["loss"] * batch.get(COUNTED, 1.0)
                self.accelerator.backward(loss.sum() * self.ranks.count / whole)
            terms_of_parts.append({key: value.detach() for key, value in terms.items()})
        return _join_terms(terms_of_parts)

    def _in_parts(self, batches: list[Batch]) -> bool:
        """Whether any process has more than one part: all of them must exchange their means at the same place."""
        return len(batches) > 1 or (self.ranks.count > 1 and self.objective.config.optim.micro_batch is not None)

    @torch.no_grad()
    def _measure_means(self, batches: list[Batch]) -> Terms:
        """The means over the whole batch of terms that do not depend on such means."""
        own = [{key: value for key, value in batch.items() if key != COUNTED} for batch in batches]
        with autocast(self.accelerator.device, self.runtime):
            terms = _join_terms([self.objective(batch) for batch in own])
        return _mean_terms(terms, _join_terms(batches).get(COUNTED))

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Several devices exchange gradients once, with those of the last part."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.wrapped):
                yield


MEASURED_SIDE = 256
"""Of larger pictures a corner of this side is measured: at 1024 pixels a start would take minutes."""


def training_runtime(objective: Objective, ranks: Ranks = ALONE) -> Runtime:
    """The runtime in which loss and gradient of what is computed at a time take the least time on this machine.

    On a CUDA device blocks are compiled too: a run is long enough to pay for it.
    """
    optim, cpu = objective.config.optim, torch.device("cpu")
    part = objective.data.part(0, ranks)

    def work(runtime: Runtime) -> None:
        handles = lay_out(objective, runtime)
        corner = cut_corner(next(iter(objective.data.batches(0, 1, ranks))))
        batch = objective.draw(corner, torch.Generator().manual_seed(0), part)
        with autocast(cpu, runtime):
            terms = objective(split_batch(place(batch, cpu, runtime), optim, part.whole)[0])
        terms["loss"].mean().backward()
        objective.zero_grad()
        for handle in handles:
            handle.remove()

    count, sample = len(part.rows), objective.data.batch_shape()[1:]
    shape = (min(count, optim.micro_batch or count), *(min(size, MEASURED_SIDE) for size in sample))
    chosen = choose_runtime(optim.precision, objective, f"training on {shape}", work)
    on_cuda = next(objective.parameters()).device.type == "cuda"
    return replace(chosen, compiled=True) if on_cuda and optim.precision != "exact" else chosen


def cut_corner(batch: Batch) -> Batch:
    """The corner of `MEASURED_SIDE` of all pictures `[B,C,H,W]` in a batch."""
    return {
        key: value[..., :MEASURED_SIDE, :MEASURED_SIDE] if value.ndim == 4 else value for key, value in batch.items()
    }


def split_batch(batch: Batch, optim: OptimConfig, whole: int | None = None) -> list[Batch]:
    """Cut a batch into the parts that are computed at a time, in order; the last may be smaller.

    Args:
        batch: the samples of this process.
        optim: `micro_batch` and `batch_size` of it.
        whole: how many samples the step has in all processes; None for those of `batch`.

    A step with fewer, larger crops has about as many pixels as any other, so a part of it is the same share of the
    step, but at least one crop.
    """
    if optim.micro_batch is None:
        return [batch]
    size = max(1, optim.micro_batch * (whole or _batch_size(batch)) // optim.batch_size)
    cut = {key: value.split(size) for key, value in batch.items()}
    return [dict(zip(cut, part, strict=True)) for part in zip(*cut.values(), strict=True)]


def place(batch: Batch, device: torch.device, runtime: Runtime) -> Batch:
    """Bring a batch to a device, its pictures in the layout of the runtime."""

    def move(value: Tensor) -> Tensor:
        layout = runtime.memory_format if value.ndim == 4 else torch.contiguous_format
        return value.to(device, memory_format=layout)

    return {key: move(value) for key, value in batch.items()}


def autocast(device: torch.device, runtime: Runtime) -> torch.autocast:
    """The runtime's number format."""
    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def _batch_size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _join_terms(parts: list[Terms]) -> Terms:
    return {key: torch.cat([terms[key] for terms in parts]) for key in parts[0]}


def _mean_terms(terms: Terms, counted: Tensor | None) -> Terms:
    """Means of `[B]` over the whole batch; of all terms in one exchange where several processes have parts of it."""
    if counted is None:
        return {key: value.mean() for key, value in terms.items()}
    means = mean_of_batch(torch.stack([value.float() for value in terms.values()], dim=1), counted)
    return dict(zip(terms, means, strict=True))
