"""A data set as latents in a folder: webdataset shards, and training from them.

`latents.json` says what they are: the hash of the VAE, its statistics, the pictures and how they were cut. Shard k is
`shard-00000k.tar` and holds the latents k * per_shard and on. Each latent is a safetensors file named after its
position, with `mean` and `logvar` of the standardised latent, `[C,h,w]`; its metadata has the name of the picture and
the label. `__about__/shard.json` in each shard repeats what `latents.json` says, with the ids and what was skipped;
webdataset's readers pass over it.

A shard of an uncompressed tar is read at any place, so latents are never kept in memory; the system caches them.
"""

import json
import tarfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from jeppa.config import MAX_COUNT, MAX_SIDE, DiffusionRun, Settings, parse
from jeppa.data import ImageSource
from jeppa.errors import CheckpointError, ConfigError, DataError
from jeppa.files import flush, parse_json, read_json, written_atomically
from jeppa.train.diffusion import weights_hash
from jeppa.train.ranks import ALONE, Ranks
from jeppa.train.step import Batch, TrainingData
from jeppa.vae.codec import LatentCodec, LatentStats

ABOUT = "latents.json"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class CropSettings(Settings):
    """How pictures are cut before they are encoded, and how latents are stored."""

    resolution: int = Field(64, ge=8, le=MAX_SIDE, multiple_of=8, description="Side of a crop in pixels.")
    min_view: float = Field(
        0.75, ge=0.0, le=1.0, description="Least share of an image's short side that a crop covers."
    )
    flip: bool = Field(True, description="Mirror half of the crops.")
    colour_jitter: float = Field(0.0, ge=0.0, le=1.0, description="Strength of random changes of colour.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the crops; that of the training that follows.")
    crops: int = Field(1, ge=1, le=MAX_COUNT, description="Crops of each picture.")
    dtype: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Number format of the stored latents.")
    per_shard: int = Field(256, ge=1, le=MAX_COUNT, description="Latents in a shard.")


class AboutLatents(Settings):
    """The content of `latents.json`."""

    format: Literal[1] = 1
    vae: str = Field(description="SHA-256 of the VAE's weights and statistics.")
    statistics: LatentStats
    fingerprint: str
    pictures: int = Field(ge=1)
    labels: tuple[str, ...]
    settings: CropSettings

    @property
    def count(self) -> int:
        """How many latents there are."""
        return self.pictures * self.settings.crops

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.count // self.settings.per_shard)

    def positions(self, shard: int) -> range:
        """What a shard holds."""
        size = self.settings.per_shard
        return range(shard * size, min(self.count, (shard + 1) * size))


@dataclass(frozen=True)
class StoredLatent:
    """A latent on its way to the disk.

    Args:
        position: its id.
        mean: `[C,h,w]`, standardised.
        logvar: the same shape.
        name: of the picture.
        label: of the picture, or None.
    """

    position: int
    mean: Tensor
    logvar: Tensor
    name: str
    label: str | None


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{shard:06d}.tar"


def missing_shards(folder: Path, about: AboutLatents) -> list[int]:
    """Numbers of the shards that are not written yet."""
    return [shard for shard in range(about.shards) if not shard_path(folder, shard).exists()]


def write_shard(
    folder: Path, shard: int, about: AboutLatents, latents: Iterable[StoredLatent], skipped: dict[int, str]
) -> None:
    """Write a shard, whose bytes depend on its content alone."""
    import webdataset

    kept = list(latents)
    content = {
        **about.model_dump(mode="json"),
        "ids": [latent.position for latent in kept],
        "skipped": {str(position): reason for position, reason in skipped.items()},
    }
    dtype = DTYPES[about.settings.dtype]
    with written_atomically(shard_path(folder, shard)) as draft:
        with draft.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
            writer.write({"__key__": "__about__/shard", "json": json.dumps(content).encode()})
            for latent in kept:
                tensors = {"mean": latent.mean.to(dtype).contiguous(), "logvar": latent.logvar.to(dtype).contiguous()}
                # One entry: safetensors writes several of them in an order of its own.
                metadata = {"about": json.dumps({"name": latent.name, "label": latent.label})}
                data = safetensors.torch.save(tensors, metadata)
                writer.write({"__key__": f"{latent.position:09d}", "safetensors": data})
        flush(draft)


