"""The demo: train three VAEs at one budget and a denoiser on built-in photographs, measure, and write a report.

Run it with `jeppa demo`. The same seed on the same machine gives the same weights and pictures. A demo that was
stopped goes on where it was.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jeppa.checkpoint import write_text_atomically
from jeppa.config import DataConfig, DenoiserConfig, DiffusionRun, Likelihood, OptimConfig, VAERun
from jeppa.data import ImageSource, evaluation_images, open_source, write_png
from jeppa.data.sheet import error_levels, sigma_levels
from jeppa.evaluate import evaluate, write_metrics
from jeppa.machine import machine
from jeppa.pictures import make_folder
from jeppa.pipeline import DDIMSettings, Model, SamplerSettings, between, even_shares, load_model
from jeppa.progress import follow
from jeppa.report import write_report
from jeppa.train import DiffusionObjective, VAEObjective, train, with_classes

DATA = "builtin:photos"
# With sigma 1 for x in [-1,1] a KL weight of 1 would erase the picture. This weight is the squared error that the
# other arms reach, so that all three trade rate for distortion alike.
ORDINARY_BETA = 0.03
ARMS: dict[Likelihood, str] = {
    "faithful": "heteroscedastic (faithful)",
    "shared": "one learned sigma (sigma-VAE)",
    "fixed": f"ordinary VAE (sigma 1, beta {ORDINARY_BETA})",
}
BETA: dict[Likelihood, float] = {"faithful": 1.0, "shared": 1.0, "fixed": ORDINARY_BETA}
# Fourteen training photographs: without it their colours would be learned by heart.
COLOUR_JITTER = 0.8
VAE_STEPS = 600
DIFFUSION_STEPS = 600
SAMPLE_RESOLUTION = 128
DENOISER = DenoiserConfig(block_out_channels=(48, 96, 96), attention=(False, True, True))
VIEWS = 1024
SAMPLE_STEPS = (5, 10, 25, 50)
SAMPLE_LABELS = ("astronaut", "temple", "flower", "motorcycle", "retina", "moon", "coins", "tissue")
GUIDANCE = 1.5
STRIP = 10
PATH_FRAMES = 9
PATH_ENDS = ("chelsea.png", "coffee.png")

Json = dict[str, Any]


def run_demo(out: Path, seed: int, console: Console) -> Path:
    """Do everything and return the path of `report.html`.

    Raises:
        ConfigError: `out` cannot be written, or holds a demo of another seed or version.
    """
    make_folder(out)
    clock = Clock(out / "seconds.json")
    heldout = open_source(DATA, "heldout")
    arms = [_train_arm(arm, out, seed, console, clock) for arm in ARMS]
    denoiser = _train_denoiser(out, seed, console, clock)
    models = {arm: load_model(out / f"vae-{arm}") for arm in ARMS}
    with clock.measure("evaluate"):
        calibration = {arm: _evaluate(models[arm], heldout) for arm in ARMS}
        reconstructions = _reconstruct(models, heldout, out)
    with clock.measure("generate"):
        model = load_model(out / "diffusion")
        generated = _sample(model, out)
        path = _walk(models["faithful"], heldout, out)
    report: Json = {
        "title": "jeppa demo",
        "command": f"jeppa demo --out {out} --seed {seed}",
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "seconds": {**clock.seconds, "total": round(sum(clock.seconds.values()), 1)},
        "data": _data(heldout),
        "arms": arms,
        "reconstructions": reconstructions,
        "calibration": calibration,
        **generated,
        "interpolation": path,
        "diffusion": denoiser,
    }
    write_text_atomically(out / "report.json", json.dumps(report, indent=1) + "\n")
    return write_report(out)


class Clock:
    """Seconds spent on each part of the demo, kept in a file so that a stopped demo adds up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that the block takes to `part`, also when it is interrupted."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - began, 1)
            write_text_atomically(self._path, json.dumps(self.seconds))


def _train_arm(arm: Likelihood, out: Path, seed: int, console: Console, clock: Clock) -> Json:
    optim = OptimConfig(
        steps=VAE_STEPS, batch_size=8, learning_rate=3e-4, warmup_steps=100, sample_every=VAE_STEPS,
        save_every=VAE_STEPS // 2, ema_decay=0.99,
    )  # fmt: skip
    data = DataConfig(data=DATA, colour_jitter=COLOUR_JITTER)
    config = VAERun(seed=seed, likelihood=arm, beta=BETA[arm], optim=optim, data=data)
    run = out / f"vae-{arm}"
    with clock.measure(f"train {arm}"):
        objective = VAEObjective(config)
        follow(arm, train(objective, config, run, resume=True), console)
    return {
        "arm": arm,
        "title": ARMS[arm],
        "run": run.name,
        "steps": optim.steps,
        "images": objective.images_seen(optim.steps),
        "parameters": sum(parameter.numel() for parameter in objective.parameters()),
    }


