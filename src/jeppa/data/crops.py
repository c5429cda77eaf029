"""Training crops at several scales, and evaluation images, from a source.

A training sample is a pure function of (source, seed, position). No state passes from one sample to the next, so any
number of workers gives the same samples, and training resumes at any position.

Two options change the crops. `colour_jitter` changes their colours at random, so that a model trained on few pictures
does not learn their colours by heart. `patterns` replaces a share of them by drawings: plain colours and gradients,
which a VAE must reproduce exactly, stripes, nets and strokes. Photographs hold too few of these to learn from.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jeppa.config import DataConfig
from jeppa.data.images import fit_square, to_x
from jeppa.data.sources import ImageSource
from jeppa.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

LEAST_PERIOD, LARGEST_PERIOD = 2.0, 64.0
"""Width of a light and a dark stripe together, in pixels."""
STROKES = 12
OVERSAMPLING = 3
"""A pixel of a drawing of strokes is the mean of this many points squared."""

MAX_SATURATION = 1.4
MAX_SHIFT = 0.6


def jitter_colours(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change saturation, contrast and brightness at random, and in half of the calls the order of the channels.

    Args:
        x: `[3,H,W]` in [-1,1].
        strength: 0 to 1. At 1 saturation is scaled by 0 to 1.4 and contrast by 1/e to e, and brightness is shifted
            by up to 0.6; channels are exchanged in 50 % of the pictures at any strength above 0.
        rng: source of all random numbers; advanced by the same number of draws in every call.

    Returns:
        The same shape, clamped to [-1,1].
    """
    order, exchanged = rng.permutation(3), rng.random() < 0.5
    saturation = 1.0 + strength * (rng.uniform(0.0, MAX_SATURATION) - 1.0)
    contrast = math.exp(strength * rng.uniform(-1.0, 1.0))
    shift = strength * rng.uniform(-MAX_SHIFT, MAX_SHIFT)
    if exchanged:
        x = x[torch.from_numpy(order)]
    grey = x.mean(0, keepdim=True)
    x = grey + saturation * (x - grey)
    middle = x.mean()
    return (middle + contrast * (x - middle) + shift).clamp(-1.0, 1.0)


REDUCING_GAP = 2.0
"""Shrink by box averaging to this multiple of the final size before Lanczos: several times faster."""
_BYTES_PER_PIXEL = 4  # Pillow stores RGB in 32 bits


class CropSample(TypedDict):
    """One training sample: x float32 `[3,R,R]`, class index or -1, position in the run."""

    x: Tensor
    label: int
    position: int


@dataclass(frozen=True)
class View:
    """A square box of an image in its own pixels, and whether it is mirrored."""

    left: int
    top: int
    side: int
    flip: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def draw_view(width: int, height: int, resolution: int, min_view: float, rng: np.random.Generator) -> View:
    """Draw a view: log-uniform side, uniform place, mirrored half of the time.

    Args:
        width, height: the image, in pixels.
        resolution: smallest side, so that nothing is enlarged unless the image itself is smaller.
        min_view: smallest side as a fraction (0 to 1) of the short side of the image.
        rng: all the randomness.
    """
    longest = min(width, height)
    shortest = min(longest, max(resolution, math.ceil(min_view * longest)))
    side = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
    side = min(max(side, shortest), longest)
    left = int(rng.integers(0, width - side + 1))
    top = int(rng.integers(0, height - side + 1))
    return View(left, top, side, flip=bool(rng.random() < 0.5))


