"""What `jeppa reconstruct` writes: reconstructions, their sigma maps, and drawn residuals."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from jeppa.data import open_source, read_pixels_limited, to_x, write_png
from jeppa.data.sheet import SIGMA_SCALE, colour_map, sigma_levels
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


def _pictures(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name (without its suffix) and x of each picture; the first error comes before anything is written."""
    if path.is_file() and path.suffix.lower() != ".zip":
        return iter([(path.stem, to_x(read_pixels_limited(path)))])
    source = open_source(path)
    stems = [str(Path(ref.name).with_suffix("")) for ref in source.refs]
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {count} images are called {stem!r} but for the suffix; rename all but one")
    return ((stem, to_x(ref.read_pixels())) for stem, ref in zip(stems, source.refs, strict=True))
