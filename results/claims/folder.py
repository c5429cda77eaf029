"""A folder that `jeppa compare` wrote: its runs with their figures, logs and models, and the held-out images."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from jeppa.config import VAERun, load_run
from jeppa.data import ImageSource, evaluation_images, open_source
from jeppa.errors import JeppaError
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE
from results.record import Json

T = TypeVar("T")


class NotMeasuredError(Exception):
    """A figure cannot be measured from this folder; the message says why."""


class CompareFolder:
    """A compare folder; each part is read when it is first asked for.

    Args:
        path: the folder that `jeppa compare` wrote.
        data: the data that it was measured on, or None for what the settings of its runs say.
    """

    def __init__(self, path: Path, data: str | None = None) -> None:
        self.path = path
        self._data = data

    def find_seeds(self, arm: str) -> list[int]:
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
        """`read(arm, seed)` for each arm, for the seeds that all arms have and that can be read.

        Raises:
            NotMeasuredError: there is no such seed; the message is that of the first one that cannot be read.
        """
        shared = sorted(set.intersection(*(set(self.find_seeds(arm)) for arm in arms)))
        results: dict[int, list[T]] = {}
        problems = [f"no seed that {' and '.join(arms)} share"]
        for seed in shared:
            try:
                results[seed] = [read(arm, seed) for arm in arms]
            except NotMeasuredError as problem:
                problems.append(str(problem))
        if not results:
            raise NotMeasuredError(problems[1 % len(problems)])
        return results

    def read_rows(self, arm: str, seed: int) -> dict[str, Json]:
        """The figures of each image from a run's evaluation, by the image's name."""
        return {row["name"]: row for row in self._read_evaluation(arm, seed).get("rows", [])}

    def read_metrics(self, arm: str, seed: int) -> Json:
        """The figures of a whole run from its evaluation."""
        metrics: Json = self._read_evaluation(arm, seed).get("metrics", {})
        return metrics

    def read_log(self, arm: str, seed: int) -> list[Json]:
        """Lines of a run's log, in order of steps."""
        path = self._locate_run(arm, seed) / "log.jsonl"
        return read_or_explain(path, lambda: [json.loads(line) for line in path.read_text().splitlines()])

    def read_config(self, arm: str, seed: int) -> VAERun:
        """Settings of a run."""
        path = self._locate_run(arm, seed) / "config.yaml"
        config = read_or_explain(path, lambda: load_run(path))
        if not isinstance(config, VAERun):
            raise NotMeasuredError(f"{path}: not a VAE run")
        return config

    @lru_cache(maxsize=2)  # noqa: B019 (one object for the whole program)
    def load_vae(self, arm: str, seed: int) -> HeteroscedasticVAE:
        """The averaged model of a run, for inference."""
        run = self._locate_run(arm, seed)
        return read_or_explain(run, lambda: load_model(run)).codec.vae.eval().requires_grad_(False)

    def open_split(self, split: str) -> ImageSource:
        """The images of one split."""
        spec = self.find_data()
        return read_or_explain(Path(spec), lambda: open_source(spec, "train" if split == "train" else "heldout"))

    def find_data(self) -> str:
        """The data set, as the settings of the runs name it.

        Raises:
            NotMeasuredError: no run names one.
        """
        if self._data is not None:
            return self._data
        for run in sorted((self.path / "runs").glob("*/config.yaml")):
            config = read_or_explain(run, partial(load_run, run))
            if isinstance(config, VAERun):
                return config.data.data
        raise NotMeasuredError(f"no run in {self.path / 'runs'} says which data it saw; give --data")

    @lru_cache(maxsize=4)  # noqa: B019
    def load_images(self, count: int, resolution: int, crop: int) -> dict[str, Tensor]:
        """Held-out images, evenly spread over the names, `[1,3,crop,crop]` each.

        Args:
            count: at most so many.
            resolution: pixels a side that the centred square of an image is scaled to.
            crop: pixels a side of the middle of this square.
        """
        source = self.open_split("heldout")
        chosen = [round(i) for i in np.linspace(0, len(source) - 1, min(count, len(source)))]
        few = replace(source, refs=tuple(source.refs[i] for i in chosen))
        start = (resolution - crop) // 2
        part = slice(start, start + crop)
        images = read_or_explain(Path(self.find_data()), lambda: list(evaluation_images(few, resolution)))
        return {name: x[None, :, part, part] for name, x in images}

    def _locate_run(self, arm: str, seed: int) -> Path:
        return self.path / "runs" / f"{arm}-{seed}"

    @lru_cache(maxsize=64)  # noqa: B019
    def _read_evaluation(self, arm: str, seed: int) -> Json:
        path = self._locate_run(arm, seed) / "evaluation.json"
        evaluation = read_or_explain(path, lambda: json.loads(path.read_text()))
        if not isinstance(evaluation, dict):
            raise NotMeasuredError(f"{path.name} of {arm}-{seed} is not a mapping")
        return evaluation


def read_or_explain(path: Path, read: Callable[[], T]) -> T:
    """Call `read`; what is missing or damaged becomes the reason why something is not measured.

    Raises:
        NotMeasuredError: naming the file or folder and what is wrong with it.
    """
    try:
        return read()
    except FileNotFoundError:
        raise NotMeasuredError(f"{path.parent.name}/{path.name} is missing") from None
    except (JeppaError, OSError, ValueError) as error:
        raise NotMeasuredError(f"{path.parent.name}/{path.name}: {error}") from error


def take_figure(row: Json, key: str) -> float:
    """The figure `key` of a row; for a key "a - b" the difference of two; null is NaN.

    Raises:
        NotMeasuredError: there is no such key.
    """
    parts = key.split(" - ")
    missing = [part for part in parts if part not in row]
    if missing:
        raise NotMeasuredError(f"no {missing[0]} among the figures of an image")
    first, *rest = (math.nan if row[part] is None else float(row[part]) for part in parts)
    return first - sum(rest)


def make_generator(*words: int) -> torch.Generator:
    """A generator whose noise depends on these numbers alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
