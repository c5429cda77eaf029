"""The demo: first pictures from the shipped models, two minutes of fine-tuning on photographs, samples, and a report.

Run it with `jeppa demo`. The same seed on the same machine gives the same weights and pictures. After a stop, the same
command continues the fine-tuning from its last checkpoint.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from jeppa.config import DataConfig, OptimConfig, VAERun
from jeppa.data import ImageSource, evaluation_images, open_source, write_png
from jeppa.data.images import contact_sheet, error_levels, reconstruction_rows, sigma_levels
from jeppa.files import make_folder, write_text_atomically
from jeppa.lab.contract import (
    REPORT_FILE,
    Calibration,
    Curves,
    Data,
    EstimatedPicture,
    Interpolation,
    Reconstruction,
    Report,
    ReportedArm,
    SampleRow,
    SavedPictures,
    Scene,
    write_saved,
)
from jeppa.lab.evaluate import Evaluation, evaluate, paired_differences, write_metrics
from jeppa.lab.recalibrate import calibrate
from jeppa.lab.report import write_report
from jeppa.lpips import WeightsError, load_lpips
from jeppa.machine import machine
from jeppa.pipeline import DDIMSettings, Model, SamplerSettings, between, even_shares, load_model
from jeppa.progress import follow
from jeppa.train import VAEObjective, train

DATA = "builtin:photos"
VAE, DENOISER = "small", "emoji"
SHIPPED, TUNED, CALIBRATED = "shipped", "tuned", "calibrated"
FIRST = "first-pictures.png"
FIRST_SIDE = 256
FIRST_SAMPLES = "first-samples.png"
FIRST_STEPS = 10
TITLES = {TUNED: f"{VAE}, fine-tuned and calibrated here", SHIPPED: f"{VAE}, as shipped"}

# There are only fourteen training photographs: without jitter the model memorises their colours and tints grey ones.
COLOUR_JITTER = 1.0
TUNING_STEPS = 500
PERCEPTUAL = 0.5
SAMPLE_STEPS = (5, 10, 25, 50)
GUIDANCE = 2.0
STRIP = 10
PATH_SIDE, PATH_FRAMES = 128, 9
PATH_ENDS = ("chelsea.png", "coffee.png")


def run_demo(out: Path, seed: int, console: Console) -> Path:
    """Run the whole demo and return the path of `report.html`.

    Raises:
        ConfigError: `out` cannot be written, or holds a demo of another seed or version.
    """
    make_folder(out)
    clock = Clock(out / "seconds.json")
    heldout = open_source(DATA, "heldout")
    with clock.measure("first pictures"):
        shipped, denoiser = load_model(VAE), load_model(DENOISER)
        _show_reconstructions(shipped, heldout, out / FIRST)
        _show_samples(denoiser, out / FIRST_SAMPLES)
    for first in (FIRST, FIRST_SAMPLES):
        console.print(f"first pictures: {out / first}", soft_wrap=True, highlight=False)
    arm = _fine_tune(shipped, out, seed, console, clock)
    with clock.measure("calibrate"):
        _calibrate(load_model(out / TUNED), out / CALIBRATED)
    models = {TUNED: load_model(out / CALIBRATED), SHIPPED: shipped}
    with clock.measure("evaluate"):
        measured = {name: _evaluate_model(model, heldout, out / name) for name, model in models.items()}
        reconstructions = _reconstruct(models, heldout, out)
    with clock.measure("generate"):
        samples, estimates = _sample(denoiser, out), _preview(denoiser, out)
        path = _interpolate(models[TUNED], heldout, out)
    report = Report(
        title="jeppa demo",
        command=f"jeppa demo --out {out} --seed {seed}",
        seed=seed,
        created=datetime.now(UTC).replace(microsecond=0),
        machine=machine(),
        seconds={**clock.seconds, "total": round(sum(clock.seconds.values()), 1)},
        data=_describe_data(heldout),
        arms=[
            arm,
            ReportedArm(arm=SHIPPED, title=TITLES[SHIPPED], run=SHIPPED, parameters=arm.parameters),
        ],
        leading=TUNED,
        reconstructions=reconstructions,
        calibration={name: _list_curves(evaluation) for name, evaluation in measured.items()},
        paired=_subtract_shipped(measured[TUNED], measured[SHIPPED]),
        samples=samples,
        sample_labels=list(denoiser.labels),
        sample_seeds=list(range(len(denoiser.labels))),
        estimates=estimates,
        interpolation=path,
    )
    write_saved(report, out / REPORT_FILE)
    return write_report(out)


class Clock:
    """Seconds spent on each part of the demo, kept in a file so that those before a stop count too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to `part`, even when it is interrupted."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - began, 1)
            write_text_atomically(self._path, json.dumps(self.seconds))


