"""`jeppa generate` as a job: rows of seed and settings, each a picture that depends on its row alone.

Pictures are made one at a time and in float32. In a batch, the last bits of a picture depend on how many there are.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jeppa.config import SamplerSettings
from jeppa.data.images import png_bytes
from jeppa.errors import CheckpointError, ConfigError
from jeppa.files import flush, make_folder, read_json, write_text_atomically, written_atomically
from jeppa.outputs import DIGITS, encode_settings
from jeppa.pipeline import Model, load_model
from jeppa.scale.engine import Make
from jeppa.scale.latents import shard_path
from jeppa.train.diffusion import weights_hash

ABOUT = "generate.json"
BLOCK = 16
"""Pictures in a block that becomes files of its own."""
Row = tuple[int, SamplerSettings]


@dataclass(frozen=True)
class SampleJob:
    """Make a picture for each row.

    Args:
        model: path of the denoiser, which every worker loads.
        out: folder to write.
        rows: seeds, no two of them equal, and settings.
        texture: how many sigma a pixel may leave the mean by.
        per_shard: pictures in a webdataset shard; None writes a PNG file for each.
    """

    model: Path
    out: Path
    rows: Sequence[Row]
    texture: float = 0.0
    per_shard: int | None = None

    def missing(self) -> list[int]:
        """Blocks of which a file is not written yet."""
        size = self.per_shard or BLOCK
        return [block for block in range(-(-len(self.rows) // size)) if not self._is_done(block)]

    def read(self, block: int) -> Sequence[Row]:
        """The rows of a block that are not written yet."""
        size = self.per_shard or BLOCK
        rows = self.rows[block * size : (block + 1) * size]
        return rows if self.per_shard else [row for row in rows if not self._picture_path(row[0]).exists()]

    def open(self) -> Make:
        """Load the model, in float32, on the GPU if there is one."""
        model = load_model(self.model, device="cuda" if torch.cuda.is_available() else "cpu")

        def make(block: int, rows: Sequence[Row]) -> list[tuple[int, bytes]]:
            return [(seed, self._draw(model, seed, settings)) for seed, settings in rows]

        return make

    def write(self, block: int, made: list[tuple[int, bytes]]) -> None:
        """Write the pictures."""
        if self.per_shard is None:
            for seed, png in made:
                with written_atomically(self._picture_path(seed)) as draft:
                    draft.write_bytes(png)
            return
        import webdataset

        with written_atomically(shard_path(self.out, block)) as draft:
            with draft.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
                for seed, png in made:
                    writer.write({"__key__": f"{seed:09d}", "png": png})
            flush(draft)

    def _draw(self, model: Model, seed: int, settings: SamplerSettings) -> bytes:
        (sample,) = model.generate([seed], settings, texture=self.texture)
        score = None if sample.uncertainty is None else round(sample.uncertainty, DIGITS)
        about: dict[str, Any] = {**settings.model_dump(mode="json"), "mask": None, "keep": 1.0, "texture": self.texture}
        return png_bytes(sample.x, encode_settings(**about, model=self.model, seed=seed, uncertainty=score))

    def _is_done(self, block: int) -> bool:
        return shard_path(self.out, block).exists() if self.per_shard else not self.read(block)

    def _picture_path(self, seed: int) -> Path:
        return self.out / f"{seed:06d}.png"


def plan_sampling(
    model: Path, out: Path, rows: Sequence[Row], texture: float = 0.0, per_shard: int | None = None
) -> SampleJob:
    """Check that a model can make the rows, and prepare a folder, or go on with one.

    Raises:
        CheckpointError: the model has no denoiser.
        ConfigError: no row, a setting that does not fit the model, or a folder with other pictures.
    """
    if not rows:
        raise ConfigError("number is 0, but at least 1 picture must be asked for")
    if per_shard is not None and per_shard < 1:
        raise ConfigError(f"shard is {per_shard}, but a shard holds at least 1 picture")
    opened = load_model(model)
    for settings in {settings.model_dump_json(): settings for _, settings in rows}.values():
        opened.sample([rows[0][0]], settings)
    opened.check_texture(texture)
    job = SampleJob(model, out, rows, texture, per_shard)
    about = {"model": _hash_model(opened), "rows": _hash_rows(job), "texture": texture, "shard": per_shard}
    if (out / ABOUT).exists():
        there = read_json(out / ABOUT)
        changes = [
            f"{key} was {there.get(key)} and is {value}" for key, value in about.items() if there.get(key) != value
        ]
        if changes:
            raise ConfigError(f"{out}: holds other pictures: {'; '.join(changes)}; use another --out")
    elif out.is_dir() and any(out.glob("*.png")):
        raise ConfigError(f"{out}: holds pictures, but no {ABOUT} that says of what; use another --out")
    make_folder(out)
    write_text_atomically(out / ABOUT, json.dumps(about, indent=1) + "\n")
    return job


def _hash_model(model: Model) -> str:
    if model.denoiser is None:
        raise CheckpointError(f"{model.path}: a VAE without a denoiser; train one with jeppa train diffusion")
    total = hashlib.sha256(weights_hash(model.codec).encode())
    for name, value in sorted(model.denoiser.state_dict().items()):
        total.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _hash_rows(job: SampleJob) -> str:
    """Of all rows where shards hold them in order, and else of the settings alone, as more files can join."""
    kept = job.rows if job.per_shard else [(0, settings) for _, settings in job.rows[:1]]
    texts = (f"{seed} {settings.model_dump_json()}\n" for seed, settings in kept)
    return hashlib.sha256("".join(texts).encode()).hexdigest()
