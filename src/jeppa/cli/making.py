"""`jeppa reconstruct`, `generate` and `interpolate`: pictures in and out of a trained model."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jeppa.cli.terminal import say
from jeppa.config import parse


def reconstruct(
    *,
    model: Path,
    input: Path,
    out: Path,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Reconstruct pictures and draw their sigma maps.

    Writes NAME.recon.png, NAME.sigma.png and NAME.sigma.npy (float32 [H,W], 8-bit levels) for each picture, and
    NAME.draw.png, the reconstruction with a drawn residual, if the temperature is above 0.

    Args:
        model: run folder or exported folder.
        input: an image file, a folder or a zip of images.
        out: folder to write.
        temperature: size of the drawn residual: 0 for none, 1 for a fair draw from the predicted distribution.
        seed: seed of the drawn residual.
    """
    from jeppa.pictures import reconstruct_files
    from jeppa.pipeline import load_model

    for name in reconstruct_files(load_model(model), input, out, temperature, seed):
        say(name)


def generate(
    *,
    model: Path,
    out: Path,
    number: Annotated[int, Parameter(name=["--number", "-n"])] = 16,
    steps: int = 25,
    eta: float = 0.0,
    guidance: float = 1.0,
    label: str | None = None,
    resolution: int | None = None,
    seed: int = 0,
) -> None:
    """Draw pictures by latent DDIM; each PNG carries its settings.

    Args:
        model: run folder of a denoiser.
        out: folder to write.
        number: how many pictures; picture i has seed SEED + i.
        steps: DDIM steps.
        eta: 0 (deterministic) to 1 (fresh noise in each step).
        guidance: weight of classifier-free guidance; 1 is none.
        label: class name, for a model with classes.
        resolution: side in pixels, a multiple of 8; the training resolution unless given.
        seed: seed of the first picture.
    """
    from jeppa.pictures import generate_files
    from jeppa.pipeline import SamplerSettings, load_model

    values = {"steps": steps, "eta": eta, "guidance": guidance, "label": label, "resolution": resolution}
    settings = parse(SamplerSettings, values, "flags")
    say(str(generate_files(load_model(model), out, number, seed, settings)))


def interpolate(*, model: Path, a: Path, b: Path, out: Path, frames: int = 9, resolution: int = 256) -> None:
    """Walk in a straight line between the latents of two pictures.

    Writes the frames, a contact sheet and an animation.

    Args:
        model: run folder or exported folder.
        a: first picture.
        b: second picture.
        out: folder to write.
        frames: how many, both ends included.
        resolution: side of the frames in pixels, a multiple of 8.
    """
    from jeppa.pictures import interpolate_files
    from jeppa.pipeline import load_model

    say(str(interpolate_files(load_model(model), a, b, out, frames, resolution)))