def _fine_tune(start: Model, out: Path, seed: int, console: Console, clock: Clock) -> ReportedArm:
    optim = OptimConfig(
        steps=TUNING_STEPS, batch_size=8, learning_rate=2e-4, warmup_steps=20, sample_every=TUNING_STEPS,
        save_every=TUNING_STEPS // 2, ema_decay=0.98,
    )  # fmt: skip
    data = DataConfig(data=DATA, colour_jitter=COLOUR_JITTER)
    likelihood = start.codec.vae.likelihood
    config = VAERun(
        seed=seed, likelihood=likelihood, frozen="encoder", perceptual=_weigh_lpips(console), optim=optim, data=data
    )
    with clock.measure("fine-tune"):
        objective = VAEObjective(config, Path(VAE))
        follow("fine-tune", train(objective, out / TUNED, resume=True), console)
    return ReportedArm(
        arm=TUNED,
        title=TITLES[TUNED],
        run=TUNED,
        steps=optim.steps,
        images=objective.data.images_seen(optim.steps),
        parameters=sum(parameter.numel() for parameter in objective.model.parameters()),
    )


def _calibrate(model: Model, folder: Path) -> None:
    """Fit the size of sigma to the photographs that the model was tuned on, and export the model."""
    calibrate(model.codec.vae, [(open_source(DATA, "train"), None)])
    make_folder(folder)
    model.codec.save(folder)


def _weigh_lpips(console: Console) -> float:
    """Weight of LPIPS in the loss; 0 where its weights are not installed."""
    try:
        load_lpips("alex")
    except WeightsError as error:
        console.print(f"fine-tuning without LPIPS: {error}", soft_wrap=True, highlight=False)
        return 0.0
    return PERCEPTUAL


def _show_reconstructions(model: Model, heldout: ImageSource, path: Path) -> None:
    """Write held-out photographs, their reconstructions and sigma maps as one sheet."""
    x = torch.stack([picture for _, picture in evaluation_images(heldout, FIRST_SIDE)])
    decoded = model.reconstruct(x)
    write_png(contact_sheet(reconstruction_rows(x, decoded.mean, decoded.logvar)), path)


def _show_samples(model: Model, path: Path) -> None:
    """Write two pictures of each class as one sheet; their seeds count from 0."""
    rows = []
    for row in range(2):
        pictures = []
        for column, label in enumerate(model.labels):
            settings = SamplerSettings(steps=FIRST_STEPS, guidance=GUIDANCE, label=label)
            pictures += [sample.x for sample in model.generate([row * len(model.labels) + column], settings)]
        rows.append(pictures)
    write_png(contact_sheet(rows), path)


def _evaluate_model(model: Model, heldout: ImageSource, folder: Path) -> Evaluation:
    make_folder(folder)
    evaluation = evaluate(model.codec.vae, heldout, None, str(model.path))
    write_metrics(evaluation, folder / "metrics.json")
    return evaluation


def _list_curves(evaluation: Evaluation) -> Calibration:
    curves = Curves.model_validate(evaluation.curves)
    assert curves.reliability is not None
    return Calibration(
        predicted=curves.reliability.predicted,
        observed=curves.reliability.observed,
        sparsification=curves.sparsification,
        pit=curves.pit,
    )


