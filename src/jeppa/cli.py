"""The command line: parse, make one library call, print. `jeppa --help` lists the commands.

Exit codes: 0 done, 2 bad usage or input (one line), 1 a failure of ours, 130 or 143 after a signal.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from jeppa.config import DiffusionRun, Settings, VAERun, parse, read_yaml
from jeppa.errors import JeppaError
from jeppa.flags import flags_of, given, merged

if TYPE_CHECKING:
    from jeppa.data import ImageSource

    VAEFlags = Any
    DiffusionFlags = Any
else:
    VAEFlags = flags_of("VAEFlags", VAERun, leave_out=frozenset({"kind", "model"}))
    DiffusionFlags = flags_of("DiffusionFlags", DiffusionRun, leave_out=frozenset({"kind", "vae", "model"}))

SPOKEN = (
    "psnr", "ssim", "delta_e2000", "lpips_alex", "elbo_bpd", "rate_bpd", "webp_bpd", "ence", "ence_constant", "ause",
    "ause_sobel", "sigma_error_spearman", "coverage_90", "chi2",
)  # fmt: skip
Flat = Parameter(name="*")
console = Console()
app = cyclopts.App(
    name="jeppa",
    help="Train, evaluate and use heteroscedastic VAEs for latent diffusion.",
    result_action="return_value",
)
train_app = cyclopts.App(name="train", help="Train a VAE, or a denoiser on its latents.")
app.command(train_app)


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Train small models on built-in photographs and show what they do in OUT/report.html.

    Args:
        out: folder to write; a demo that was stopped goes on where it was.
        seed: seed of everything.
    """
    from jeppa.demo import run_demo

    say(f"report: {run_demo(out, seed, console)}")


@train_app.command(name="vae")
def train_vae(
    *,
    out: Path,
    config: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    flags: Annotated[VAEFlags | None, Flat] = None,
) -> None:
    """Train a heteroscedastic VAE on images.

    Args:
        out: run folder to write.
        config: YAML file with settings; flags win over it.
        init: exported folder or run folder of a VAE to start from.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
    """
    from jeppa.progress import follow
    from jeppa.train import VAEObjective, train

    settings = parse(VAERun, _values(VAERun, flags, config, out, resume), str(config or "flags"))
    objective = VAEObjective(settings, init)
    say_skipped(objective.source)
    follow("vae", train(objective, settings, out, resume), console)
    say(f"run folder: {out}")


@train_app.command(name="diffusion")
def train_diffusion(
    *,
    out: Path,
    vae: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
    flags: Annotated[DiffusionFlags | None, Flat] = None,
) -> None:
    """Train a latent denoiser on the latents of a trained VAE.

    Args:
        out: run folder to write.
        vae: run folder of the VAE; needed unless the settings name it.
        config: YAML file with settings; flags win over it.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
    """
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import DiffusionObjective, train, with_classes

    values = _values(DiffusionRun, flags, config, out, resume)
    values |= {} if vae is None else {"vae": str(vae)}
    settings = parse(DiffusionRun, values, str(config or "flags"))
    settings = with_classes(settings)
    objective = DiffusionObjective(settings, load_model(Path(settings.vae)).codec)
    say_skipped(objective.source)
    follow("diffusion", train(objective, settings, out, resume), console)
    say(f"run folder: {out}")


@app.command
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


@app.command
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


@app.command
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


@app.command
def evaluate(*, model: Path, data: str, out: Path, resolution: int | None = None, split: str = "heldout") -> None:
    """Measure a VAE on images it was not trained on; writes metrics.json.

    Args:
        model: run folder or exported folder.
        data: folder, zip file or builtin:photos.
        out: JSON file to write.
        resolution: side of the centred square to measure; whole images unless given.
        split: heldout, train or all; say all for a folder that holds nothing but held-out images.
    """
    from jeppa.data import open_source
    from jeppa.evaluate import evaluate as measure
    from jeppa.evaluate import write_metrics
    from jeppa.pipeline import load_model

    loaded = load_model(model)
    source = open_source(data, split)  # type: ignore[arg-type]
    say_skipped(source)
    evaluation = measure(loaded.codec.vae, source, resolution, str(model))
    write_metrics(evaluation, out)
    reasons = evaluation.metrics["reasons"]
    for key in SPOKEN:
        value = evaluation.metrics[key]
        say(f"{key}: {f'not measured, {reasons[key]}' if value is None else value}")
    say(f"metrics: {out}")


