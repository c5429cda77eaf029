"""What `jeppa reconstruct` writes: reconstructions, their sigma maps, and drawn residuals."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jeppa.data import open_source, read_pixels_limited, to_x, write_png
from jeppa.data.decode import Pixels
from jeppa.data.images import to_pixels
from jeppa.data.sheet import SIGMA_SCALE, Levels, colour_map, sigma_levels
from jeppa.errors import ConfigError, DataError
from jeppa.pictures.folder import make_folder
from jeppa.pipeline import Model


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
    for name, pixels in pictures:
        mean, levels, shown = reconstruct_pixels(model, pixels)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(mean, target.with_name(target.name + ".recon.png"), {"model": str(model.path)})
        scale = f"black 0 to pale yellow {SIGMA_SCALE:.0f} 8-bit levels"
        write_png(shown, target.with_name(target.name + ".sigma.png"), {"scale": scale})
        np.save(target.with_name(target.name + ".sigma.npy"), levels)
        if temperature > 0.0:
            drawn = model.draw(to_x(pixels)[None], temperature, seed)[0]
            about = {"model": str(model.path), "temperature": str(temperature), "seed": str(seed)}
            write_png(drawn, target.with_name(target.name + ".draw.png"), about)
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        yield f"{name}: {size}, sigma {levels.mean():.1f} levels on average, at most {levels.max():.1f}"


def reconstruct_pixels(model: Model, pixels: Pixels) -> tuple[Pixels, Levels, Pixels]:
    """Reconstruction, sigma map and that in colours, at the size of `pixels`, filled row by row."""
    mean, shown = np.empty_like(pixels), np.empty_like(pixels)
    levels = np.empty(pixels.shape[:2], np.float32)
    for rows in model.reconstruct_rows(pixels):
        place = slice(rows.top, rows.top + rows.mean.shape[2])
        mean[place] = to_pixels(rows.mean[0])
        levels[place] = sigma_levels(rows.logvar[0])
        shown[place] = colour_map(levels[place])
    return mean, levels, shown


def _pictures(path: Path) -> Iterator[tuple[str, Pixels]]:
    """Name (without its suffix) and pixels of each picture; the first error comes before anything is written."""
    if path.is_file() and path.suffix.lower() != ".zip":
        return iter([(path.stem, read_pixels_limited(path))])
    source = open_source(path)
    stems = [str(Path(ref.name).with_suffix("")) for ref in source.refs]
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {count} images are called {stem!r} but for the suffix; rename all but one")
    return ((stem, ref.read_pixels()) for stem, ref in zip(stems, source.refs, strict=True))
