"""What `jeppa interpolate` and `jeppa mix` write: pictures between two pictures."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from jeppa.data import fit, read_pixels_limited, to_x, write_png
from jeppa.errors import ConfigError
from jeppa.pictures.folder import made_by, make_folder, reduced, write_animation, write_sheet
from jeppa.pipeline import DDIMSettings, Method, Model, between, even_shares

VAE_SIDE = 256
"""Side of the pictures of a VAE, which has no resolution of its own."""


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
    first, second = _ends(model, a, b, settings)
    about = {**settings.model_dump(mode="json"), "a": a, "b": b, "method": method, "model": model.path}
    path = []
    for index, point in enumerate(between(model, first, second, shares, method, settings)):
        make_folder(out)  # not before the first frame: where there is none, nothing is written
        write_png(point.mean[0], out / f"frame-{index:03d}.png", made_by(**about, share=shares[index]))
        path.append(reduced(point.mean[0]))
    write_animation(path + path[-2:0:-1], out / "animation.png", made_by(**about, frames=frames))
    return write_sheet([path], out / "sheet.png", made_by(**about, frames=frames))


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
    first, second = _ends(model, a, b, settings)
    mixed: dict[str, Tensor] = {}
    for method in chosen:
        (point,) = between(model, first, second, [share], method, settings)
        mixed[method] = point.mean[0]
    about = {**settings.model_dump(mode="json"), "a": a, "b": b, "share": share, "model": model.path}
    make_folder(out)
    for name, x in mixed.items():
        write_png(x, out / f"{name}.png", made_by(**about, method=name))
    return write_sheet([[first, *mixed.values(), second]], out / "sheet.png", made_by(**about, method=list(mixed)))


def _all_methods(model: Model) -> list[Method]:
    return ["fade", "fuse"] if model.denoiser is None else ["fade", "fuse", "morph"]


def _check_label(settings: DDIMSettings, methods: Sequence[Method]) -> None:
    if settings.label is not None and "morph" not in methods:
        raise ConfigError(f"label is {settings.label!r}, but only a morph has use for it: leave --label out")


def _ends(model: Model, a: Path, b: Path, settings: DDIMSettings) -> tuple[Tensor, Tensor]:
    """Both pictures as x of one size: the one asked for, else that of the denoiser's training."""
    alone = model.denoiser is None and settings.resolution is None
    side = model.side(VAE_SIDE if alone else settings.resolution)
    first, second = (to_x(fit(read_pixels_limited(path), side)) for path in (a, b))
    return first, second