@app.command
def calibrate(*, model: Path, data: str, out: Path, resolution: int | None = None, split: str = "heldout") -> None:
    """Fit the size of sigma to held-out images and export the model with it; reconstructions stay as they are.

    Args:
        model: run folder or exported folder of a VAE with a sigma head.
        data: folder, zip file or builtin:photos.
        out: folder to write; opens like the run folder.
        resolution: side of the centred square of each image; whole images unless given.
        split: heldout, train or all; say all for a folder that holds nothing but held-out images.
    """
    from jeppa.data import open_source
    from jeppa.evaluate.calibrate import calibrate as fit_sigma
    from jeppa.pictures import make_folder
    from jeppa.pipeline import load_model
    from jeppa.vae import save_folder

    codec = load_model(model).codec
    source = open_source(data, split)  # type: ignore[arg-type]
    say_skipped(source)
    found = fit_sigma(codec.vae, source, resolution)
    make_folder(out)
    save_folder(codec.vae, codec.stats.shift, codec.stats.scale, out)
    say(f"log-variance: slope {found.slope:.3f}, offset {found.offset:+.3f}, fitted on {len(source)} images")
    say(f"model: {out}")


@app.command
def compare(
    *,
    data: str,
    out: Path,
    arms: str = "fixed,shared,nll,beta-nll,faithful",
    seeds: str = "0,1,2",
    steps: int = 2000,
    preset: str = "small",
    resolution: int = 64,
    batch_size: int = 8,
    images: int = 96,
    evaluate_at: int | None = None,
    jobs: int | None = None,
) -> None:
    """Train several likelihoods at one budget and compare them in pairs.

    All arms get the same crops, steps and seeds, and beta is adapted until the latents of all cost the same rate.
    Writes compare.json, compare.html and a run folder for each arm and seed; a comparison that was stopped goes on,
    and more arms or seeds can be added later.

    Args:
        data: folder, zip file or builtin:photos.
        out: folder to write.
        arms: likelihoods, separated by commas, or with +lpips behind; shared, or else the first, is the reference.
        seeds: one run of each arm for each.
        steps: optimizer steps of each run.
        preset: architecture.
        resolution: side of a training crop in pixels.
        batch_size: crops in a step.
        images: measure on at most this many held-out pictures.
        evaluate_at: side of the centred square to measure; whole pictures unless given.
        jobs: runs at a time; one for each core unless given.
    """
    from jeppa.compare import Comparison
    from jeppa.compare import compare as run_comparison
    from jeppa.compare.run import default_jobs

    values = {
        "data": data, "arms": _listed(arms), "seeds": _listed(seeds), "steps": steps, "preset": preset,
        "resolution": resolution, "batch_size": batch_size, "images": images, "evaluate_at": evaluate_at,
    }  # fmt: skip
    comparison = parse(Comparison, values, "flags")
    command = f"jeppa compare {' '.join(sys.argv[2:])}" if sys.argv[1:2] == ["compare"] else ""
    say(f"report: {run_comparison(comparison, out, console, jobs or default_jobs(), command)}")


def main() -> None:
    """Run the command line and exit with the documented code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code instead of raising for anything that a user can cause."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (JeppaError, cyclopts.CycloptsError) as error:
        return complain(error, 2)
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        from jeppa.train import Interrupted

        if not isinstance(error, Interrupted):
            raise
        return complain(error, 128 + error.signal_number)
    return 0


def complain(error: BaseException, code: int) -> int:
    """Print an error as one line on standard error; returns `code`."""
    line = f"jeppa: {' '.join(str(error).split())}"
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    return code


def _listed(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def say(line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def say_skipped(source: "ImageSource") -> None:
    """Count and list what lies in a source but is not used."""
    if source.skipped:
        say(f"skipped {len(source.skipped)} files beside {len(source)} images:")
    for skipped in source.skipped:
        say(f"  {skipped.name}: {skipped.reason}")


def _values(model: type[Settings], flags: Any, config: Path | None, out: Path, resume: bool) -> dict[str, Any]:
    """Settings of a run: the saved ones on resume, else those of the file, with the given flags on top."""
    saved = out / "config.yaml"
    source = config or (saved if resume and saved.is_file() else None)
    base = {} if source is None else read_yaml(source)
    over = given(flags, model)
    if "preset" in over:
        base.pop("model", None)
    return merged(base, over)