def read_about(folder: Path) -> AboutLatents:
    """What the latents in a folder are.

    Raises:
        DataError: the folder holds none, or what it says of them is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise DataError(f"{folder}: holds no {ABOUT}; make latents with jeppa encode --model RUN --data DIR --out DIR")
    return parse(AboutLatents, read_json(path), str(path))


def read_skipped(folder: Path) -> dict[int, str]:
    """Positions whose picture could not be read, and why, of the shards that are there."""
    skipped: dict[int, str] = {}
    for path in sorted(folder.glob("shard-*.tar")):
        try:
            with tarfile.open(path, "r:") as tar:
                content = _read_shard_about(tar, path)
            skipped |= {int(position): str(reason) for position, reason in content["skipped"].items()}
        except (OSError, tarfile.TarError, KeyError, ValueError, CheckpointError) as error:
            raise _spoiled_shard(path, error) from error
    return skipped


def _read_shard_about(tar: tarfile.TarFile, path: Path) -> dict[str, Any]:
    first = tar.next()
    stream = None if first is None else tar.extractfile(first)
    return parse_json(b"" if stream is None else stream.read(), str(path))


class LatentShards:
    """The latents of a folder by index, in order of position, read when they are asked for.

    Args:
        folder: what `jeppa encode` wrote.

    Raises:
        DataError: a shard is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.about = read_about(folder)
        missing = missing_shards(folder, self.about)
        if missing:
            raise DataError(
                f"{shard_path(folder, missing[0])}: is missing, and {len(missing)} of {self.about.shards} shards are; "
                "run jeppa encode again, it makes those alone"
            )
        self._label_index = {label: index for index, label in enumerate(self.about.labels)}
        self._paths = [shard_path(folder, shard) for shard in range(self.about.shards)]
        places = [_index_shard(path) for path in self._paths]
        self._shard = np.repeat(np.arange(len(places), dtype=np.int32), [len(found) for found in places])
        self._place = np.concatenate(places)

    def __len__(self) -> int:
        """Number of latents."""
        return len(self._place)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Mean and log-variance `[C,h,w]`, float32, and the index of the label or -1.

        Raises:
            DataError: the shard is damaged.
        """
        path, (start, size) = self._paths[self._shard[index]], self._place[index].tolist()
        try:
            with path.open("rb") as stream:
                stream.seek(start)
                data = stream.read(size)
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            label = json.loads(header["__metadata__"]["about"])["label"]
            return tensors["mean"].float(), tensors["logvar"].float(), self._label_index.get(label, -1)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _spoiled_shard(path, error) from error


def _index_shard(path: Path) -> npt.NDArray[np.int64]:
    """Where each latent of a shard starts, and its bytes, `[N,2]`."""
    try:
        with tarfile.open(path, "r:") as tar:
            ids = _read_shard_about(tar, path)["ids"]
            found = [(one.offset_data, one.size) for one in tar if one.name.endswith(".safetensors")]
        if len(found) != len(ids):  # tarfile takes a header that is cut off for the end
            raise ValueError(f"holds {len(found)} of {len(ids)} latents")
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError, CheckpointError) as error:
        raise _spoiled_shard(path, error) from error
    return np.array(found, np.int64).reshape(-1, 2)


def _spoiled_shard(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:100]
    return DataError(f"{path}: is cut off or damaged ({reason}); delete it and run jeppa encode again")


def fill_from_latents(folder: Path) -> dict[str, Any]:
    """What a run takes from the latents unless it is told otherwise: how pictures were cut, the seed, how many."""
    about = read_about(folder)
    crops = about.settings
    data = {"resolution": crops.resolution, "min_view": crops.min_view, "flip": crops.flip}
    return {"seed": crops.seed, "views": about.count, "data": {**data, "colour_jitter": crops.colour_jitter}}


def settle_latents(config: DiffusionRun, codec: LatentCodec) -> tuple[DiffusionRun, "StoredLatents"]:
    """The settings of a run from latents, with the number of its classes if it asks for any, and its training data.

    Raises:
        ConfigError: the latents are of another VAE, or cut in another way than the settings say; or classes are asked
            for, but there are none.
        DataError: as for `LatentShards`.
    """
    folder = Path(config.latents or "")
    shards = LatentShards(folder)
    about, crops = shards.about, shards.about.settings
    if about.vae != weights_hash(codec):
        raise ConfigError(f"{folder}: latents of another VAE ({about.vae[:12]}...); encode again with this one")
    wanted = {"seed": config.seed, **config.data.model_dump(include={"resolution", "min_view", "flip"})}
    wanted["colour_jitter"] = config.data.colour_jitter
    for key, value in wanted.items():
        if getattr(crops, key) != value:
            raise ConfigError(
                f"{folder}: {key} of the latents is {getattr(crops, key)}, but the run asks for {value}; leave it out "
                "to take that of the latents, or encode again"
            )
    if config.classes and not about.labels:
        raise ConfigError(f"{folder}: its latents have no labels; leave --classes out")
    if config.classes:
        model = config.model.model_copy(update={"num_classes": len(about.labels)})
        config = config.model_copy(update={"model": model})
    return config, StoredLatents(config, shards)


class StoredLatents(TrainingData):
    """Latents that were encoded before; in the order and with the bits of `train.diffusion.LatentData`.

    Args:
        config: all settings of the run.
        shards: the latents.
    """

    def __init__(self, config: DiffusionRun, shards: LatentShards) -> None:
        self.source = ImageSource((), shards.about.labels, shards.about.fingerprint, ())
        self._config = config
        self._shards = shards

    def batches(self, start: int, stop: int, ranks: Ranks = ALONE) -> Generator[Batch, None, None]:
        """`mean` and `std` of posteriors `[B,C,h,w]`, and `label` `[B]`; each epoch has an order of its own."""
        count = len(self._shards)
        epoch, order = -1, np.arange(0)
        for step in range(start, stop):
            chosen = []
            for row in self.part(step, ranks).rows:
                position = self.images_seen(step) + row
                if position // count != epoch:
                    epoch = position // count
                    order = np.random.default_rng([self._config.seed, epoch]).permutation(count)
                chosen.append(self._shards[int(order[position % count])])
            mean, logvar, label = zip(*chosen, strict=True)
            yield {
                "mean": torch.stack(mean),
                "std": (0.5 * torch.stack(logvar)).exp(),
                "label": torch.tensor(label),
            }

    def describe(self) -> dict[str, Any]:
        """What `LatentData` says of the same pictures and VAE."""
        about = self._shards.about
        return {"images": about.pictures, "fingerprint": about.fingerprint, "vae": about.vae}

    def images_seen(self, steps: int) -> int:
        """Latents taken by the first `steps` steps."""
        return steps * self._config.optim.batch_size

    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the latents of a step."""
        return (self._config.optim.batch_size, *self._shards[0][0].shape)
