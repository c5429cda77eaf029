"""Pictures as files: what `reconstruct`, `generate` and `interpolate` write."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from jeppa.data import open_source, read_pixels, to_pixels, to_x, write_png
from jeppa.data.crops import check_resolution
from jeppa.data.images import fit
from jeppa.data.sheet import SIGMA_SCALE, colour_map, contact_sheet, sigma_levels
from jeppa.errors import ConfigError, DataError
from jeppa.pipeline import Model, SamplerSettings

SHEET_COLUMNS = 8
SHEET_PICTURES = 64
FRAME_MILLISECONDS = 120


def reconstruct_files(
    model: Model, input_path: Path, out: Path, temperature: float = 0.0, seed: int = 0
) -> Iterator[str]:
    """Write reconstruction and sigma map of one image file, or of all in a folder or zip; yields a line for each.

    Args:
        model: with a VAE.
        input_path: image file, folder or zip.
        out: folder to write.
        temperature: above 0, `.draw.png` is the reconstruction with a residual of this size drawn.
        seed: of the drawn residual, the same for every picture.

    Raises:
        ConfigError: a negative temperature.
        DataError: no image, or none that can be read.
    """
    if not 0.0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}, but must be 0 or more; 1 is a fair draw")
    pictures = _pictures(input_path)
    make_folder(out)
    for name, x in pictures:
        decoded = model.reconstruct(x[None])
        levels = sigma_levels(decoded.logvar[0])
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(decoded.mean[0], target.with_name(target.name + ".recon.png"), {"model": str(model.path)})
        scale = f"black 0 to pale yellow {SIGMA_SCALE:.0f} 8-bit levels"
        write_png(colour_map(levels), target.with_name(target.name + ".sigma.png"), {"scale": scale})
        np.save(target.with_name(target.name + ".sigma.npy"), levels)
        if temperature > 0.0:
            drawn = model.draw(x[None], temperature, seed)[0]
            about = {"model": str(model.path), "temperature": str(temperature), "seed": str(seed)}
            write_png(drawn, target.with_name(target.name + ".draw.png"), about)
        size = f"{x.shape[2]}x{x.shape[1]}"
        yield f"{name}: {size}, sigma {levels.mean():.1f} levels on average, at most {levels.max():.1f}"


def generate_files(model: Model, out: Path, number: int, seed: int, settings: SamplerSettings) -> Path:
    """Write `number` PNGs, seeds `seed`, `seed + 1`, ..., and `sheet.png` of the first 64; returns the sheet.

    Raises:
        ConfigError: a setting is out of range, or `number` below 1.
    """
    if number < 1:
        raise ConfigError(f"number is {number}, but at least 1 picture must be asked for")
    drawn = model.generate(range(seed, seed + number), settings)
    shown: list[Tensor] = []
    for index, x in enumerate(drawn):
        if index == 0:
            make_folder(out)
        made_by = {**settings.model_dump(mode="json"), "seed": seed + index, "model": str(model.path)}
        write_png(x, out / f"{seed + index:06d}.png", {key: json.dumps(value) for key, value in made_by.items()})
        if index < SHEET_PICTURES:
            shown.append(x)
    rows = [shown[i : i + SHEET_COLUMNS] for i in range(0, len(shown), SHEET_COLUMNS)]
    write_png(contact_sheet(rows), out / "sheet.png")
    return out / "sheet.png"


def interpolate_files(model: Model, a: Path, b: Path, out: Path, frames: int, resolution: int) -> Path:
    """Write the frames, `sheet.png` and `animation.png` (a looping APNG, lossless); returns the sheet.

    Raises:
        ConfigError: fewer than 2 frames, or a resolution that 8 does not divide.
        DataError: a picture cannot be read.
    """
    check_resolution(resolution)
    first, second = (to_x(fit(read_pixels(path), resolution)) for path in (a, b))
    path = [to_pixels(point.mean[0]) for point in model.interpolate(first, second, frames)]
    make_folder(out)
    for index, frame in enumerate(path):
        write_png(frame, out / f"frame-{index:03d}.png", {"a": str(a), "b": str(b), "frame": f"{index}/{frames - 1}"})
    write_png(contact_sheet([path]), out / "sheet.png")
    there_and_back = [Image.fromarray(frame) for frame in path + path[-2:0:-1]]
    there_and_back[0].save(
        out / "animation.png", save_all=True, append_images=there_and_back[1:], duration=FRAME_MILLISECONDS, loop=0
    )
    return out / "sheet.png"


def make_folder(out: Path) -> None:
    """Make a folder to write into, with its parents.

    Raises:
        ConfigError: it cannot be made, for example because a file has its name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None


def _pictures(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name (without its suffix) and x of each picture; the first error comes before anything is written."""
    if path.is_file() and path.suffix.lower() != ".zip":
        pixels = read_pixels(path)
        return iter([(path.stem, to_x(pixels))])
    source = open_source(path)
    stems = [str(Path(ref.name).with_suffix("")) for ref in source.refs]
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {count} images are called {stem!r} but for the suffix; rename all but one")
    return ((stem, to_x(ref.read_pixels())) for stem, ref in zip(stems, source.refs, strict=True))
