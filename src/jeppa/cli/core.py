"""`jeppa train`, `reconstruct`, `generate`, `interpolate` and `mix`: train models and make pictures with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from jeppa.cli.flags import Speed, console, flags_of, merge, nest_flags, open_model, parse_flags, say, say_skipped
from jeppa.config import DDIMSettings, DiffusionRun, SamplerSettings, Settings, TextureRun, VAERun, parse
from jeppa.files import read_yaml

Flat = Parameter(name="*")
if TYPE_CHECKING:
    DiffusionFlags = Any
    MorphFlags = Any
    SamplerFlags = Any
    TextureFlags = Any
    VAEFlags = Any
else:
    DiffusionFlags = flags_of("DiffusionFlags", DiffusionRun, leave_out=frozenset({"kind", "vae", "model"}))
    MorphFlags = flags_of("MorphFlags", DDIMSettings)
    SamplerFlags = flags_of("SamplerFlags", SamplerSettings)
    TextureFlags = flags_of("TextureFlags", TextureRun, leave_out=frozenset({"kind", "vae", "model"}))
    VAEFlags = flags_of("VAEFlags", VAERun, leave_out=frozenset({"kind", "model"}))


def reconstruct(
    *,
    model: Path,
    input: Path,
    out: Path,
    temperature: float = 0.0,
    texture: float = 0.0,
    seed: int = 0,
    precision: Speed = "auto",
) -> None:
    """Reconstruct pictures and draw their sigma maps.

    Writes NAME.recon.png, NAME.sigma.png and NAME.sigma.npy (float32 [H,W], 8-bit levels) for each picture. If the
    temperature is above 0, it writes NAME.draw.png too, the reconstruction with a drawn residual; if the texture is
    above 0, NAME.texture.png, the reconstruction with texture.

    Args:
        model: run folder, exported folder or name of a shipped model.
        input: an image file, a folder or a zip of images.
        out: folder to write.
        temperature: size of the drawn residual: 0 for none, 1 for a fair draw from the predicted distribution.
        texture: how many sigma the texture may add to a pixel: 0 for none; needs a VAE with a texture head.
        seed: seed of the drawn residual and of the texture.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.outputs import reconstruct_files

    for line in reconstruct_files(open_model(model, precision), input, out, temperature, seed, texture):
        say(line)


def generate(
    *,
    model: Path,
    out: Path,
    number: Annotated[int, Parameter(name=["--number", "-n", "--n"])] = 16,
    seed: int = 0,
    keep: float = 1.0,
    mask: Path | None = None,
    texture: float = 0.0,
    previews: bool = False,
    precision: Speed = "auto",
    flags: Annotated[SamplerFlags | None, Flat] = None,
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
        texture: how many sigma the texture may add to a pixel: 0 for none; needs a VAE with a texture head.
        previews: write OUT/steps, the first 16 pictures (fewer above 512 pixels) as they form, beside their sigma
            maps.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    from jeppa.outputs import generate_files

    settings = parse_flags(flags, SamplerSettings)
    opened = open_model(model, precision)
    say(str(generate_files(opened, out, number, seed, settings, keep, mask, previews, texture)))


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
    from jeppa.outputs import interpolate_files

    settings = parse_flags(flags, DDIMSettings)
    say(str(interpolate_files(open_model(model, precision), a, b, out, frames, method, settings)))


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
    from jeppa.outputs import mix_files

    settings = parse_flags(flags, DDIMSettings)
    say(str(mix_files(open_model(model, precision), a, b, out, share, [method] if method else [], settings)))


# As in `jeppa.train.run_folder`, which would import torch.
Change = Literal["settings", "data"]
train_app = cyclopts.App(name="train", help="Train a VAE, or on a trained VAE a denoiser or a texture head.")


@train_app.command(name="vae")
def train_vae(
    *,
    out: Path,
    config: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    allow_change: list[Change] | None = None,
    flags: Annotated[VAEFlags | None, Flat] = None,
) -> None:
    """Train a heteroscedastic VAE on images.

    Args:
        out: run folder to write.
        config: YAML file with settings; flags win over it.
        init: exported folder, run folder or shipped name of a VAE to start from.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
        allow_change: go on although the settings (never those of the model) or the data are not those of the run.
    """
    # Before the imports, which take seconds: a wrong setting gets its message at once.
    settings = parse(VAERun, _collect_settings(VAERun, flags, config, out, resume), str(config or "flags"))
    from jeppa.progress import follow
    from jeppa.train import VAEObjective, train

    objective = VAEObjective(settings, init)
    say_skipped(objective.data.source)
    follow("vae", train(objective, out, resume, allow_change or ()), console)
    say(f"run folder: {out}")


@train_app.command(name="diffusion")
def train_diffusion(
    *,
    out: Path,
    vae: Path | None = None,
    config: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    allow_change: list[Change] | None = None,
    flags: Annotated[DiffusionFlags | None, Flat] = None,
) -> None:
    """Train a latent denoiser on the latents of a trained VAE.

    Args:
        out: run folder to write.
        vae: run folder, exported folder or shipped name of the VAE; needed unless the settings name it or a trained
            denoiser.
        config: YAML file with settings; flags win over it.
        init: run folder, exported folder or shipped name of a denoiser to start from; its VAE is the default, and
            classes of the same name keep what it knows of them.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
        allow_change: go on although the settings (never those of the model) or the data are not those of the run.
    """
    values = _collect_settings(DiffusionRun, flags, config, out, resume)
    own = vae or values.get("vae") or values.get("denoiser") or init
    values |= {} if own is None else {"vae": str(own)}
    asked = parse(DiffusionRun, values, str(config or "flags"))
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import DiffusionObjective, like_denoiser, train, with_classes

    settings = with_classes(like_denoiser(asked, init))
    objective = DiffusionObjective(settings, load_model(Path(settings.vae)).codec, init)
    say_skipped(objective.data.source)
    follow("diffusion", train(objective, out, resume, allow_change or ()), console)
    say(f"run folder: {out}")


@train_app.command(name="texture")
def train_texture(
    *,
    out: Path,
    vae: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
    allow_change: list[Change] | None = None,
    flags: Annotated[TextureFlags | None, Flat] = None,
) -> None:
    """Train a texture head for a trained VAE, whose latents, mean and sigma stay as they are.

    Args:
        out: run folder to write.
        vae: run folder, exported folder or shipped name of the VAE; needed unless the settings name it.
        config: YAML file with settings; flags win over it.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
        allow_change: go on although the settings (never those of the model) or the data are not those of the run.
    """
    values = _collect_settings(TextureRun, flags, config, out, resume)
    values |= {} if vae is None else {"vae": str(vae)}
    settings = parse(TextureRun, values, str(config or "flags"))
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import TextureObjective, train

    objective = TextureObjective(settings, load_model(Path(settings.vae)).codec)
    say_skipped(objective.data.source)
    follow("texture", train(objective, out, resume, allow_change or ()), console)
    say(f"run folder: {out}")


def _collect_settings(
    model: type[Settings], flags: Any, config: Path | None, out: Path, resume: bool
) -> dict[str, Any]:
    """The settings of a run: those of `config`, or on resume those saved in `out`; flags replace either."""
    saved = out / "config.yaml"
    source = config or (saved if resume and saved.is_file() else None)
    base = {} if source is None else read_yaml(source)
    overrides = nest_flags(flags, model)
    if "preset" in overrides:
        base.pop("model", None)
    return merge(base, overrides)
