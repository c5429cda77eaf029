"""Samples as they form, for whoever watches: estimates with sigma maps, a stop that keeps what is there, a grid.

A preview costs several decodings, and of a small denoiser far more than the step that it shows. So a bounded preview
goes through the affine map of `jeppa.pipeline.rough` instead, and `share` bounds what all previews together may add to
the time of the steps, with what the caller does to show them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from torch import Tensor

from jeppa.config import SamplerSettings, parse
from jeppa.data.decode import Pixels
from jeppa.data.images import Levels, sigma_levels, to_pixels
from jeppa.diffusion import SamplerStep
from jeppa.errors import ConfigError
from jeppa.pipeline.model import Model, Sample, Uncertainty, batch_size_for, preview
from jeppa.pipeline.rough import RoughDecoder, fit_rough_decoder
from jeppa.vae.codec import LatentCodec

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
        sigmas: the sigma map of each in 8-bit levels, `[H,W]` or, of a bounded preview, a value for each cell,
            `[H/8,W/8]`; empty without a preview, or without a learned variance.
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
    texture: float = 0.0,
) -> Iterator[Moment]:
    """`Model.generate`, step by step; the pictures are the same.

    Args:
        model: with a denoiser.
        seeds: ascending; at least one.
        settings: as for `Model.sample`, checked at the call.
        share: of the time of the steps, that previews and the caller may add; 0 for none. None for a full decoding at
            every step, however long it takes.
        stop: asked after every step; the estimate of that step is then the result.
        texture: as for `Model.generate`.

    Raises:
        CheckpointError: as for `Model.sample`.
        ConfigError: as for `Model.generate`.
    """
    model.sample([seeds[0], seeds[-1]], settings)  # for its checks alone: no step is asked for
    model.check_texture(texture)
    return _draw_live(model, seeds, settings, _Budget(model, share), stop, texture)


def draw_grid(
    model: Model,
    seeds: Sequence[int],
    axis: Axis,
    values: Sequence[float],
    settings: SamplerSettings,
    texture: float = 0.0,
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
    model.check_texture(texture)
    rows = (list(model.generate(seeds, one, texture=texture)) for one in varied)
    return zip(values, rows, strict=True)


def _typed(axis: Axis, value: float) -> Any:
    return int(value) if axis == "steps" and value == int(value) else value


def _draw_live(
    model: Model,
    seeds: Sequence[int],
    settings: SamplerSettings,
    budget: "_Budget",
    stop: Callable[[], bool],
    texture: float,
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
                partial = _samples(model, batch, last.x0, running, texture)
                yield Moment(taken, total, batch, [], [], finished + partial, stopped=True)
                return
            estimates, sigmas = budget.preview(step)
            yield Moment(taken, total, batch, estimates, sigmas, list(finished))
        finished += _samples(model, batch, last.zt, running, texture)
    yield Moment(total, total, seeds, [], [], finished)


def _samples(model: Model, seeds: Sequence[int], z0: Any, running: Uncertainty, texture: float) -> list[Sample]:
    scores = running.score().tolist() or [None] * len(seeds)
    pictures = model.decode(z0, texture, seeds)
    return [Sample(seed, x, score) for seed, x, score in zip(seeds, pictures, scores, strict=True)]


class _Budget:
    """Takes the time of steps, and of all that is done after one for a preview; leaves out what is too dear."""

    def __init__(self, model: Model, share: float | None) -> None:
        self._codec = model.codec
        self._share = share
        self._rough = rough_decoder(model.codec) if share else None
        self._steps = self._previews = self._last = 0.0
        self._began: float | None = None

    def step(self, steps: Iterator[SamplerStep]) -> SamplerStep | None:
        began = time.perf_counter()
        if self._began is not None:
            self._last = began - self._began
            self._previews += self._last
            self._began = None
        step = next(steps, None)
        self._steps += time.perf_counter() - began
        return step

    def preview(self, step: SamplerStep) -> tuple[list[Pixels], list[Levels]]:
        if self._share is not None and self._previews + self._last > self._share * self._steps:
            return [], []
        self._began = time.perf_counter()
        if self._share is None:
            seen = preview(self._codec, step)
            return [to_pixels(x) for x in seen.estimate], _maps(seen.sigma)
        if self._rough is None:
            return [], []
        sigma = None if step.x0_variance is None else self._rough.sigma(step.x0, step.x0_variance)
        return [to_pixels(x) for x in self._rough.mean(step.x0)], _maps(sigma)


def _maps(sigmas: Tensor | None) -> list[Levels]:
    return [] if sigmas is None else [sigma_levels(2.0 * sigma.log()) for sigma in sigmas]


_ROUGH: WeakKeyDictionary[LatentCodec, RoughDecoder] = WeakKeyDictionary()


def rough_decoder(codec: LatentCodec) -> RoughDecoder:
    """The affine decoder of a VAE, fitted when it is first asked for."""
    if codec not in _ROUGH:
        _ROUGH[codec] = fit_rough_decoder(codec)
    return _ROUGH[codec]
