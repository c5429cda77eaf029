"""`jeppa interpolate` and `mix`: pictures between two pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from jeppa.cli.opening import Speed, opened
from jeppa.cli.terminal import say
from jeppa.config import parse
from jeppa.flags import flags_of, given
from jeppa.sampling import DDIMSettings

if TYPE_CHECKING:
    MorphFlags = Any
else:
    MorphFlags = flags_of("MorphFlags", DDIMSettings)

Flat = Parameter(name="*")


def interpolate(
    *,
    model: Path,
    a: Path,
    b: Path,
    out: Path,
    frames: int = 9,
    method: Literal["fade", "morph"] = "fade",
    precision: Speed = "auto",
    flags: Annotated[MorphFlags | None, Flat] = None,
) -> None:
    """Walk from one picture to another.

    Writes the frames, a contact sheet and an animation.

    Args:
        model: run folder, exported folder or name of a shipped model.
        a: first picture.
        b: second picture.
        out: folder to write.
        frames: how many, both ends included.
        method: fade: the straight line between the latents; morph: by way of noise, for the run folder of a denoiser.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.pictures import interpolate_files

    settings = parse(DDIMSettings, given(flags, DDIMSettings), "flags")
    say(str(interpolate_files(opened(model, precision), a, b, out, frames, method, settings)))


def mix(
    *,
    model: Path,
    a: Path,
    b: Path,
    out: Path,
    share: float = 0.5,
    method: Literal["fuse", "morph", "fade"] | None = None,
    precision: Speed = "auto",
    flags: Annotated[MorphFlags | None, Flat] = None,
) -> None:
    """Make one picture of two.

    Writes fade.png, fuse.png, with a denoiser morph.png, and sheet.png: all of them between the two pictures.

    Args:
        model: run folder, exported folder or name of a shipped model.
        a: first picture.
        b: second picture.
        out: folder to write.
        share: weight of the second picture, 0 to 1.
        method: only this one. fade: the average of the latents; fuse: the same, weighted at each place by how sure the
            encoder is of either; morph: the middle of the way through noise, for the run folder of a denoiser.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.pictures import mix_files

    settings = parse(DDIMSettings, given(flags, DDIMSettings), "flags")
    say(str(mix_files(opened(model, precision), a, b, out, share, [method] if method else [], settings)))