class DecodedImages:
    """Decoded images of a source, by index; the first ones are kept in memory until a budget is used up.

    A kept image is never dropped for another. An epoch visits every image once, so the least recently used image, which
    a cache would drop first, is the one that is needed next.

    Args:
        source: the images.
        budget: bytes of memory that one process may keep.
    """

    def __init__(self, source: ImageSource, budget: int) -> None:
        self._source = source
        self._budget = budget
        self._kept: dict[int, Image.Image] = {}

    def __getitem__(self, index: int) -> Image.Image:
        """The image at `index`.

        Raises:
            DataError: if its damage shows only now; names the file.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = Image.fromarray(self._source.refs[index].read_pixels())
        size = image.width * image.height * _BYTES_PER_PIXEL
        if size <= self._budget:
            self._budget -= size
            self._kept[index] = image
        return image

    def __getstate__(self) -> dict[str, Any]:
        """The state without the kept images: a worker that `spawn` starts decodes them itself."""
        budget = self._budget + sum(i.width * i.height * _BYTES_PER_PIXEL for i in self._kept.values())
        return {"_source": self._source, "_budget": budget, "_kept": {}}


class CropDataset(Dataset[CropSample]):
    """Random square crops, addressed by the position n = 0, 1, 2, ... in the whole run.

    Epoch n // len(source) visits each image once, in an order drawn from (seed, epoch); the view is drawn
    from (seed, epoch, n % len(source)).

    Args:
        source: the images.
        resolution: side R of the crops in pixels, a positive multiple of 8.
        seed: not negative.
        min_view: smallest view as a fraction of the short side; 0 allows native pixels.
        flip: whether to mirror half of the crops.
        colour_jitter: strength of a random change of colours, 0 (none) to 1, see `jitter_colours`.
        patterns: share of crops, 0 to 1, that are drawn instead of cut, see `draw_pattern`.
        decoded: decoded images, which several data sets may share; None keeps no image in memory.

    Raises:
        ConfigError: if an argument is out of range.
    """

    def __init__(
        self,
        source: ImageSource,
        resolution: int,
        seed: int,
        min_view: float = 0.0,
        flip: bool = True,
        colour_jitter: float = 0.0,
        patterns: float = 0.0,
        decoded: DecodedImages | None = None,
    ) -> None:
        check_resolution(resolution)
        if seed < 0:
            raise ConfigError(f"seed is {seed}, but must not be negative; use 0 or more")
        if not 0.0 <= min_view <= 1.0:
            raise ConfigError(f"min_view is {min_view}, but must be a fraction from 0 to 1")
        self.source = source
        self.resolution = resolution
        self.seed = seed
        self.min_view = min_view
        self.flip = flip
        self.colour_jitter = colour_jitter
        self.patterns = patterns
        self._label_index = {label: index for index, label in enumerate(source.labels)}
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None
        self._decoded = decoded or DecodedImages(source, 0)

    def __len__(self) -> int:
        """Positions in one epoch; `__getitem__` takes positions beyond it."""
        return len(self.source)

    def __getitem__(self, n: int) -> CropSample:
        """The sample at position `n`.

        Raises:
            IndexError: if `n` is negative.
            DataError: if its damage shows only now; names the file.
        """
        if n < 0:
            raise IndexError(f"position {n} is negative")
        epoch, index = divmod(n, len(self.source))
        which = self.picture(n)
        image = self._decoded[which]
        rng = np.random.default_rng([self.seed, epoch, index])
        view = draw_view(image.width, image.height, self.resolution, self.min_view, rng)
        crop = np.asarray(_render(image, view, self.resolution))
        if self.flip and view.flip:
            crop = crop[:, ::-1]
        label = self.source.refs[which].label
        x = to_x(crop)
        if self.patterns > 0.0 and rng.random() < self.patterns:
            x = draw_pattern(self.resolution, rng)
        elif self.colour_jitter > 0.0:
            x = jitter_colours(x, self.colour_jitter, rng)
        return {"x": x, "label": -1 if label is None else self._label_index[label], "position": n}

    def picture(self, n: int) -> int:
        """Index of the picture that position `n` shows."""
        epoch, index = divmod(n, len(self.source))
        return int(self._permutation(epoch)[index])

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            # len(source) differs from every index, so this stream is none of the streams of the views.
            rng = np.random.default_rng([self.seed, epoch, len(self.source)])
            self._order = epoch, shuffle_shards([ref.shard for ref in self.source.refs], rng)
        return self._order[1]


SHUFFLE_BUFFER = 4096
"""Pictures of which the next one is drawn, where they lie in several shards."""


def shuffle_shards(shards: list[int], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """An order of pictures in which those of a shard stay together, so that shards can be read one after the other.

    The shards are shuffled, and the pictures pass through a buffer from which each next one is drawn. Pictures that lie
    in one shard or none have a random order.

    Args:
        shards: number of the shard of each picture.
        rng: all the randomness.
    """
    numbers = sorted(set(shards))
    if len(numbers) < 2:
        return rng.permutation(len(shards))
    members: dict[int, list[int]] = {number: [] for number in numbers}
    for index, number in enumerate(shards):
        members[number].append(index)
    waiting = [index for place in rng.permutation(len(numbers)) for index in members[numbers[place]]]
    draws = rng.random(len(waiting))
    buffer, order = waiting[:SHUFFLE_BUFFER], []
    for draw, following in zip(draws, [*waiting[SHUFFLE_BUFFER:], *[-1] * len(buffer)], strict=True):
        chosen = int(draw * len(buffer))
        order.append(buffer[chosen])
        buffer[chosen] = buffer[-1] if following < 0 else following
        if following < 0:
            buffer.pop()
    return np.array(order, np.int64)


def make_image_cache(source: ImageSource, config: DataConfig) -> DecodedImages:
    """Decoded images of `source`, kept within the share of `config.cache_megabytes` that one worker has."""
    return DecodedImages(source, config.cache_megabytes * 2**20 // max(1, config.workers))


def evaluation_images(source: ImageSource, resolution: int | None) -> Iterator[tuple[str, Tensor]]:
    """Each image of a source in order as (name, x): the centred square at `resolution`, or all of it if None.

    Raises:
        ConfigError: if `resolution` is no positive multiple of 8.
        DataError: if the damage of an image shows only now.
    """
    if resolution is not None:
        check_resolution(resolution)
    for ref in source.refs:
        pixels = ref.read_pixels()
        yield ref.name, to_x(pixels if resolution is None else fit_square(pixels, resolution))


def check_resolution(resolution: int) -> None:
    """Raise `ConfigError`, naming the nearest valid values, unless this is a positive multiple of 8."""
    if resolution > 0 and resolution % 8 == 0:
        return
    below = max(8, resolution // 8 * 8)
    nearest = "8" if resolution < 8 else f"{below} or {below + 8}"
    raise ConfigError(f"resolution is {resolution}, but must be a positive multiple of 8; use {nearest}")


def draw_pattern(side: int, rng: np.random.Generator) -> Tensor:
    """One drawn picture, `[3,side,side]` in [-1,1].

    Args:
        side: in pixels.
        rng: all the randomness.
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    low, high = (rng.uniform(-1.0, 1.0, 3) for _ in range(2))
    if rng.random() < 0.5:
        low, high = np.full(3, low[0]), np.full(3, high[0])
    share = torch.from_numpy(kind(side, rng)).float()
    first, second = (torch.from_numpy(colour).float()[:, None, None] for colour in (low, high))
    return first + (second - first) * share


