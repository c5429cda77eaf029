"""`jeppa compare`: train every arm with every seed, measure, and write `compare.json` and `compare.html`.

A worker measures each run by itself (`compare.work`). Here the figures of the runs become those of the arms, arms are
subtracted from each other pair by pair, and a gallery shows what each arm makes of a few held-out pictures.
"""

import json
import math
import os
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from jeppa.data import evaluation_images, open_source, write_png
from jeppa.data.images import error_levels, sigma_levels
from jeppa.errors import CheckpointError, ConfigError
from jeppa.files import make_folder, write_text_atomically
from jeppa.lab.compare.plan import (
    RATE_TOLERANCE,
    ComparisonSettings,
    Run,
    has_head,
    list_runs,
    make_run_settings,
    needs_rate,
    read_settled_rate,
)
from jeppa.lab.compare.work import EVALUATION, WorkerMessage, WorkerPool
from jeppa.lab.contract import (
    COMPARISON_FILE,
    Budget,
    ComparedArm,
    Comparison,
    Curves,
    Pair,
    Rate,
    Reconstruction,
    SavedPictures,
    Value,
    write_saved,
)
from jeppa.lab.metrics import CODECS
from jeppa.lab.report import write_compare
from jeppa.lab.statistics import t_interval, two_way_interval
from jeppa.machine import machine
from jeppa.pipeline import load_model
from jeppa.vae import HeteroscedasticVAE

PICTURES = 6
SIDE = 256
Json = dict[str, Any]
Values = NDArray[np.float64]
DESCRIPTIONS = frozenset({"n_images", "resolution", "seconds", "model", "commit", "data_fingerprint"})
"""Keys of `metrics.json` that describe a measurement and are no figures."""
SETTINGS = "comparison.json"
TASK = "task.json"
PLAIN_LINE_SECONDS = 15.0


def compare(comparison: ComparisonSettings, out: Path, console: Console, jobs: int, command: str = "") -> Path:
    """Run a comparison in the folder `out`, or go on with one that was stopped; returns the path of its page.

    Args:
        comparison: what to compare.
        out: folder to write.
        console: where progress is shown.
        jobs: how many runs to train at once.
        command: the command line, for the record.

    Raises:
        ConfigError: `out` holds another comparison or cannot be written.
        TrainingError: a run failed.
        Interrupted: a signal came; what was done so far is kept.
    """
    began = time.perf_counter()
    make_folder(out)
    _claim_folder(comparison, out)
    runs = list_runs(comparison, out)
    todo = [run for run in runs if not (run.folder / EVALUATION).is_file()]
    finished = {run.name for run in runs} - {run.name for run in todo}
    pool = WorkerPool(jobs, lambda run: _write_task(comparison, run, runs, finished))
    _show_progress(pool, runs, todo, finished, comparison.steps, console)
    write_saved(_collect_result(comparison, runs, out, command, began), out / COMPARISON_FILE)
    return write_compare(out)


def _claim_folder(comparison: ComparisonSettings, out: Path) -> None:
    path = out / SETTINGS
    wanted = comparison.model_dump(mode="json")
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{k} was {saved.get(k)!r} and is {v!r}" for k, v in wanted.items() if saved.get(k) != v]
        # More arms or seeds only add runs; everything else would mix two comparisons.
        barred = [line for line in differing if line.split()[0] not in ("arms", "seeds")]
        if barred:
            raise ConfigError(f"{out}: holds another comparison: {'; '.join(barred)}; use another --out")
    write_text_atomically(path, json.dumps(wanted) + "\n")


def _write_task(comparison: ComparisonSettings, run: Run, runs: list[Run], finished: set[str]) -> Path | None:
    """Write the task file of a run; None while the reference run of its seed is not finished."""
    rate = None
    if needs_rate(comparison, run.arm):
        (reference,) = (other for other in runs if other.arm == comparison.reference and other.seed == run.seed)
        if reference.name not in finished:
            return None
        rate = read_settled_rate(reference)
    make_folder(run.folder)
    settings = make_run_settings(comparison, run, rate).model_dump(mode="json")
    task = {"run": str(run.folder), "settings": settings, **comparison.model_dump(include={"images", "evaluate_at"})}
    path = run.folder / TASK
    write_text_atomically(path, json.dumps(task) + "\n")
    return path


