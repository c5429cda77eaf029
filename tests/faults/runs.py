"""Tiny training runs on a handful of small pictures, and what is compared between two of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jeppa.train.shown
from jeppa.checkpoint import newest_checkpoint
from jeppa.cli.core import merge
from jeppa.config import VAERun, dump_yaml, parse
from jeppa.data import write_png
from jeppa.train import VAEObjective, train

TENSOR_FILES = ("model", "ema", "optimizer")
IMAGES = 5


def draw_photos(folder: Path) -> Path:
    """Five training pictures, an odd number, and a held-out one; 40 pixels a side."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 1)):
        (folder / split).mkdir(parents=True)
        for index in range(count):
            write_png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), folder / split / f"{index}.png")
    return folder


def settings(photos: Path | str, **changes: Any) -> VAERun:
    """A run of six steps of two crops, saved after every second one; `changes` are laid over it."""
    base = {
        "preset": "tiny",
        "data": {"data": str(photos), "resolution": 32, "sizes": 1},
        "optim": {
            "steps": 6, "batch_size": 2, "save_every": 2, "sample_every": 100, "log_every": 1, "warmup_steps": 2,
            "precision": "fp32", "keep": 2, "ema_decay": 0.9, "learning_rate": 3e-3,
        },
    }  # fmt: skip
    return parse(VAERun, merge(base, changes), "test")


def few_statistics() -> None:
    """Measure the latent on 8 crops instead of 512: saving is what is tested here, thousands of times."""
    jeppa.train.shown.STATISTICS_IMAGES = 8


def finish(config: VAERun, run: Path, resume: bool = False, **options: Any) -> None:
    """Train to the end."""
    for _ in train(VAEObjective(config), run, resume, **options):
        pass


def announced(config: VAERun, run: Path, saved: Path, resume: bool) -> None:
    """Train to the end, writing to `saved` each step that the loop has reported after saving it."""
    few_statistics()
    with saved.open("a", buffering=1) as file:
        for record in train(VAEObjective(config), run, resume):
            if record.step and record.step % config.optim.save_every == 0:
                file.write(f"{record.step}\n")


def command(config: VAERun, run: Path, *flags: str) -> list[str]:
    """The command line that trains `config` in `run`."""
    file = run.with_suffix(".yaml")
    file.write_text(dump_yaml(config))
    return ["train", "vae", "--config", str(file), "--out", str(run), *flags]


def newest_step(run: Path) -> int:
    """Step of the newest intact checkpoint, 0 if there is none; its tensors must be readable."""
    checkpoint, _ = newest_checkpoint(run)
    if checkpoint is None:
        return 0
    assert all(checkpoint.tensors(name) for name in TENSOR_FILES)
    return checkpoint.step


def everything(run: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint."""
    checkpoint, _ = newest_checkpoint(run)
    assert checkpoint is not None
    return {f"{name}/{key}": value for name in TENSOR_FILES for key, value in checkpoint.tensors(name).items()}


def differing(a: Path, b: Path) -> list[str]:
    """Names of tensors, states and log lines that are not bitwise equal in two run folders."""
    first, second = everything(a), everything(b)
    names = [key for key in {**first, **second} if not torch.equal(first[key], second[key])]
    states = [newest_checkpoint(run)[0].state() for run in (a, b)]
    logs = [list(_logged(run)) for run in (a, b)]
    return names + ["state.json"] * (states[0] != states[1]) + ["log.jsonl"] * (logs[0] != logs[1])


def leftovers(run: Path) -> list[str]:
    """Temporary files anywhere in a run folder."""
    return [str(path) for path in run.rglob("*") if path.name.endswith((".tmp", ".old"))]


def _logged(run: Path) -> Iterator[dict[str, float]]:
    for line in (run / "log.jsonl").read_text().splitlines():
        values = json.loads(line)
        values.pop("images_per_second")
        yield values