def _draw_plain(side: int, rng: np.random.Generator) -> FloatArray:
    return np.zeros((side, side))


def _draw_gradient(side: int, rng: np.random.Generator) -> FloatArray:
    across = _project(side, rng)
    share: FloatArray = (across - across.min()) / np.ptp(across)
    return share


def _draw_stripes(side: int, rng: np.random.Generator) -> FloatArray:
    """Smooth or sharp stripes; half of the drawings have horizontal or vertical ones, the others any direction."""
    period = math.exp(rng.uniform(math.log(LEAST_PERIOD), math.log(LARGEST_PERIOD)))
    wave = np.sin(2.0 * math.pi * (_project(side, rng) / period + rng.uniform()))
    sharpness = rng.uniform(1.0, 8.0)
    share: FloatArray = 0.5 + 0.5 * np.clip(sharpness * wave, -1.0, 1.0)
    return share


def _draw_net(side: int, rng: np.random.Generator) -> FloatArray:
    """Wires in two directions on a plain background."""
    share: FloatArray = np.maximum(_draw_stripes(side, rng) ** 4, _draw_stripes(side, rng) ** 4)
    return share


def _draw_strokes(side: int, rng: np.random.Generator) -> FloatArray:
    """Straight strokes of one width with smooth edges, like parts of letters."""
    fine = side * OVERSAMPLING
    down, across = np.mgrid[:fine, :fine] / OVERSAMPLING
    width = math.exp(rng.uniform(0.0, math.log(8.0)))
    drawn = np.zeros((fine, fine), dtype=bool)
    for _ in range(STROKES):
        (top, left), length = rng.uniform(0.0, side, 2), rng.uniform(width, max(width, side / 3.0))
        turn = rng.integers(4) * math.pi / 4.0 if rng.random() < 0.7 else rng.uniform(0.0, math.pi)
        along = (down - top) * math.sin(turn) + (across - left) * math.cos(turn)
        beside = (across - left) * math.sin(turn) - (down - top) * math.cos(turn)
        drawn |= (np.abs(along) < length / 2.0) & (np.abs(beside) < width / 2.0)
    share: FloatArray = drawn.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))
    return share


def _project(side: int, rng: np.random.Generator) -> FloatArray:
    """The position of each pixel along a random direction, in pixels, `[side,side]`."""
    turn = rng.integers(2) * math.pi / 2.0 if rng.random() < 0.5 else rng.uniform(0.0, math.pi)
    down, across = np.mgrid[:side, :side]
    distance: FloatArray = down * math.sin(turn) + across * math.cos(turn)
    return distance


def _render(image: Image.Image, view: View, resolution: int) -> Image.Image:
    size = (resolution, resolution)
    return image.resize(size, Image.Resampling.LANCZOS, box=view.box, reducing_gap=REDUCING_GAP)


KINDS: tuple[Callable[[int, np.random.Generator], FloatArray], ...] = (
    _draw_plain,
    _draw_gradient,
    _draw_stripes,
    _draw_net,
    _draw_strokes,
)