def _show_progress(
    pool: WorkerPool, runs: list[Run], todo: list[Run], finished: set[str], steps: int, console: Console
) -> None:
    """Follow the pool with one bar over all steps of all runs, or with plain lines where there is no terminal."""
    columns = (
        TextColumn("compare"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )  # fmt: skip
    reached = {run.name: steps if run.name in finished else 0 for run in runs}
    working: dict[str, str] = {}
    last_line = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=steps * len(runs), completed=sum(reached.values()), now="")
        for message in pool.follow(todo):
            _update(message, reached, working, finished)
            now = ", ".join(f"{name} {what}" for name, what in working.items())
            progress.update(bar, completed=sum(reached.values()), now=now)
            if not console.is_terminal and (message.code == 0 or time.monotonic() - last_line >= PLAIN_LINE_SECONDS):
                last_line = time.monotonic()
                done = f"{len(finished)}/{len(runs)} runs, {sum(reached.values())}/{steps * len(runs)} steps"
                line = f"compare: {done}{'; ' if now else ''}{now}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def _update(message: WorkerMessage, reached: dict[str, int], working: dict[str, str], finished: set[str]) -> None:
    name = message.run.name
    if message.code == 0:
        finished.add(name)
        working.pop(name, None)
        return
    reached[name] = message.values.get("step", reached[name])
    working[name] = message.values.get("phase", f"step {reached[name]}")


def _collect_result(
    comparison: ComparisonSettings, runs: list[Run], out: Path, command: str, began: float
) -> Comparison:
    evaluations: dict[str, list[Json]] = {arm: [] for arm in comparison.arms}
    folders: dict[str, list[str]] = {arm: [] for arm in comparison.arms}
    for run in runs:
        evaluations[run.arm].append(read_evaluation(run))
        folders[run.arm].append(str(run.folder.relative_to(out)))
    of_reference = evaluations[comparison.reference]
    gallery = draw_gallery(comparison, out, {arm: out / names[0] for arm, names in folders.items()})
    return Comparison(
        title="jeppa compare",
        created=datetime.now(UTC).replace(microsecond=0),
        machine=machine(),
        budget=Budget(
            **comparison.model_dump(mode="json", exclude={"arms", "images"}),
            data_fingerprint=of_reference[0]["metrics"]["data_fingerprint"],
            images=read_images_trained(out / folders[comparison.reference][0]),
            heldout_images=of_reference[0]["metrics"]["n_images"],
            reference=comparison.reference,
            rate_tolerance=RATE_TOLERANCE,
            rates=compare_rates(comparison, evaluations),
        ),
        arms=[_summarise_runs(arm, evaluations[arm], folders[arm], out) for arm in comparison.arms],
        reasons={arm: of_arm[0]["metrics"]["reasons"] for arm, of_arm in evaluations.items()},
        paired=pair_arms(evaluations, comparison.reference),
        codecs=summarise_codecs(of_reference),
        curves={arm: Curves.model_validate(of_arm[0]["curves"]) for arm, of_arm in evaluations.items()},
        gallery=gallery,
        command=command,
        seconds=round(time.perf_counter() - began, 1),
    )


def _summarise_runs(arm: str, evaluations: list[Json], folders: list[str], out: Path) -> ComparedArm:
    return ComparedArm(
        arm=arm,
        title=arm,
        seed_count=len(evaluations),
        parameters=evaluations[0]["parameters"],
        train_seconds=[evaluation["train_seconds"] for evaluation in evaluations],
        beta=[read_last_beta(out / folder) for folder in folders],
        runs=folders,
        metrics=summarise_arm(evaluations),
    )


def read_last_beta(run: Path) -> float:
    """Read the weight that the KL term had at the end of a run."""
    return float(_read_last_line(run)["beta"])


def read_images_trained(run: Path) -> int:
    """Read how many crops a run saw."""
    return int(_read_last_line(run)["images"])


def _read_last_line(run: Path) -> Json:
    content: Json = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return content


def count_cores() -> int:
    """How many runs to train at once unless told otherwise: one for each core."""
    return os.cpu_count() or 1


