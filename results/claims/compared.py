"""What `jeppa compare` left behind: runs by arm and seed, their figures, logs, models, and the held-out images."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jeppa.config import VAERun, load_run
from jeppa.data import ImageSource, evaluation_images, open_source
from jeppa.errors import JeppaError
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE

T = TypeVar("T")
Json = dict[str, Any]


class NotMeasuredError(Exception):
    """A figure that cannot be had from this folder; the message says why."""


class Compared:
    """A compare folder; everything is read when it is first asked for.

    Args:
        path: the folder that `jeppa compare` wrote.
        data: the data it was measured on, or None for what its runs' settings say.
    """

    def __init__(self, path: Path, data: str | None = None) -> None:
        self.path = path
        self._data = data

    def seeds(self, arm: str) -> list[int]:
        """Seeds of the arm's runs, in order.

        Raises:
            NotMeasuredError: the arm has no run.
        """
        names = [run.name.removeprefix(f"{arm}-") for run in (self.path / "runs").glob(f"{arm}-*")]
        seeds = sorted(int(name) for name in names if name.isdecimal())
        if not seeds:
            raise NotMeasuredError(f"no run of arm {arm}")
        return seeds

    def gather(self, arms: tuple[str, ...], read: Callable[[str, int], T]) -> dict[int, list[T]]:
        """`read(arm, seed)` of each arm, for the seeds that all of them have and can be read.

        Raises:
            NotMeasuredError: there is no such seed; the message is the first problem met.
        """
        shared = sorted(set.intersection(*(set(self.seeds(arm)) for arm in arms)))
        found: dict[int, list[T]] = {}
        problems = [f"no seed that {' and '.join(arms)} share"]
        for seed in shared:
            try:
                found[seed] = [read(arm, seed) for arm in arms]
            except NotMeasuredError as problem:
                problems.append(str(problem))
        if not found:
            raise NotMeasuredError(problems[1 % len(problems)])
        return found

    def rows(self, arm: str, seed: int) -> dict[str, Json]:
        """Per-image figures of a run, by the image's name."""
        return {row["name"]: row for row in self._evaluation(arm, seed).get("rows", [])}

    def metrics(self, arm: str, seed: int) -> Json:
        """Figures of a whole run."""
        found: Json = self._evaluation(arm, seed).get("metrics", {})
        return found

    def log(self, arm: str, seed: int) -> list[Json]:
        """Lines of a run's log, in order of steps."""
        path = self._run(arm, seed) / "log.jsonl"
        return readable(path, lambda: [json.loads(line) for line in path.read_text().splitlines()])

    def config(self, arm: str, seed: int) -> VAERun:
        """Settings of a run."""
        path = self._run(arm, seed) / "config.yaml"
        config = readable(path, lambda: load_run(path))
        if not isinstance(config, VAERun):
            raise NotMeasuredError(f"{path}: not a VAE run")
        return config

    @lru_cache(maxsize=2)  # noqa: B019 (one folder lives as long as the program)
    def vae(self, arm: str, seed: int) -> HeteroscedasticVAE:
        """The averaged model of a run, for inference."""
        run = self._run(arm, seed)
        return readable(run, lambda: load_model(run)).codec.vae.eval().requires_grad_(False)

    def source(self, split: str) -> ImageSource:
        """The images of one split."""
        spec = self.data()
        return readable(Path(spec), lambda: open_source(spec, "train" if split == "train" else "heldout"))

    def data(self) -> str:
        """The data set, as the runs' settings name it."""
        if self._data is not None:
            return self._data
        for run in sorted((self.path / "runs").glob("*/config.yaml")):
            config = readable(run, lambda run=run: load_run(run))
            if isinstance(config, VAERun):
                return config.data.data
        raise NotMeasuredError(f"no run in {self.path / 'runs'} says which data it saw; give --data")

    @lru_cache(maxsize=4)  # noqa: B019
    def images(self, count: int, resolution: int, crop: int) -> dict[str, Tensor]:
        """`count` held-out images, evenly spread over the names: the centre `crop` of the square at `resolution`.

        Each is `[1,3,crop,crop]`.
        """
        source = self.source("heldout")
        chosen = [round(i) for i in np.linspace(0, len(source) - 1, min(count, len(source)))]
        few = replace(source, refs=tuple(source.refs[i] for i in chosen))
        start = (resolution - crop) // 2
        part = slice(start, start + crop)
        images = readable(Path(self.data()), lambda: list(evaluation_images(few, resolution)))
        return {name: x[None, :, part, part] for name, x in images}

    def _run(self, arm: str, seed: int) -> Path:
        return self.path / "runs" / f"{arm}-{seed}"

    @lru_cache(maxsize=64)  # noqa: B019
    def _evaluation(self, arm: str, seed: int) -> Json:
        path = self._run(arm, seed) / "evaluation.json"
        found = readable(path, lambda: json.loads(path.read_text()))
        if not isinstance(found, dict):
            raise NotMeasuredError(f"{path.name} of {arm}-{seed} is not a mapping")
        return found


def readable(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; what is missing or damaged becomes a reason.

    Raises:
        NotMeasuredError: naming the file or folder and what is wrong with it.
    """
    try:
        return read()
    except FileNotFoundError:
        raise NotMeasuredError(f"{path.parent.name}/{path.name} is missing") from None
    except (JeppaError, OSError, ValueError) as error:
        raise NotMeasuredError(f"{path.parent.name}/{path.name}: {error}") from error


def number(row: Json, key: str) -> float:
    """`row[key]`, or of "a - b" the difference; null is NaN.

    Raises:
        NotMeasuredError: there is no such key.
    """
    parts = key.split(" - ")
    missing = [part for part in parts if part not in row]
    if missing:
        raise NotMeasuredError(f"no {missing[0]} among the figures of an image")
    first, *rest = (math.nan if row[part] is None else float(row[part]) for part in parts)
    return first - sum(rest)


def generator(*words: int) -> torch.Generator:
    """A source of noise that depends on `words` alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
