"""Pictures as files: what `reconstruct`, `generate`, `interpolate` and `mix` write.

Every PNG carries the settings that made it, and a sheet shows the pictures of a folder side by side. Each sample is
written as soon as it is made, so that any number of them needs the same memory; rejection by uncertainty keeps the
score of each sample in memory, but no picture.
"""

import heapq
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from jeppa.data import open_source, read_pixels, read_pixels_limited, to_x, write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import (
    SETTINGS_KEY,
    Levels,
    colour_map,
    contact_sheet,
    describe_scale,
    fit_square,
    sigma_levels,
    to_pixels,
)
from jeppa.diffusion import SamplerStep
from jeppa.diffusion.ddim import check_seeds
from jeppa.errors import ConfigError, DataError
from jeppa.files import make_folder, written_atomically
from jeppa.pipeline import DDIMSettings, Method, Model, SamplerSettings, batch_size_for, between, even_shares
from jeppa.pipeline.model import preview

SHEET_COLUMNS = 8
SHEET_SIDE = 1024
"""Longest side of a picture in a sheet or an animation; `read_pixels` can still open eight by eight of them."""
FRAME_MILLISECONDS = 120
MadeBy = Mapping[str, str]
"""The settings that made a picture, each value as JSON."""


def encode_settings(**settings: Any) -> MadeBy:
    """Encode settings as a PNG carries them; paths become text."""
    return {key: json.dumps(value, default=str) for key, value in settings.items()}


def split_into_rows(pictures: Sequence[Tensor | Pixels]) -> list[Sequence[Tensor | Pixels]]:
    """Split pictures into rows of eight."""
    return [pictures[i : i + SHEET_COLUMNS] for i in range(0, len(pictures), SHEET_COLUMNS)]


def write_sheet(rows: Sequence[Sequence[Tensor | Pixels]], path: Path, settings: MadeBy) -> Path:
    """Write squares of one size side by side, each first shrunk by `shrink`; returns the path."""
    write_png(contact_sheet([[shrink(picture) for picture in row] for row in rows]), path, settings)
    return path


def shrink(square: Tensor | Pixels) -> Pixels:
    """Convert a square to pixels and scale it down to `SHEET_SIDE` if it is larger."""
    pixels = to_pixels(square) if isinstance(square, Tensor) else square
    return pixels if len(pixels) <= SHEET_SIDE else fit_square(pixels, SHEET_SIDE)


def write_animation(frames: Sequence[Pixels], path: Path, settings: MadeBy) -> None:
    """Write frames as a looping APNG, which is lossless."""
    with written_atomically(path) as draft:
        draft.write_bytes(animation_bytes(frames, "PNG", settings))


def animation_bytes(frames: Sequence[Pixels], kind: Literal["PNG", "GIF"], settings: MadeBy | None = None) -> bytes:
    """Frames as a looping animation: an APNG, which is lossless and carries `settings`, or a GIF of 256 colours."""
    options: dict[str, Any] = {}
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(SETTINGS_KEY, json.dumps(dict(settings or {})))
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0, **options)
    return buffer.getvalue()


def reconstruct_files(
    model: Model,
    input_path: Path,
    out: Path,
    temperature: float = 0.0,
    seed: int = 0,
    texture: float = 0.0,
    names_encoding: str | None = None,
) -> Iterator[str]:
    """Write reconstruction and sigma map of one image file, or of all in a folder or zip; yields a line for each.

    A VAE without a sigma head gives no sigma map, and a line that says how it gets one. An image of several that cannot
    be read, or whose files cannot be written, gets a line that says so.

    Args:
        model: with a VAE.
        input_path: image file, folder or zip.
        out: folder to write.
        temperature: if above 0, `.draw.png` is written too: the reconstruction plus a drawn residual of this size.
        seed: of the residual and of the texture; the same for every picture.
        texture: if above 0, `.texture.png` is written too: the reconstruction with texture of at most this many sigma.
        names_encoding: code page of the names in a zip that does not say it.

    Raises:
        ConfigError: the temperature or the texture is negative or not finite, or the VAE has no sigma or texture head.
        DataError: there is no image, or none could be made.
    """
    if not 0.0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}, but must be 0 or more; 1 is a fair draw")
    model.check_texture(texture)
    if model.lacks_sigma is not None:
        if temperature > 0.0:
            raise ConfigError(f"temperature is {temperature}, but {model.lacks_sigma}")
        yield model.lacks_sigma
    pictures = _open_pictures(input_path, names_encoding)
    made, problems = 0, list(pictures.problems)
    yield from (*pictures.notes, *problems)
    for name, read in pictures.readers:
        try:
            pixels = read()
            make_folder((out / name).parent)
            yield _reconstruct_one(model, pixels, out / name, name, temperature, seed, texture)
            made += 1
        except (DataError, ConfigError, OSError) as error:
            problems.append(f"not made: {' '.join(str(error).split())}")
            yield problems[-1]
    if not made:
        raise DataError(f"{str(input_path)!r}: none of {len(problems)} images could be made; the last: {problems[-1]}")
    if problems:
        yield f"made {made} of {made + len(problems)} images, the others are listed above"