def draw_gallery(comparison: ComparisonSettings, out: Path, models: dict[str, Path]) -> list[Reconstruction]:
    """Write what the given model of each arm makes of a few held-out pictures into `out/pictures`."""
    folder = out / "pictures"
    make_folder(folder)
    source = open_source(comparison.data, "heldout")
    stride = max(1, len(source) // PICTURES)
    chosen = list(islice(evaluation_images(source, SIDE), 0, stride * PICTURES, stride))
    made: list[dict[str, SavedPictures]] = [{} for _ in chosen]
    for index, (_, x) in enumerate(chosen):
        write_png(x, folder / f"{index}.png")
    for arm, run in models.items():
        vae = load_model(run).codec.vae
        for index, (_, x) in enumerate(chosen):
            made[index][arm] = _draw_arm(vae, x, index, arm, folder)
    return [
        Reconstruction(name=name, original=f"pictures/{index}.png", arms=made[index])
        for index, (name, _) in enumerate(chosen)
    ]


def _draw_arm(vae: HeteroscedasticVAE, x: Tensor, index: int, arm: str, folder: Path) -> SavedPictures:
    stem = f"{index}.{arm}"
    with torch.no_grad():
        decoded = vae.decode(vae.encode(x[None]).mean)
        draw = decoded.sample(torch.Generator().manual_seed(index))
    write_png(decoded.mean[0], folder / f"{stem}.recon.png")
    write_png(draw[0], folder / f"{stem}.draw.png")
    np.save(folder / f"{stem}.error.npy", error_levels(x, decoded.mean[0]))
    endings = {"recon": "recon.png", "draw": "draw.png", "error": "error.npy"}
    if has_head(arm):
        np.save(folder / f"{stem}.sigma.npy", sigma_levels(decoded.logvar[0]))
        endings["sigma"] = "sigma.npy"
    return SavedPictures(**{key: f"pictures/{stem}.{ending}" for key, ending in endings.items()})


def read_evaluation(run: Run) -> Json:
    """Read what a worker measured.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = run.folder / EVALUATION
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable result ({error}); delete it and compare again") from None


def collect_values(evaluations: list[Json], key: str) -> Values:
    """Values of a metric, `[seeds,pictures]`; pictures without a value for some seed are left out."""
    table = np.array([[row.get(key) for row in evaluation["rows"]] for evaluation in evaluations], dtype=np.float64)
    kept: Values = table[:, ~np.isnan(table).any(axis=0)]
    return kept


def summarise_arm(evaluations: list[Json]) -> dict[str, Value]:
    """Mean, interval and values of single seeds for every figure of an arm.

    A figure of single pictures gets an interval over seeds and pictures; one that is measured on all pictures at once
    (ENCE, Frechet distance) has one value for each seed and gets a t interval over seeds.

    Args:
        evaluations: of the arm, one for each seed.
    """
    values = {}
    for key in list_figures(evaluations):
        of_pictures = collect_values(evaluations, key) if key in evaluations[0]["rows"][0] else None
        if of_pictures is not None and of_pictures.size:
            mean, ends = float(of_pictures.mean()), two_way_interval(of_pictures)
            values[key] = Value(mean=mean, ci95=ends, per_seed=_list_floats(of_pictures.mean(1)))
            continue
        seeds = np.array([evaluation["metrics"].get(key) for evaluation in evaluations], dtype=np.float64)
        known = not np.isnan(seeds).any()
        values[key] = Value(
            mean=float(seeds.mean()) if known else None,
            ci95=t_interval(seeds) if known else None,
            per_seed=[None if math.isnan(seed) else float(seed) for seed in seeds],
        )
    return values


def list_figures(evaluations: list[Json]) -> list[str]:
    """Keys of the figures of an arm: numbers or nulls that are neither an interval nor a description."""
    metrics = evaluations[0]["metrics"]
    numbers = (key for key, value in metrics.items() if value is None or isinstance(value, int | float))
    return [key for key in numbers if key not in DESCRIPTIONS and not key.endswith("_ci95")]


def compare_rates(comparison: ComparisonSettings, evaluations: dict[str, list[Json]]) -> dict[str, Rate]:
    """Held-out rate of each arm over that of the reference."""
    reference = collect_values(evaluations[comparison.reference], "rate_bpd").mean(1)
    rates = {}
    for arm, of_arm in evaluations.items():
        ratios = collect_values(of_arm, "rate_bpd").mean(1) / reference
        rates[arm] = Rate(
            ratio=float(ratios.mean()),
            per_seed=_list_floats(ratios),
            matched=bool((abs(ratios - 1.0) <= RATE_TOLERANCE).all()),
            adapted=needs_rate(comparison, arm),
        )
    return rates


def pair_arms(evaluations: dict[str, list[Json]], reference: str) -> list[Pair]:
    """Differences a minus b on the same pictures and seeds, of every arm to the reference and to `nll`."""
    others = [b for b in (reference, "nll") if b in evaluations]
    arms = [(a, b) for b in others for a in evaluations if a != b and not (b == "nll" and a == reference)]
    return [pair for a, b in arms for pair in _subtract_arm(a, b, evaluations[a], evaluations[b])]


def summarise_codecs(evaluations: list[Json]) -> dict[str, Value]:
    """Lossless codecs on the same pictures, bits a dimension."""
    values = summarise_arm(evaluations[:1])
    return {key: Value(mean=values[key].mean, ci95=values[key].ci95) for key in CODECS if key in values}


def _subtract_arm(a: str, b: str, ours: list[Json], theirs: list[Json]) -> list[Pair]:
    pairs = []
    for key in ours[0]["rows"][0]:
        if key == "name" or key in CODECS or key not in theirs[0]["rows"][0]:
            continue
        table = np.array(
            [[_subtract(x.get(key), y.get(key)) for x, y in zip(our["rows"], their["rows"], strict=True)]
             for our, their in zip(ours, theirs, strict=True)]
        )  # fmt: skip
        values = table[:, ~np.isnan(table).any(axis=0)]
        if values.size:
            mean, ends = float(values.mean()), two_way_interval(values)
            pairs.append(Pair(a=a, b=b, key=key, difference=mean, ci95=ends, per_seed=_list_floats(values.mean(1))))
    return pairs


def _subtract(ours: float | None, theirs: float | None) -> float:
    return math.nan if ours is None or theirs is None else ours - theirs


def _list_floats(values: Values) -> list[float]:
    return [float(value) for value in values]
