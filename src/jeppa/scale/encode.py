"""`jeppa encode`: a data set as latents, one block of the job a shard.

Within a shard pictures are encoded in batches of `ENCODE_BATCH`, from its first one on. If shards hold a multiple of
that, these are the batches of a training that encodes the pictures itself, and fp32 latents have its bits.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jeppa.data import CropDataset, ImageSource
from jeppa.errors import ConfigError, DataError
from jeppa.files import make_folder, write_text_atomically
from jeppa.pipeline import load_model
from jeppa.scale.engine import Make
from jeppa.scale.latents import (
    ABOUT,
    AboutLatents,
    CropSettings,
    StoredLatent,
    missing_shards,
    read_about,
    shard_path,
    write_shard,
)
from jeppa.train.diffusion import ENCODE_BATCH, weights_hash


@dataclass(frozen=True)
class Crops:
    """Crops of a shard, as `EncodeJob.read` gives them.

    Args:
        x: `[N,3,R,R]`.
        positions: of each, in the run.
        skipped: positions of pictures that could not be read, and why.
    """

    x: Tensor
    positions: list[int]
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeJob:
    """Encode the crops of pictures; block k is shard k.

    Args:
        model: path of the VAE, which every worker loads.
        source: the pictures.
        out: folder to write.
        about: what the folder says of its latents.
    """

    model: Path
    source: ImageSource
    out: Path
    about: AboutLatents

    def missing(self) -> list[int]:
        """Shards that are not written yet."""
        return missing_shards(self.out, self.about)

    def read(self, block: int) -> Crops:
        """Decode and cut; a picture whose damage shows only now is left out."""
        crops: list[Tensor] = []
        positions: list[int] = []
        skipped: dict[int, str] = {}
        for position in self.about.positions(block):
            try:
                crops.append(self._crops[position]["x"])
                positions.append(position)
            except DataError as error:
                skipped[position] = str(error)
        side = self.about.settings.resolution
        return Crops(torch.stack(crops) if crops else torch.empty(0, 3, side, side), positions, skipped)

    def open(self) -> Make:
        """Load the VAE, in float32, on the GPU if there is one."""
        codec = load_model(self.model, device="cuda" if torch.cuda.is_available() else "cpu").codec
        device = next(codec.vae.parameters()).device

        def make(block: int, crops: Crops) -> tuple[list[StoredLatent], dict[int, str]]:
            latents = []
            for start in range(0, len(crops.positions), ENCODE_BATCH):
                posterior = codec.encode(crops.x[start : start + ENCODE_BATCH].to(device))
                rows = zip(
                    crops.positions[start : start + ENCODE_BATCH], posterior.mean.cpu(), posterior.logvar.cpu(),
                    strict=True,
                )  # fmt: skip
                latents += [
                    StoredLatent(position, mean, logvar, *self._named(position)) for position, mean, logvar in rows
                ]
            return latents, crops.skipped

        return make

    def write(self, block: int, made: Any) -> None:
        """Write the shard."""
        write_shard(self.out, block, self.about, *made)

    @cached_property
    def _crops(self) -> CropDataset:
        settings = self.about.settings
        return CropDataset(
            self.source, settings.resolution, settings.seed, settings.min_view, settings.flip, settings.colour_jitter
        )

    def _named(self, position: int) -> tuple[str, str | None]:
        ref = self.source.refs[self._crops.picture(position)]
        return ref.name, ref.label


def plan_encoding(model: Path, source: ImageSource, out: Path, settings: CropSettings) -> EncodeJob:
    """Prepare a folder for latents, or go on with one.

    Raises:
        ConfigError: it holds latents of another VAE, of other pictures, or with other settings.
    """
    codec = load_model(model).codec
    about = AboutLatents(
        vae=weights_hash(codec), statistics=codec.stats, fingerprint=source.fingerprint, pictures=len(source),
        labels=source.labels, settings=settings,
    )  # fmt: skip
    if (out / ABOUT).exists():
        _compare_latents(out, read_about(out), about)
    elif shard_path(out, 0).exists():
        raise ConfigError(f"{out}: holds shards, but no {ABOUT} that says of what; use another --out")
    else:
        make_folder(out)
        write_text_atomically(out / ABOUT, about.model_dump_json(indent=1) + "\n")
    return EncodeJob(model, source, out, about)


def _compare_latents(out: Path, there: AboutLatents, wanted: AboutLatents) -> None:
    before, now = ({**one.model_dump(exclude={"settings"}), **one.settings.model_dump()} for one in (there, wanted))
    changes = [f"{key} was {_brief(before[key])} and is {_brief(now[key])}" for key in now if before[key] != now[key]]
    if changes:
        raise ConfigError(f"{out}: holds other latents: {'; '.join(changes)}; use another --out")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
