"""`jeppa train`, `reconstruct` and `generate`; and what all commands share: flags, opening a model, printing.

Each field of a settings class in `jeppa.config` becomes one flag, with its description as help. A flag that the user
leaves out stays None, so that the configuration file, the run that is resumed or the default of the field decides.
cyclopts could take the settings classes themselves as parameters. But then a field without a default must be a flag
even if the configuration file has it, and a wrong value is reported in several lines that pydantic wrote.
"""

import dataclasses
import os
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import cyclopts
from cyclopts import Parameter, Token
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from jeppa.config import PRESETS, DiffusionRun, S, SamplerSettings, Settings, TextureRun, VAERun, parse
from jeppa.errors import ConfigError, TrainingError
from jeppa.files import check_out_folder, read_yaml

if TYPE_CHECKING:
    from jeppa.data import ImageSource
    from jeppa.pipeline import Model

Values = dict[str, Any]


def flags_of(name: str, model: type[Settings], leave_out: frozenset[str] = frozenset()) -> Any:
    """A dataclass with one optional field for each plain field of `model` and of the settings inside it.

    Args:
        name: name of the dataclass.
        model: the settings class; settings inside it are flattened.
        leave_out: fields of `model` that become no flags.
    """
    fields: list[tuple[str, Any, Any]] = []
    for key, info in model.model_fields.items():
        if key in leave_out:
            continue
        inner = _inner_settings(info)
        if inner is None:
            fields.append((key, _optional(info, info.get_default(call_default_factory=False)), None))
            continue
        defaults = info.get_default()
        fields += [(k, _optional(i, getattr(defaults, k)), None) for k, i in inner.model_fields.items()]
    flags = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    flags.__module__ = __name__  # The default, "types", makes cyclopts take it for a built-in without fields.
    return flags


def nest_flags(flags: Any, model: type[Settings]) -> Values:
    """The flags that the user set, nested as the fields of `model` are."""
    values = {} if flags is None else {k: v for k, v in vars(flags).items() if v is not None}
    nested: Values = {}
    for key, info in model.model_fields.items():
        inner = _inner_settings(info)
        if inner is None and key in values:
            nested[key] = values[key]
        elif inner is not None:
            part = {k: values[k] for k in inner.model_fields if k in values}
            nested |= {key: part} if part else {}
    return nested


def parse_flags(flags: Any, model: type[S]) -> S:
    """The settings that the flags of a command without a configuration file spell.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
    """
    return parse(model, nest_flags(flags, model), "flags")


def merge(base: Values, overrides: Values) -> Values:
    """A copy of `base` in which the entries of `overrides` replace those of the same name, mapping by mapping."""
    result = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def _inner_settings(info: FieldInfo) -> type[Settings] | None:
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """Convert the value of a flag, but never round: 1.9 is not 2.

    Raises:
        ValueError: it is no whole number; cyclopts puts the flag before the message.
    """
    value = tokens[0].value.strip()
    if not re.fullmatch(r"[+-]?\d+", value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


Whole = Annotated[int, Parameter(converter=_whole_number)]
MaybeWhole = Annotated[int | None, Parameter(converter=_whole_number)]


def _optional(info: FieldInfo, default: Any) -> Any:
    shown = "" if default in (None, PydanticUndefined) else f" [default: {default}]"
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, types.UnionType) else ()
    kind = Union[tuple({*kinds, type(None)})] if kinds else Union[info.annotation, None]  # noqa: UP007
    # cyclopts itself would round 8.7 to 9.
    converter = _whole_number if int in (info.annotation, *kinds) else None
    return Annotated[kind, Parameter(help=f"{info.description}{shown}", converter=converter)]


console = Console(quiet=int(os.environ.get("RANK") or 0) > 0)
"""Of processes that train together, the first one speaks."""


def say(line: str) -> None:
    """Print one line as it is, but for what the terminal cannot show, such as bytes of a name that are not UTF-8."""
    console.print(_printable(line, console), markup=False, highlight=False, soft_wrap=True)


def _printable(line: str, where: Console) -> str:
    return line.encode(where.encoding, "backslashreplace").decode(where.encoding)


def say_skipped(source: "ImageSource") -> None:
    """Print how many files of a source are not used, the reason for each, and what else is to be known of it."""
    for note in source.notes:
        say(note)
    if source.skipped:
        say(f"skipped {len(source.skipped)} files beside {len(source)} images:")
    for skipped in source.skipped:
        say(f"  {skipped.name}: {skipped.reason}")


def complain(error: BaseException, code: int) -> int:
    """Print an error as one line on standard error; returns `code`.

    Processes that train together have one input, so of each machine's processes the first one complains of it; of what
    happened to it while it trained, each does.
    """
    if int(os.environ.get("LOCAL_RANK") or 0) > 0 and not isinstance(error, TrainingError):
        return code
    line, errors = f"jeppa: {' '.join(str(error).split())}", Console(stderr=True)
    errors.print(_printable(line, errors), markup=False, highlight=False, soft_wrap=True)
    return code


Speed = Literal["auto", "exact"]


def open_model(path: Path, precision: Speed, vae: Path | None = None) -> "Model":
    """Load the model of a folder or shipped name, on the GPU if there is one, and print how its nets run.

    Args:
        path: run folder, exported folder, name of a shipped model, or VAE of others.
        precision: auto for the number format that is fastest on this machine, exact for float32.
        vae: a VAE to use in place of the model's own.
    """
    import torch

    from jeppa.pipeline import load_model

    model = load_model(path, precision, "cuda" if torch.cuda.is_available() else "cpu", vae)
    for note in model.notes:
        say(note)
    return model