def _subtract_shipped(tuned: Evaluation, shipped: Evaluation) -> dict[str, tuple[float, float, float]]:
    """Mean and interval of what fine-tuning changed, for every figure of single pictures."""
    keys = [key for key in tuned.rows[0] if key != "name"]
    differences = paired_differences(tuned, shipped, keys)
    return {key: (difference.mean, difference.lo, difference.hi) for key, difference in differences.items()}


def _reconstruct(models: dict[str, Model], heldout: ImageSource, out: Path) -> list[Reconstruction]:
    folder = out / "reconstructions"
    make_folder(folder)
    reconstructions = []
    for name, x in evaluation_images(heldout, None):
        stem = Path(name).stem
        write_png(x, folder / f"{stem}.original.png")
        arms = {}
        for arm, model in models.items():
            decoded = model.reconstruct(x[None])
            write_png(decoded.mean[0], folder / f"{stem}.{arm}.recon.png")
            np.save(folder / f"{stem}.{arm}.sigma.npy", sigma_levels(decoded.logvar[0]))
            np.save(folder / f"{stem}.{arm}.error.npy", error_levels(x, decoded.mean[0]))
            base = f"reconstructions/{stem}.{arm}"
            arms[arm] = SavedPictures(recon=f"{base}.recon.png", sigma=f"{base}.sigma.npy", error=f"{base}.error.npy")
        original = f"reconstructions/{stem}.original.png"
        reconstructions.append(Reconstruction(name=name, original=original, arms=arms))
    return reconstructions


def _sample(model: Model, out: Path) -> list[SampleRow]:
    """Draw the same seeds and labels with several numbers of steps."""
    rows = []
    for steps in SAMPLE_STEPS:
        folder = out / "samples" / f"steps-{steps:02d}"
        make_folder(folder)
        began = time.perf_counter()
        names = []
        for seed, label in enumerate(model.labels):
            settings = SamplerSettings(steps=steps, guidance=GUIDANCE, label=label)
            (sample,) = model.generate([seed], settings)
            write_png(sample.x, folder / f"{seed}.png", {"seed": str(seed), "label": label, "steps": str(steps)})
            names.append(f"samples/steps-{steps:02d}/{seed}.png")
        rows.append(SampleRow(steps=steps, images=names, seconds=round(time.perf_counter() - began, 2)))
    return rows


def _preview(model: Model, out: Path) -> list[EstimatedPicture]:
    """Show how the first sample forms."""
    make_folder(out / "estimates")
    estimates = []
    for preview in model.previews([0], SamplerSettings(steps=STRIP, guidance=GUIDANCE, label=model.labels[0])):
        name = f"estimates/{preview.step.index:02d}.png"
        write_png(preview.estimate[0], out / name)
        estimates.append(EstimatedPicture(index=preview.step.index, t=preview.step.t, image=name))
    return estimates


def _interpolate(model: Model, heldout: ImageSource, out: Path) -> Interpolation:
    pictures = dict(evaluation_images(heldout, PATH_SIDE))
    a, b = PATH_ENDS
    make_folder(out / "interpolation")
    frames = []
    path = between(model, pictures[a], pictures[b], even_shares(PATH_FRAMES), "fade", DDIMSettings())
    for index, point in enumerate(path):
        frames.append(f"interpolation/{index:02d}.png")
        write_png(point.mean[0], out / frames[-1])
    return Interpolation(a=a, b=b, frames=frames)


def _describe_data(heldout: ImageSource) -> Data:
    def scenes(source: ImageSource) -> list[Scene]:
        return [Scene(name=ref.name, label=ref.label) for ref in source.refs]

    training = open_source(DATA, "train")
    return Data(name=DATA, train=scenes(training), heldout=scenes(heldout), fingerprint=training.fingerprint)
