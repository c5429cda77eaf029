"""`jeppa train vae` and `jeppa train diffusion`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from jeppa.cli.terminal import console, say, say_skipped
from jeppa.config import DiffusionRun, Settings, VAERun, parse
from jeppa.flags import flags_of, given, merged
from jeppa.strict_yaml import read_yaml

# As in `jeppa.train.changes`, which would import torch.
Change = Literal["settings", "data"]

if TYPE_CHECKING:
    VAEFlags = Any
    DiffusionFlags = Any
else:
    VAEFlags = flags_of("VAEFlags", VAERun, leave_out=frozenset({"kind", "model"}))
    DiffusionFlags = flags_of("DiffusionFlags", DiffusionRun, leave_out=frozenset({"kind", "vae", "model"}))

Flat = Parameter(name="*")
train_app = cyclopts.App(name="train", help="Train a VAE, or a denoiser on its latents.")


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
    # Before the imports, which take seconds: a wrong setting is told at once.
    settings = parse(VAERun, _values(VAERun, flags, config, out, resume), str(config or "flags"))
    from jeppa.progress import follow
    from jeppa.train import VAEObjective, train

    objective = VAEObjective(settings, init)
    say_skipped(objective.source)
    follow("vae", train(objective, settings, out, resume, allow_change or ()), console)
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
    values = _values(DiffusionRun, flags, config, out, resume)
    own = vae or values.get("vae") or values.get("denoiser") or init
    values |= {} if own is None else {"vae": str(own)}
    asked = parse(DiffusionRun, values, str(config or "flags"))
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import DiffusionObjective, like_denoiser, train, with_classes

    settings = with_classes(like_denoiser(asked, init))
    objective = DiffusionObjective(settings, load_model(Path(settings.vae)).codec, init)
    say_skipped(objective.source)
    follow("diffusion", train(objective, settings, out, resume, allow_change or ()), console)
    say(f"run folder: {out}")


def _values(model: type[Settings], flags: Any, config: Path | None, out: Path, resume: bool) -> dict[str, Any]:
    """Settings of a run: the saved ones on resume, else those of the file, with the given flags on top."""
    saved = out / "config.yaml"
    source = config or (saved if resume and saved.is_file() else None)
    base = {} if source is None else read_yaml(source)
    over = given(flags, model)
    if "preset" in over:
        base.pop("model", None)
    return merged(base, over)