Flat = Parameter(name="*")
if TYPE_CHECKING:
    DiffusionFlags = Any
    SamplerFlags = Any
    TextureFlags = Any
    VAEFlags = Any
else:
    DiffusionFlags = flags_of("DiffusionFlags", DiffusionRun, leave_out=frozenset({"kind", "vae", "model"}))
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
    seed: Whole = 0,
    names_encoding: str | None = None,
    precision: Speed = "auto",
) -> None:
    """Reconstruct pictures and draw their sigma maps. One that cannot be read is listed, and the others are made.

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
        names_encoding: code page of the names in a zip that does not say it, such as cp866.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    check_out_folder(out, input)
    from jeppa.outputs import reconstruct_files

    opened = open_model(model, precision)
    for line in reconstruct_files(opened, input, out, temperature, seed, texture, names_encoding):
        say(line)


def generate(
    *,
    model: Path,
    out: Path,
    number: Annotated[Whole, Parameter(name=["--number", "-n", "--n"])] = 16,
    seed: Whole = 0,
    vae: Path | None = None,
    keep: float = 1.0,
    mask: Path | None = None,
    texture: float = 0.0,
    previews: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: MaybeWhole = None,
    shard: MaybeWhole = None,
    precision: Speed = "auto",
    flags: Annotated[SamplerFlags | None, Flat] = None,
) -> None:
    """Draw pictures by latent DDIM; each PNG carries its settings and the denoiser's uncertainty of it.

    Args:
        model: run folder or exported folder of a denoiser, or name of a shipped one.
        out: folder to write.
        number: how many pictures to keep.
        seed: seed of the first picture; the next ones count up.
        vae: VAE with the same latents to decode with, such as one tuned with --frozen encoder; the model's own unless
            given.
        keep: share of the drawn pictures to keep, the least uncertain ones; the others go to OUT/rejected.
        mask: greyscale picture of the size of those made: learned variance at full temperature where it is white, plain
            DDIM where it is black.
        texture: how many sigma the texture may add to a pixel: 0 for none; needs a VAE with a texture head.
        previews: write OUT/steps, the first 16 pictures (fewer above 512 pixels) as they form, beside their sigma
            maps.
        engine: ray makes the pictures on the cluster of RAY_ADDRESS, or on a local one that it starts. This, --workers
            and --shard make them one at a time in float32, so that each depends on its seed alone, without a sheet;
            the same command goes on where it was stopped.
        workers: how many processes make pictures, each with one thread.
        shard: pictures in a webdataset shard, which are written instead of PNG files.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    check_out_folder(out)
    from jeppa.outputs import generate_files

    settings = parse_flags(flags, SamplerSettings)
    if engine == "ray" or workers is not None or shard is not None:
        if keep < 1.0 or mask is not None or previews or vae is not None:
            raise ConfigError(
                "keep, mask, previews and vae do not go with engine ray, workers or shard: leave them out"
            )
        from jeppa.cli.scale import generate_rows

        generate_rows(model, out, number, seed, settings, texture, engine, workers, shard)
        return
    opened = open_model(model, precision, vae)
    say(str(generate_files(opened, out, number, seed, settings, keep, mask, previews, texture)))


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
        init: VAE to start from: exported folder, run folder, shipped name, AutoencoderKL or AutoencoderTiny of
            diffusers, pipeline folder, or .safetensors file; its architecture is the default.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
        allow_change: go on although the settings (never those of the model) or the data are not those of the run.
    """
    values = like_init(_collect_settings(VAERun, flags, config, out, resume), init)
    # Before the imports, which take seconds: a wrong setting gets its message at once.
    settings = parse(VAERun, values, str(config or "flags"))
    check_out_folder(out, settings.data.data)
    from jeppa.progress import follow
    from jeppa.train import VAEObjective, train

    objective = VAEObjective(settings, init)
    say_skipped(objective.data.source)
    follow("vae", train(objective, out, resume, allow_change or ()), console)
    latents = objective.describe_latents()
    if latents is not None:
        say(latents)
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
    latents = values.get("latents")
    if latents is not None:
        from jeppa.scale.latents import fill_from_latents

        values = merge(fill_from_latents(Path(latents)), values)
    asked = parse(DiffusionRun, values, str(config or "flags"))
    check_out_folder(out, asked.data.data)
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import DiffusionObjective, like_denoiser, train, with_classes

    codec = load_model(Path(asked.vae)).codec
    if latents is None:
        settings, stored = with_classes(like_denoiser(asked, init)), None
    else:
        from jeppa.scale.latents import settle_latents

        settings, stored = settle_latents(like_denoiser(asked, init), codec)
    objective = DiffusionObjective(settings, codec, init, stored)
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
    check_out_folder(out, settings.data.data)
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import TextureObjective, train

    objective = TextureObjective(settings, load_model(Path(settings.vae)).codec)
    say_skipped(objective.data.source)
    follow("texture", train(objective, out, resume, allow_change or ()), console)
    say(f"run folder: {out}")


def like_init(values: Values, init: Path | None) -> Values:
    """`values` with the architecture of the VAE that training starts from, unless they name one.

    Raises:
        CheckpointError: `init` is no VAE.
    """
    if init is None or "preset" in values or "model" in values:
        return values
    from jeppa.shipped import find_shipped
    from jeppa.vae import describe_vae

    shipped = find_shipped(init)
    model = describe_vae(init if shipped is None else shipped.vae)
    preset = next((name for name, known in PRESETS.items() if known == model), None)
    return {**values, "preset": preset, "model": model.model_dump(mode="json")}


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