def _reconstruct_one(
    model: Model, pixels: Pixels, target: Path, name: str, temperature: float, seed: int, texture: float
) -> str:
    """Write the files of one picture, whose names start with that of `target`; returns a line about it."""
    mean, levels, shown = reconstruct_pixels(model, pixels)
    write_png(mean, target.with_name(target.name + ".recon.png"), {"model": str(model.path)})
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    if model.lacks_sigma is not None:
        return f"{name}: {size}"
    write_png(shown, target.with_name(target.name + ".sigma.png"), {"scale": describe_scale()})
    with written_atomically(target.with_name(target.name + ".sigma.npy")) as draft, draft.open("wb") as stream:
        np.save(stream, levels)
    if temperature > 0.0:
        drawn = model.draw(to_x(pixels)[None], temperature, seed)[0]
        about = {"model": str(model.path), "temperature": str(temperature), "seed": str(seed)}
        write_png(drawn, target.with_name(target.name + ".draw.png"), about)
    if texture > 0.0:
        textured = model.reconstruct_with_texture(to_x(pixels)[None], texture, seed)[0]
        about = {"model": str(model.path), "texture": str(texture), "seed": str(seed)}
        write_png(textured, target.with_name(target.name + ".texture.png"), about)
    return f"{name}: {size}, sigma {levels.mean():.1f} levels on average, at most {levels.max():.1f}"


def reconstruct_pixels(model: Model, pixels: Pixels) -> tuple[Pixels, Levels, Pixels]:
    """Reconstruct at the size of `pixels`, row by row; returns the picture, the sigma map, and the map in colours."""
    mean, shown = np.empty_like(pixels), np.empty_like(pixels)
    levels = np.empty(pixels.shape[:2], np.float32)
    for rows in model.reconstruct_rows(pixels):
        place = slice(rows.top, rows.top + rows.mean.shape[2])
        mean[place] = to_pixels(rows.mean[0])
        levels[place] = sigma_levels(rows.logvar[0])
        shown[place] = colour_map(levels[place])
    return mean, levels, shown