def _train_denoiser(out: Path, seed: int, console: Console, clock: Clock) -> Json:
    optim = OptimConfig(
        steps=DIFFUSION_STEPS, batch_size=16, learning_rate=1e-3, sample_every=DIFFUSION_STEPS,
        save_every=DIFFUSION_STEPS // 2, ema_decay=0.99,
    )  # fmt: skip
    data = DataConfig(data=DATA, resolution=SAMPLE_RESOLUTION, min_view=0.95, flip=False)
    config = DiffusionRun(
        seed=seed, vae="../vae-faithful", classes=True, model=DENOISER, data=data, optim=optim, views=VIEWS
    )
    config = with_classes(config)
    run = out / "diffusion"
    with clock.measure("train diffusion"):
        objective = DiffusionObjective(config, load_model(out / "vae-faithful").codec)
        follow("diffusion", train(objective, config, run, resume=True), console)
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    return {"run": run.name, "steps": optim.steps, "parameters": parameters}


def _evaluate(model: Model, heldout: ImageSource) -> Json:
    evaluation = evaluate(model.codec.vae, heldout, None, model.path.name)
    write_metrics(evaluation, model.path / "metrics.json")
    curves = evaluation.curves
    return {**curves["reliability"], "sparsification": curves["sparsification"], "pit": curves["pit"]}


def _reconstruct(models: dict[Likelihood, Model], heldout: ImageSource, out: Path) -> list[Json]:
    folder = out / "reconstructions"
    make_folder(folder)
    entries = []
    for name, x in evaluation_images(heldout, None):
        stem = Path(name).stem
        write_png(x, folder / f"{stem}.original.png")
        arms: Json = {}
        for arm, model in models.items():
            decoded = model.reconstruct(x[None])
            write_png(decoded.mean[0], folder / f"{stem}.{arm}.recon.png")
            np.save(folder / f"{stem}.{arm}.sigma.npy", sigma_levels(decoded.logvar[0]))
            np.save(folder / f"{stem}.{arm}.error.npy", error_levels(x, decoded.mean[0]))
            endings = {"recon": "recon.png", "sigma": "sigma.npy", "error": "error.npy"}
            arms[arm] = {key: f"reconstructions/{stem}.{arm}.{ending}" for key, ending in endings.items()}
        entries.append({"name": name, "original": f"reconstructions/{stem}.original.png", "arms": arms})
    return entries


def _sample(model: Model, out: Path) -> Json:
    """The same seeds and labels at several step counts, and how one set of pictures forms."""
    seeds, labels = range(len(SAMPLE_LABELS)), SAMPLE_LABELS
    samples = []
    for steps in SAMPLE_STEPS:
        folder = out / "samples" / f"steps-{steps:02d}"
        make_folder(folder)
        began = time.perf_counter()
        names = []
        for seed, label in zip(seeds, labels, strict=True):
            settings = SamplerSettings(steps=steps, guidance=GUIDANCE, label=label)
            (sample,) = model.generate([seed], settings)
            write_png(sample.x, folder / f"{seed}.png", {"seed": str(seed), "label": label, "steps": str(steps)})
            names.append(f"samples/steps-{steps:02d}/{seed}.png")
        samples.append({"steps": steps, "images": names, "seconds": round(time.perf_counter() - began, 2)})
    estimates = []
    make_folder(out / "estimates")
    for preview in model.previews([0], SamplerSettings(steps=STRIP, guidance=GUIDANCE, label=labels[0])):
        name = f"estimates/{preview.step.index:02d}.png"
        write_png(preview.estimate[0], out / name)
        estimates.append({"index": preview.step.index, "t": preview.step.t, "image": name})
    return {
        "samples": samples,
        "sample_labels": list(labels),
        "sample_seeds": list(seeds),
        "estimates": estimates,
    }


def _walk(model: Model, heldout: ImageSource, out: Path) -> Json:
    pictures = dict(evaluation_images(heldout, SAMPLE_RESOLUTION))
    a, b = PATH_ENDS
    make_folder(out / "interpolation")
    frames = []
    path = between(model, pictures[a], pictures[b], even_shares(PATH_FRAMES), "fade", DDIMSettings())
    for index, point in enumerate(path):
        frames.append(f"interpolation/{index:02d}.png")
        write_png(point.mean[0], out / frames[-1])
    return {"a": a, "b": b, "frames": frames}


def _data(heldout: ImageSource) -> Json:
    def names(source: ImageSource) -> list[Json]:
        return [{"name": ref.name, "label": ref.label} for ref in source.refs]

    training = open_source(DATA, "train")
    return {"name": DATA, "train": names(training), "heldout": names(heldout), "fingerprint": training.fingerprint}
