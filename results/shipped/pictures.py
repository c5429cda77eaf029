"""Pictures to compare: real ones, what the VAE makes of them, and samples; all 8-bit, square and of one size."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.data import fit, open_source, to_pixels, to_x
from jeppa.data.sources import Split
from jeppa.errors import DataError
from jeppa.pipeline import Model, SamplerSettings
from jeppa.vae.codec import LatentCodec

BATCH = 50
GOLDEN = (5.0**0.5 - 1.0) / 2.0

Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Pictures:
    """Pictures with the class that they have, or that was asked for.

    Args:
        pixels: uint8 `[N,R,R,3]`.
        labels: `[N]`.
    """

    pixels: NDArray[np.uint8]
    labels: Labels

    def __len__(self) -> int:
        """How many."""
        return len(self.pixels)

    def batches(self) -> Iterator[Tensor]:
        """All of them in order as x, `[B,3,R,R]`."""
        for start in range(0, len(self), BATCH):
            yield torch.stack([to_x(one) for one in self.pixels[start : start + BATCH]])


def real_pictures(data: str, split: Split, side: int) -> Pictures:
    """The centred squares of a split, scaled to `side`.

    Raises:
        DataError: a picture has no label, or there is no picture.
    """
    refs = open_source(data, split).refs
    bare = [ref.name for ref in refs if ref.label is None]
    if bare:
        raise DataError(f"{data}: {bare[0]!r} has no label; put pictures into folders named like their classes")
    return Pictures(np.stack([fit(ref.read_pixels(), side) for ref in refs]), np.array([ref.label for ref in refs]))


def round_trip(codec: LatentCodec, pictures: Pictures) -> Pictures:
    """Pictures through the VAE, by the posterior mean, as saved in 8 bits: the best that its denoiser can draw."""
    return Pictures(_stack([codec.decode(codec.encode(x).mean).mean for x in pictures.batches()]), pictures.labels)


def labels_by_share(labels: Labels, count: int) -> Labels:
    """A class for each of `count` samples, so that the first n of them have nearly the shares of `labels`, for any n.

    Sample i gets the label at the place frac((i + 1/2) * golden ratio) of the sorted labels: a sequence of low
    discrepancy, so a sheet of the first 64 is as fair as the whole.
    """
    places = np.modf((np.arange(count) + 0.5) * GOLDEN)[0]
    return np.sort(labels)[(places * len(labels)).astype(int)]


def draw(model: Model, settings: SamplerSettings, labels: Labels, work: Path) -> Pictures:
    """The samples with seeds 0, 1, ... and these labels; kept in `work`, so that a stopped run goes on."""
    about = f"{weights_hash(model)} {settings.model_dump_json()} {labels.tolist()}"
    file = work / f"samples-{hashlib.sha256(about.encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        pixels = np.empty((len(labels), model.side(), model.side(), 3), np.uint8)
        for label in np.unique(labels):
            seeds = np.flatnonzero(labels == label).tolist()
            for sample in model.generate(seeds, settings.model_copy(update={"label": str(label)})):
                pixels[sample.seed] = to_pixels(sample.x)
        work.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished.npy")
        np.save(unfinished, pixels)
        unfinished.rename(file)
    return Pictures(np.load(file), labels)


def weights_hash(model: Model) -> str:
    """SHA-256 over the weights of denoiser and VAE: samples that are kept belong to these alone."""
    total = hashlib.sha256()
    for net in (model.codec.vae, model.denoiser):
        for name, tensor in [] if net is None else net.state_dict().items():
            total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _stack(batches: Sequence[Tensor]) -> NDArray[np.uint8]:
    return np.stack([to_pixels(one) for batch in batches for one in batch])
