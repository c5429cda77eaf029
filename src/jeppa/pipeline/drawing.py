"""Samples as they form, for whoever watches: estimates with sigma maps, a stop that keeps what is there, a grid.

A preview costs several decodings, and of a small denoiser more than the step that it shows. `share` bounds what all
previews together may add to the time of the steps.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jeppa.config import SamplerSettings, parse
from jeppa.data.decode import Pixels
from jeppa.data.images import Levels, sigma_levels, to_pixels
from jeppa.diffusion import SamplerStep
from jeppa.errors import ConfigError
from jeppa.pipeline.model import Model, Sample, Uncertainty, batch_size_for, preview

Axis = Literal["steps", "eta", "temperature", "guidance"]
"""What a grid varies beside the seed."""


@dataclass(frozen=True)
class Moment:
    """What can be seen after a step.

    Args:
        step: steps taken so far, of all batches.
        total: steps in all.
        seeds: of the pictures that form.
        estimates: their x0, decoded; empty where no preview was due.
        sigmas: the sigma map of each in 8-bit levels; empty without a preview, or without a learned variance.
        samples: finished pictures, of all batches so far.
        stopped: whether the last batch of `samples` is an estimate, because a stop was asked for.
    """

    step: int
    total: int
    seeds: Sequence[int]
    estimates: list[Pixels]
    sigmas: list[Levels]
    samples: list[Sample]
    stopped: bool = False


def draw_live(
    model: Model,
    seeds: Sequence[int],
    settings: SamplerSettings,
    share: float | None = 0.15,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Moment]:
    """`Model.generate`, step by step; the pictures are the same.

    Args:
        model: with a denoiser.
        seeds: ascending; at least one.
        settings: as for `Model.sample`, checked at the call.
        share: of the time of the steps, that previews may add; 0 for none, None for one at every step.
        stop: asked after every step; the estimate of that step is then the result.

    Raises:
        CheckpointError: as for `Model.sample`.
        ConfigError: as for `Model.sample`.
    """
    model.sample([seeds[0], seeds[-1]], settings)  # for its checks alone: no step is asked for
    return _draw_live(model, seeds, settings, _Budget(share), stop)


def draw_grid(
    model: Model, seeds: Sequence[int], axis: Axis, values: Sequence[float], settings: SamplerSettings
) -> Iterator[tuple[float, list[Sample]]]:
    """A row of pictures, one for each seed, for each value of a setting; each is that of `Model.generate`.

    Raises:
        CheckpointError: as for `Model.sample`.
        ConfigError: as for `Model.sample`, for any of the values, or an unknown axis; before the first row.
    """
    if axis not in get_args(Axis):
        raise ConfigError(f"axis is {axis!r}, but must be one of {', '.join(get_args(Axis))}")
    if not values:
        raise ConfigError("values: at least one is needed")
    varied = [parse(SamplerSettings, {**settings.model_dump(), axis: _typed(axis, value)}, axis) for value in values]
    for one in varied:
        model.sample([seeds[0]], one)
    rows = (list(model.generate(seeds, one)) for one in varied)
    return zip(values, rows, strict=True)


def _typed(axis: Axis, value: float) -> Any:
    return int(value) if axis == "steps" and value == int(value) else value


def _draw_live(
    model: Model, seeds: Sequence[int], settings: SamplerSettings, budget: "_Budget", stop: Callable[[], bool]
) -> Iterator[Moment]:
    count = batch_size_for(model.side(settings.resolution))
    total = settings.steps * -(-len(seeds) // count)
    taken, finished = 0, list[Sample]()
    for start in range(0, len(seeds), count):
        batch = seeds[start : start + count]
        running = Uncertainty()
        steps = model.sample(batch, settings)
        while (step := budget.step(steps)) is not None:
            taken += 1
            if step.x0_variance is not None:
                running.add(step)
            last = step
            if stop():
                partial = _samples(model, batch, last.x0, running)
                yield Moment(taken, total, batch, [], [], finished + partial, stopped=True)
                return
            estimates, sigmas = budget.preview(model, step)
            yield Moment(taken, total, batch, estimates, sigmas, list(finished))
        finished += _samples(model, batch, last.zt, running)
    yield Moment(total, total, seeds, [], [], finished)


def _samples(model: Model, seeds: Sequence[int], z0: Any, running: Uncertainty) -> list[Sample]:
    scores = running.score().tolist() or [None] * len(seeds)
    pictures = model.codec.decode(z0).mean
    return [Sample(seed, x, score) for seed, x, score in zip(seeds, pictures, scores, strict=True)]


class _Budget:
    """Takes the time of steps and previews, and leaves a preview out that would take too much."""

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._steps = self._previews = self._last = 0.0

    def step(self, steps: Iterator[SamplerStep]) -> SamplerStep | None:
        began = time.perf_counter()
        step = next(steps, None)
        self._steps += time.perf_counter() - began
        return step

    def preview(self, model: Model, step: SamplerStep) -> tuple[list[Pixels], list[Levels]]:
        if self._share is not None and self._previews + self._last > self._share * self._steps:
            return [], []
        began = time.perf_counter()
        seen = preview(model.codec, step)
        estimates = [to_pixels(x) for x in seen.estimate]
        sigmas = [] if seen.sigma is None else [sigma_levels(2.0 * sigma.log()) for sigma in seen.sigma]
        self._last = time.perf_counter() - began
        self._previews += self._last
        return estimates, sigmas
