"""`jeppa reconstruct` and `generate`: pictures in and out of a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from jeppa.cli.opening import Speed, opened
from jeppa.cli.terminal import say
from jeppa.config import parse
from jeppa.flags import flags_of, given
from jeppa.sampling import SamplerSettings

if TYPE_CHECKING:
    SamplerFlags = Any
else:
    SamplerFlags = flags_of("SamplerFlags", SamplerSettings)


def reconstruct(
    *,
    model: Path,
    input: Path,
    out: Path,
    temperature: float = 0.0,
    seed: int = 0,
    precision: Speed = "auto",
) -> None:
    """Reconstruct pictures and draw their sigma maps.

    Writes NAME.recon.png, NAME.sigma.png and NAME.sigma.npy (float32 [H,W], 8-bit levels) for each picture, and
    NAME.draw.png, the reconstruction with a drawn residual, if the temperature is above 0.

    Args:
        model: run folder, exported folder or name of a shipped model.
        input: an image file, a folder or a zip of images.
        out: folder to write.
        temperature: size of the drawn residual: 0 for none, 1 for a fair draw from the predicted distribution.
        seed: seed of the drawn residual.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.pictures import reconstruct_files

    for name in reconstruct_files(opened(model, precision), input, out, temperature, seed):
        say(name)


def generate(
    *,
    model: Path,
    out: Path,
    number: Annotated[int, Parameter(name=["--number", "-n", "--n"])] = 16,
    seed: int = 0,
    keep: float = 1.0,
    mask: Path | None = None,
    previews: bool = False,
    precision: Speed = "auto",
    flags: Annotated[SamplerFlags | None, Parameter(name="*")] = None,
) -> None:
    """Draw pictures by latent DDIM; each PNG carries its settings and the denoiser's uncertainty of it.

    Args:
        model: run folder or exported folder of a denoiser, or name of a shipped one.
        out: folder to write.
        number: how many pictures to keep.
        seed: seed of the first picture; the next ones count up.
        keep: share of the drawn pictures to keep, the least uncertain ones; the others go to OUT/rejected.
        mask: greyscale picture of the size of those made: learned variance at full temperature where it is white, plain
            DDIM where it is black.
        previews: write OUT/steps, the first 16 pictures (fewer above 512 pixels) as they form, beside their sigma
            maps.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.pictures import generate_files

    settings = parse(SamplerSettings, given(flags, SamplerSettings), "flags")
    say(str(generate_files(opened(model, precision), out, number, seed, settings, keep, mask, previews)))