@dataclass(frozen=True)
class _Pictures:
    """Name without suffix, and what reads the pixels, of each picture; and a line for each that cannot be read."""

    readers: tuple[tuple[str, Callable[[], Pixels]], ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _open_pictures(path: Path, names_encoding: str | None) -> _Pictures:
    """The pictures of a file, folder or zip; an unusable path raises before anything is written."""
    if path.is_file() and path.suffix.lower() != ".zip":
        pixels = read_pixels_limited(path)
        return _Pictures(((path.stem, lambda: pixels),))
    source = open_source(path, max_unreadable=1.0, names_encoding=names_encoding)
    stems = [str(Path(ref.name).with_suffix("")) for ref in source.refs]
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {count} images are called {stem!r} apart from the suffix; rename all but one")
    problems = tuple(f"not made: {skipped.name!r}: {skipped.reason}" for skipped in source.skipped)
    readers = tuple((stem, ref.read_pixels) for stem, ref in zip(stems, source.refs, strict=True))
    return _Pictures(readers, problems, source.notes)


VAE_SIDE = 256
"""Side of the pictures where there is only a VAE, which has no resolution of its own."""


def interpolate_files(
    model: Model, a: Path, b: Path, out: Path, frames: int, method: Method, settings: DDIMSettings
) -> Path:
    """Write the frames, `sheet.png` and `animation.png` (a looping APNG, lossless); returns the sheet.

    Args:
        model: with a denoiser for a morph.
        a: picture at the start; its largest centred square is taken.
        b: picture at the end.
        out: folder to write.
        frames: how many, at least 2, both ends included.
        method: see `between`.
        settings: resolution, and steps and label of a morph.

    Raises:
        CheckpointError: a morph without a denoiser.
        ConfigError: a setting is out of range or does not fit the model.
        DataError: a picture cannot be read.
    """
    _check_label(settings, [method])
    shares = even_shares(frames)
    first, second = _read_ends(model, a, b, settings)
    about = {**settings.model_dump(mode="json"), "a": a, "b": b, "method": method, "model": model.path}
    path = []
    for index, point in enumerate(between(model, first, second, shares, method, settings)):
        make_folder(out)  # only now: if the first frame fails, nothing is written
        write_png(point.mean[0], out / f"frame-{index:03d}.png", encode_settings(**about, share=shares[index]))
        path.append(shrink(point.mean[0]))
    write_animation(path + path[-2:0:-1], out / "animation.png", encode_settings(**about, frames=frames))
    return write_sheet([path], out / "sheet.png", encode_settings(**about, frames=frames))


def mix_files(
    model: Model, a: Path, b: Path, out: Path, share: float, methods: Sequence[Method], settings: DDIMSettings
) -> Path:
    """Write `fade.png`, `fuse.png`, `morph.png` and, between the two pictures, all in `sheet.png`; returns the sheet.

    Args:
        model: with a denoiser for a morph.
        a: first picture; its largest centred square is taken.
        b: second picture.
        out: folder to write.
        share: of the second picture, 0 to 1.
        methods: see `between`; if empty, all that the model can do.
        settings: resolution, and steps and label of a morph.

    Raises:
        CheckpointError: a morph without a denoiser.
        ConfigError: a setting is out of range or does not fit the model.
        DataError: a picture cannot be read.
    """
    chosen = methods or _all_methods(model)
    _check_label(settings, chosen)
    first, second = _read_ends(model, a, b, settings)
    mixed: dict[str, Tensor] = {}
    for method in chosen:
        (point,) = between(model, first, second, [share], method, settings)
        mixed[method] = point.mean[0]
    about = {**settings.model_dump(mode="json"), "a": a, "b": b, "share": share, "model": model.path}
    make_folder(out)
    for name, x in mixed.items():
        write_png(x, out / f"{name}.png", encode_settings(**about, method=name))
    return write_sheet(
        [[first, *mixed.values(), second]], out / "sheet.png", encode_settings(**about, method=list(mixed))
    )


def _all_methods(model: Model) -> list[Method]:
    return ["fade", "fuse"] if model.denoiser is None else ["fade", "fuse", "morph"]


def _check_label(settings: DDIMSettings, methods: Sequence[Method]) -> None:
    if settings.label is not None and "morph" not in methods:
        raise ConfigError(f"label is {settings.label!r}, but only a morph uses it: leave --label out")


def _read_ends(model: Model, a: Path, b: Path, settings: DDIMSettings) -> tuple[Tensor, Tensor]:
    """Read both pictures as x of one size: the requested one, or else that which the denoiser was trained at."""
    alone = model.denoiser is None and settings.resolution is None
    side = model.side(VAE_SIDE if alone else settings.resolution)
    first, second = (to_x(fit_square(read_pixels_limited(path), side)) for path in (a, b))
    return first, second


def count_candidates(number: int, keep: float) -> int:
    """Count the samples to draw so that `number` of them make up the share `keep`, rounded up.

    Raises:
        ConfigError: a number below 1, or a share outside (0, 1].
    """
    if number < 1:
        raise ConfigError(f"number is {number}, but at least 1 picture must be asked for")
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep is {keep}, but must be a share above 0 and at most 1: 0.5 keeps the surer half, 1 all")
    # As a fraction, because in floats 21 / 0.35 is a little more than 60.
    return math.ceil(number / Fraction(str(keep)))


class LeastUncertain:
    """Keeps the seeds of the `number` least uncertain samples; among equally uncertain ones the lowest seeds."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._worst_first: list[tuple[float, int]] = []

    def offer(self, seed: int, uncertainty: float) -> int | None:
        """Add a sample; returns the seed of the one that drops out for it, if any."""
        heapq.heappush(self._worst_first, (-uncertainty, -seed))
        if len(self._worst_first) <= self._number:
            return None
        return -heapq.heappop(self._worst_first)[1]

    def seeds(self) -> list[int]:
        """Seeds of the samples that are kept, least uncertain first."""
        return [-seed for _, seed in sorted(self._worst_first, reverse=True)]


SHEET_PICTURES = 64
REJECTED = "rejected"
DIGITS = 6
"""Decimals of the score in a PNG; further ones depend on the batch."""
STEPS = "steps"
PREVIEW_SCALE = 64.0
"""8-bit levels of sigma that are pale yellow in a preview: twice those of a reconstruction.

An early estimate is far less certain."""


def generate_files(
    model: Model,
    out: Path,
    number: int,
    seed: int,
    settings: SamplerSettings,
    keep: float = 1.0,
    mask: Path | None = None,
    previews: bool = False,
    texture: float = 0.0,
) -> Path:
    """Write `number` PNGs with their settings and uncertainty, and `sheet.png` with the first 64; returns its path.

    Args:
        model: with a denoiser.
        out: folder to write.
        number: how many to keep in `out`.
        seed: of the first sample; the next ones count up.
        settings: how to sample.
        keep: if below 1, number / keep samples are drawn, and all but the least uncertain `number` are moved to
            `out/rejected`. The sheet then shows the least uncertain first.
        mask: picture of the size of the samples, read by `read_mask`.
        previews: whether to write `out/steps/step-NN.png`, which show the first samples as they form.
        texture: how many sigma a pixel may leave the mean by; 0 gives the mean.

    Raises:
        ConfigError: a setting is out of range or does not fit the model; nothing is written then.
        DataError: the mask cannot be read.
    """
    seeds = range(seed, seed + count_candidates(number, keep))
    check_seeds((seeds[0], seeds[-1]))  # before `len(seeds)`, which fails if there are too many
    if keep < 1.0:
        model.check_variance("--keep")
    region = None if mask is None else read_mask(mask)
    about = {**settings.model_dump(mode="json"), "mask": mask, "keep": keep, "texture": texture, "model": model.path}
    watch = partial(_write_preview, model, out / STEPS, encode_settings(**about, seed=seed)) if previews else None
    first = batch_size_for(model.side(settings.resolution))
    drawn = model.generate(seeds[:first], settings, region, watch, texture)
    if len(seeds) > first:
        drawn = chain(drawn, model.generate(seeds[first:], settings, region, texture=texture))
    make_folder(out)
    chosen = LeastUncertain(number)
    for sample in drawn:
        score = None if sample.uncertainty is None else round(sample.uncertainty, DIGITS)
        write_png(
            sample.x, _sample_path(out, sample.seed), encode_settings(**about, seed=sample.seed, uncertainty=score)
        )
        _sample_path(out / REJECTED, sample.seed).unlink(missing_ok=True)  # which an earlier run may have left
        dropped = chosen.offer(sample.seed, sample.uncertainty or 0.0)
        if dropped is not None:
            make_folder(out / REJECTED)
            os.replace(_sample_path(out, dropped), _sample_path(out / REJECTED, dropped))
    kept = chosen.seeds() if keep < 1.0 else seeds
    shown = [shrink(read_pixels(_sample_path(out, kept_seed))) for kept_seed in kept[:SHEET_PICTURES]]
    return write_sheet(split_into_rows(shown), out / "sheet.png", encode_settings(**about, seed=seed))


def read_mask(path: Path) -> Tensor:
    """Read a picture as a mask, float32 `[H,W]`: black is 0, white 1; a colour counts as the mean of its channels.

    Raises:
        DataError: it cannot be read.
    """
    return (to_x(read_pixels_limited(path)).mean(0) + 1.0) / 2.0


def _sample_path(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.png"


def _write_preview(model: Model, folder: Path, about: MadeBy, step: SamplerStep) -> None:
    """Write the estimates of a step in rows, each above a row of their sigma maps."""
    shown = preview(model.codec, step)
    rows = split_into_rows(list(shown.estimate))
    if shown.sigma is not None:
        maps: list[Tensor | Pixels] = [
            colour_map(sigma_levels(2.0 * sigma.log()), PREVIEW_SCALE) for sigma in shown.sigma
        ]
        rows = [row for pair in zip(rows, split_into_rows(maps), strict=True) for row in pair]
    make_folder(folder)
    settings = {**about, **encode_settings(step=step.index, t=step.t, pale_yellow_levels=PREVIEW_SCALE)}
    write_sheet(rows, folder / f"step-{step.index:02d}.png", settings)
