"""`jeppa encode`, and `jeppa generate` as a job: what works in blocks, here or on Ray."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jeppa.cli.core import MaybeWhole, console, say, say_skipped
from jeppa.config import SamplerSettings
from jeppa.files import check_out_folder

if TYPE_CHECKING:
    from jeppa.scale.engine import Job

EngineChoice = Literal["local", "ray"]


def encode(
    *,
    model: Path,
    data: str,
    out: Path,
    engine: EngineChoice = "local",
    workers: MaybeWhole = None,
    resolution: MaybeWhole = None,
    min_view: float | None = None,
    flip: bool | None = None,
    colour_jitter: float | None = None,
    seed: MaybeWhole = None,
    crops: MaybeWhole = None,
    dtype: Literal["fp16", "bf16", "fp32"] | None = None,
    per_shard: MaybeWhole = None,
    split: Literal["train", "heldout", "all"] = "train",
    max_unreadable: float = 0.01,
    names_encoding: str | None = None,
) -> None:
    """Turn pictures into latents, which `jeppa train diffusion --latents` learns from.

    Writes webdataset shards of safetensors (mean and log-variance). A run that was stopped, however, goes on with the
    shards that are missing when the same command is given again.

    Args:
        model: run folder, exported folder or shipped name of the VAE.
        data: pictures, as for `jeppa train`.
        out: folder to write.
        engine: local works on this machine; ray on the cluster of RAY_ADDRESS, or on a local one that it starts.
        workers: how many encode, each with one thread; one for each core unless given.
        resolution: side of a crop in pixels, a multiple of 8 [default: 64].
        min_view: least share of an image's short side that a crop covers [default: 0.75].
        flip: mirror half of the crops [default: True].
        colour_jitter: strength of random changes of colour, 0 to 1 [default: 0].
        seed: of the crops; take that of the training that follows [default: 0].
        crops: of each picture [default: 1].
        dtype: number format of the latents; fp32 keeps every bit [default: fp16].
        per_shard: latents in a shard [default: 256].
        split: which pictures; train leaves out those that are held out.
        max_unreadable: largest share of images that may be unreadable and are left out, 0 to 1.
        names_encoding: code page of the names in a zip that does not say it, such as cp866.
    """
    check_out_folder(out, data)
    from jeppa.config import parse
    from jeppa.scale.engine import require
    from jeppa.scale.latents import CropSettings

    values = {
        "resolution": resolution, "min_view": min_view, "flip": flip, "colour_jitter": colour_jitter, "seed": seed,
        "crops": crops, "dtype": dtype, "per_shard": per_shard,
    }  # fmt: skip
    settings = parse(CropSettings, {key: value for key, value in values.items() if value is not None}, "flags")
    require("jeppa encode", "webdataset", *(["ray"] if engine == "ray" else []))
    from jeppa.data import open_source
    from jeppa.scale.encode import plan_encoding
    from jeppa.scale.latents import read_skipped

    source = open_source(data, split, max_unreadable, names_encoding)
    say_skipped(source)
    job = plan_encoding(model, source, out, settings)
    follow_blocks("encode", job, engine, workers)
    skipped = read_skipped(out)
    for position, reason in skipped.items():
        say(f"  not encoded: {position}: {reason}")
    say(f"latents: {job.about.count - len(skipped)} of {len(source)} pictures in {job.about.shards} shards in {out}")


def generate_rows(
    model: Path, out: Path, number: int, seed: int, settings: SamplerSettings, texture: float, engine: EngineChoice,
    workers: int | None, per_shard: int | None,
) -> None:  # fmt: skip
    """`jeppa generate --engine ray`, `--workers` or `--shard`: a picture a row, which can be stopped at any time."""
    from jeppa.scale.engine import require

    require("jeppa generate", *(["ray"] if engine == "ray" else []), *(["webdataset"] if per_shard else []))
    from jeppa.scale.sample import plan_sampling

    rows = [(one, settings) for one in range(seed, seed + number)]
    follow_blocks("generate", plan_sampling(model, out, rows, texture, per_shard), engine, workers)
    say(f"{number} pictures in {out}")


def follow_blocks(title: str, job: "Job", engine: EngineChoice, workers: int | None) -> None:
    """Run a job and show how far it is."""
    from jeppa.progress import follow_count
    from jeppa.scale.engine import allowed_cores, run_blocks

    missing = len(job.missing())
    follow_count(title, run_blocks(job, engine, workers or allowed_cores()), missing, console)
