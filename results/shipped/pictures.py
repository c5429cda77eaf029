"""Pictures to compare: real ones, what the VAE makes of them, and samples; all 8-bit, square and of one size."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jeppa.data import fit_square, open_source, to_pixels, to_x
from jeppa.data.splits import Split
from jeppa.errors import DataError
from jeppa.pipeline import Model, SamplerSettings
from jeppa.vae.codec import LatentCodec

BATCH = 50
GOLDEN = (5.0**0.5 - 1.0) / 2.0

Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Pictures:
    """Pictures with their classes: those that they have, or that were asked for.

    Args:
        pixels: uint8 `[N,R,R,3]`.
        labels: `[N]`.
    """

    pixels: NDArray[np.uint8]
    labels: Labels

    def __len__(self) -> int:
        """Their number."""
        return len(self.pixels)

    def batches(self) -> Iterator[Tensor]:
        """All pictures in order, as x `[B,3,R,R]`."""
        for start in range(0, len(self), BATCH):
            yield torch.stack([to_x(pixels) for pixels in self.pixels[start : start + BATCH]])


def read_pictures(data: str, split: Split, side: int) -> Pictures:
    """The centred squares of a split, scaled to `side`.

    Raises:
        DataError: a picture has no label, or there is no picture.
    """
    refs = open_source(data, split).refs
    unlabelled = [ref.name for ref in refs if ref.label is None]
    if unlabelled:
        raise DataError(f"{data}: {unlabelled[0]!r} has no label; put pictures into folders named like their classes")
    return Pictures(
        np.stack([fit_square(ref.read_pixels(), side) for ref in refs]), np.array([ref.label for ref in refs])
    )


def reconstruct_pictures(codec: LatentCodec, pictures: Pictures) -> Pictures:
    """Reconstructions from the posterior mean, in 8 bits: the best that a denoiser of these latents can draw."""
    return Pictures(
        stack_pixels([codec.decode(codec.encode(x).mean).mean for x in pictures.batches()]), pictures.labels
    )


def spread_labels(labels: Labels, count: int) -> Labels:
    """A class for each of `count` samples: for any n, the first n of them have nearly the same shares as `labels`.

    Sample i gets the label at the place frac((i + 1/2) * golden ratio) of the sorted labels. This sequence has a low
    discrepancy, so a sheet of the first 64 is as fair as all samples.
    """
    places = np.modf((np.arange(count) + 0.5) * GOLDEN)[0]
    spread: Labels = np.sort(labels)[(places * len(labels)).astype(int)]
    return spread


def draw_samples(model: Model, settings: SamplerSettings, labels: Labels, work: Path) -> Pictures:
    """The samples with seeds 0, 1, ... and these labels; they are kept in `work`, so that a study can resume."""
    identity = f"{hash_weights(model)} {settings.model_dump_json()} {labels.tolist()}"
    file = work / f"samples-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
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


def hash_weights(model: Model) -> str:
    """SHA-256 of the weights of denoiser and VAE; samples that are kept belong to these weights alone."""
    digest = hashlib.sha256()
    for net in (model.codec.vae, model.denoiser):
        for name, tensor in [] if net is None else net.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def stack_pixels(batches: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Batches of x `[B,3,R,R]` as pixels `[N,R,R,3]`."""
    return np.stack([to_pixels(x) for batch in batches for x in batch])
