"""The command line: parse, make one library call, print. `jeppa --help` lists the commands.

Exit codes: 0 done, 2 bad usage or input (one line), 1 a failure of ours, 130 or 143 after a signal.

The commands that mix pictures and that measure are in this file; those that train models, reconstruct and generate are
in `jeppa.cli.core`. Each command imports what it needs when it runs, so that `jeppa --help` does not wait for torch.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts

from jeppa.cli.adapt import adapt
from jeppa.cli.core import (
    Flat,
    MaybeWhole,
    Speed,
    Whole,
    complain,
    console,
    flags_of,
    generate,
    open_model,
    parse_flags,
    reconstruct,
    say,
    say_skipped,
    train_app,
)
from jeppa.cli.exchange import export
from jeppa.cli.scale import encode
from jeppa.config import DDIMSettings, parse
from jeppa.errors import ConfigError, DataError, JeppaError
from jeppa.files import check_out_file, check_out_folder

if TYPE_CHECKING:
    from jeppa.config import DataConfig
    from jeppa.data import ImageSource
    from jeppa.data.splits import Split

    MorphFlags = Any
else:
    MorphFlags = flags_of("MorphFlags", DDIMSettings)


def interpolate(
    *,
    model: Path,
    a: Path,
    b: Path,
    out: Path,
    frames: Whole = 9,
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
    check_out_folder(out)
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
    check_out_folder(out)
    from jeppa.outputs import mix_files

    settings = parse_flags(flags, DDIMSettings)
    say(str(mix_files(open_model(model, precision), a, b, out, share, [method] if method else [], settings)))


def models() -> None:
    """List the models that come with jeppa; `--model NAME` takes each of them, offline."""
    from jeppa.shipped import SHIPPED

    for model in SHIPPED:
        figures = ", ".join(f"{name} {value:g}" for name, value in model.figures.items())
        beside = "" if model.vae == model.name else f", on the latents of {model.vae}"
        say(f"{model.name}: {model.about}")
        say(f"  {model.kind}{beside}, {model.parameters / 1e6:.2f} M parameters, {model.megabytes:.1f} MB")
        say(f"  trained on {model.data} ({model.licence})")
        say(f"  on held-out pictures: {figures}")
        say(f"  card: {model.folder / 'README.md'}")


SPOKEN = (
    "psnr", "ssim", "delta_e2000", "lpips_alex", "elbo_bpd", "rate_bpd", "webp_bpd", "ence", "ence_constant", "ause",
    "ause_sobel", "sigma_error_spearman", "coverage_90", "chi2",
)  # fmt: skip


SplitChoice = Literal["auto", "heldout", "train", "all"]


def run_evaluate(
    *,
    model: Path,
    data: str,
    out: Path,
    resolution: MaybeWhole = None,
    split: SplitChoice = "auto",
    max_unreadable: float = 0.01,
    names_encoding: str | None = None,
) -> None:
    """Measure a VAE on images it was not trained on; writes metrics.json and prints the main figures.

    Args:
        model: run folder, exported folder, name of a shipped model, or VAE of diffusers or LDM.
        data: folder, zip file or builtin:photos.
        out: JSON file to write.
        resolution: side of the centred square to measure; whole images unless given.
        split: heldout, train or all; auto takes all, but heldout of the data that the model was trained on and of
            builtin:photos.
        max_unreadable: largest share of images that may be unreadable and are left out, 0 to 1.
        names_encoding: code page of the names in a zip that does not say it, such as cp866.
    """
    check_out_file(out)
    from jeppa.lab.evaluate import evaluate, write_metrics
    from jeppa.pipeline import load_model

    loaded = load_model(model)
    if loaded.lacks_sigma is not None:
        say(f"{loaded.lacks_sigma}; its sigma figures below are those of a sigma of 127.5 levels")
    source = _open_for_measuring(model, data, split, max_unreadable, names_encoding)
    evaluation = evaluate(loaded.codec.vae, source, resolution, str(model))
    write_metrics(evaluation, out)
    say(f"measured {evaluation.metrics['n_images']} images")
    say(f"{'figure':<22}{'mean':>12}  95 % interval")
    for key in SPOKEN:
        say(_figure_line(key, evaluation.metrics))
    say(f"metrics: {out}")


def _figure_line(key: str, metrics: dict[str, Any]) -> str:
    """One row of the table: a figure and its interval, or why it has none."""
    value, ends = metrics[key], metrics[f"{key}_ci95"]
    if value is None:
        return f"{key:<22}{'-':>12}  {metrics['reasons'][key]}"
    interval = "" if ends[0] is None else f"{ends[0]:.6g} to {ends[1]:.6g}"
    return f"{key:<22}{value:>12.6g}  {interval}".rstrip()


def _open_for_measuring(
    model: Path, data: str, split: SplitChoice, max_unreadable: float, names_encoding: str | None
) -> "ImageSource":
    """The images to measure on; says which, and why."""
    from jeppa.data import open_source

    reason = ""
    chosen: Split = "all" if split == "auto" else split
    trained = _find_training(model, data, max_unreadable, names_encoding) if split == "auto" else None
    if trained is not None and trained.heldout == "none":
        reason = ", and the model was trained on each: the figures do not tell how it does on others"
    elif trained is not None:
        chosen, reason = "heldout", ", as the model was trained on this data"
    elif split == "auto" and data.startswith("builtin:"):
        chosen = "heldout"
    source = open_source(data, chosen, max_unreadable, names_encoding)
    say_skipped(source)
    say(f"images: {len(source)}, {'all of them' if chosen == 'all' else f'the {chosen} split'}{reason}")
    return source


def _find_training(model: Path, data: str, max_unreadable: float, names_encoding: str | None) -> "DataConfig | None":
    """The data settings of a run folder that was trained on `data`, by the fingerprint of its images; else None.

    A folder that was changed since then is recognised by its path.
    """
    from jeppa.checkpoint import newest_checkpoint
    from jeppa.config import load_run
    from jeppa.data import open_data

    if not (model / "config.yaml").is_file():
        return None
    own = load_run(model / "config.yaml").data
    if own.data == data or (Path(own.data).exists() and Path(data).exists() and Path(own.data).samefile(data)):
        return own
    checkpoint, _ = newest_checkpoint(model)
    known = checkpoint.manifest().get("data") if checkpoint is not None else None
    if not isinstance(known, dict):
        return None
    given = {"data": data, "max_unreadable": max_unreadable, "names_encoding": names_encoding}
    try:
        source = open_data(own.model_copy(update=given), "train")
    except DataError:
        return None  # it has no training images at all
    return own if source.fingerprint == known.get("fingerprint") else None


def run_calibrate(
    *,
    model: Path,
    data: str,
    out: Path,
    resolution: MaybeWhole = None,
    split: SplitChoice = "auto",
    max_unreadable: float = 0.01,
    names_encoding: str | None = None,
) -> None:
    """Fit the size of sigma to images and export the model with it; reconstructions stay as they are.

    Choose images of the kind that the model will be used on and was not trained on, at the size that they will have. A
    rising curve takes the place of what an earlier calibration left.

    Args:
        model: run folder, exported folder or shipped name of a VAE with a sigma head.
        data: folder, zip file or builtin:photos.
        out: folder to write; opens like the run folder.
        resolution: side of the centred square of each image; whole images unless given.
        split: heldout, train or all; auto takes all, but heldout of the data that the model was trained on and of
            builtin:photos.
        max_unreadable: largest share of images that may be unreadable and are left out, 0 to 1.
        names_encoding: code page of the names in a zip that does not say it, such as cp866.
    """
    check_out_folder(out)
    from jeppa.files import make_folder
    from jeppa.lab.recalibrate import calibrate
    from jeppa.pipeline import load_model

    codec = load_model(model).codec
    source = _open_for_measuring(model, data, split, max_unreadable, names_encoding)
    factor = calibrate(codec.vae, [(source, resolution)])
    make_folder(out)
    codec.save(out)
    say(f"sigma: times {factor:.2f} in the middle, a curve fitted on {len(source)} images")
    say(f"model: {out}")


def run_compare(
    *,
    data: str,
    out: Path,
    arms: str = "fixed,shared,nll,beta-nll,faithful",
    seeds: str = "0,1,2",
    steps: Whole = 2000,
    preset: str = "small",
    resolution: Whole = 64,
    batch_size: Whole = 8,
    images: Whole = 96,
    evaluate_at: MaybeWhole = None,
    jobs: MaybeWhole = None,
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
    check_out_folder(out, data)
    from jeppa.lab.compare import ComparisonSettings, compare
    from jeppa.lab.compare.run import count_cores

    values = {
        "data": data, "arms": _split_list(arms), "seeds": _split_list(seeds), "steps": steps, "preset": preset,
        "resolution": resolution, "batch_size": batch_size, "images": images, "evaluate_at": evaluate_at,
    }  # fmt: skip
    comparison = parse(ComparisonSettings, values, "flags")
    command = f"jeppa compare {' '.join(sys.argv[2:])}" if sys.argv[1:2] == ["compare"] else ""
    say(f"report: {compare(comparison, out, console, jobs or count_cores(), command)}")


def studio(
    *,
    model: list[Path] | None = None,
    port: MaybeWhole = None,
    language: Literal["en", "ru"] | None = None,
    precision: Speed = "auto",
) -> None:
    """Open the studio, a web page on this machine to look, generate, blend, paint and train.

    Args:
        model: run folder, exported folder or shipped name to offer first; give it several times for several.
        port: to listen at on 127.0.0.1; 7860 or any free one unless given.
        language: of the page until another is chosen there; the browser's own unless given.
        precision: auto takes the number format that was measured to be fastest on this machine; exact is float32.
    """
    missing = [name for name in ("gradio", "fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the studio needs {', '.join(missing)}: pip install 'jeppa[studio]', or make studio")
    from jeppa.shipped import SHIPPED
    from jeppa.studio.first import FirstLook

    given = [str(one) for one in model or []]
    with FirstLook(given[0] if given else SHIPPED[0].name, precision) as first:
        from jeppa.studio.server import serve  # reads gradio, while the other process reads torch

        serve(given, port, language, precision, first)


def bench(
    *, out: Path = Path("bench.json"), only: str = "sd,training,sampling,growth", alternations: Whole = 5
) -> None:
    """Time jeppa beside diffusers as it comes, on this machine; writes JSON and, beside it, a Markdown table.

    Args:
        out: JSON file to write.
        only: which of sd, training, sampling and growth, separated by commas.
        alternations: timed pairs of each comparison.
    """
    check_out_file(out)
    if out.suffix == ".md":
        raise ConfigError(
            f"{out}: is the name of the table that is written beside the JSON; use --out {out.with_suffix('.json')}"
        )
    from jeppa.lab.bench import run_benches

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    command = f"{f'ONEDNN_MAX_CPU_ISA={limit} ' if limit else ''}jeppa {' '.join(sys.argv[1:])}"
    for row in run_benches(_split_list(only), alternations, out, command):
        say(f"{row.name}: {row.ratio:.3g} [{row.ratio_min:.3g}, {row.ratio_max:.3g}]  {row.note}")
    say(f"table: {out.with_suffix('.md')}")


def _split_list(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


app = cyclopts.App(
    name="jeppa",
    help="Train, evaluate and use heteroscedastic VAEs for latent diffusion.",
    result_action="return_value",
)
app.command(train_app)
app.command(encode)
for command in (
    adapt,
    reconstruct,
    generate,
    interpolate,
    mix,
    studio,
    run_evaluate,
    run_calibrate,
    run_compare,
    bench,
    export,
    models,
):
    app.command(command, name=command.__name__.removeprefix("run_"))


@app.command
def demo(*, out: Path = Path("demo"), seed: Whole = 0) -> None:
    """Train small models on built-in photographs and show what they do in OUT/report.html.

    Args:
        out: folder to write; a demo that was stopped goes on where it was.
        seed: seed of everything.
    """
    check_out_folder(out)
    from jeppa.lab.demo import run_demo

    say(f"report: {run_demo(out, seed, console)}")


def check_values(arguments: Sequence[str]) -> None:
    """Refuse an empty value of a flag: as a path it would be the current folder, and nobody means that.

    Raises:
        ConfigError: names the flag.
    """
    for before, value in zip(("", *arguments), arguments, strict=False):
        name, equals, given = value.partition("=")
        if not value.strip() or (name.startswith("--") and equals and not given.strip()):
            flag = before if not value.strip() else name
            raise ConfigError(f"{flag or 'the first word'} is empty; give it a value, or leave it out")


def main() -> None:
    """Run the command line and exit with the documented code."""
    # Read when torch loads OpenMP, which is later. Threads that wait for one another would otherwise spin, which takes
    # the cores away from those that they wait for as soon as two programs share them: results/threads.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code instead of raising for anything that a user can cause."""
    try:
        check_values(arguments)
        app(arguments, exit_on_error=False, print_error=False)
    except (JeppaError, cyclopts.CycloptsError) as error:
        return complain(error, 2)
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        from jeppa.machine import lacks_memory
        from jeppa.train import Interrupted

        if isinstance(error, Interrupted):
            return complain(error, 128 + error.signal_number)
        if isinstance(error, OSError) and error.filename is not None:
            name = os.fsdecode(error.filename)
            return complain(JeppaError(f"{name}: {error.strerror}; check the name, its rights and free space"), 2)
        if lacks_memory(error):
            return complain(JeppaError("memory runs short: free some, or ask for smaller pictures or fewer at once"), 2)
        raise
    return 0
