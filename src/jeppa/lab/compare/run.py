"""`jeppa compare`: train every arm with every seed, measure, and write `compare.json` and `compare.html`.

Its gallery shows what each arm makes of a few held-out images, with a drawn residual and its sigma.
"""

import json
import os
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jeppa.data import evaluation_images, open_source, write_png
from jeppa.data.images import error_levels, sigma_levels
from jeppa.errors import ConfigError
from jeppa.files import make_folder, write_text_atomically
from jeppa.lab.compare.plan import (
    RATE_TOLERANCE,
    Comparison,
    Run,
    has_head,
    needs_rate,
    runs_of,
    settings_of,
    settled_rate,
)
from jeppa.lab.compare.summary import Json, codecs, paired, rates_of_arms, read_evaluation, summarise_arm, write_json
from jeppa.lab.compare.work import EVALUATION, Pool, Told
from jeppa.lab.report import write_compare
from jeppa.machine import machine
from jeppa.pipeline import load_model

PICTURES = 6
SIDE = 256


def draw_gallery(comparison: Comparison, out: Path, models: dict[str, Path]) -> list[Json]:
    """Write pictures and maps into `out/pictures`; one entry for each image, from the first seed's models."""
    folder = out / "pictures"
    make_folder(folder)
    source = open_source(comparison.data, "heldout")
    stride = max(1, len(source) // PICTURES)
    chosen = list(islice(evaluation_images(source, SIDE), 0, stride * PICTURES, stride))
    entries: list[Json] = []
    for index, (name, x) in enumerate(chosen):
        write_png(x, folder / f"{index}.png")
        entries.append({"name": name, "original": f"pictures/{index}.png", "arms": {}})
    for arm, run in models.items():
        vae = load_model(run).codec.vae
        for index, (_, x) in enumerate(chosen):
            stem = f"{index}.{arm}"
            with torch.no_grad():
                decoded = vae.decode(vae.encode(x[None]).mean)
                draw = decoded.sample(torch.Generator().manual_seed(index))
            write_png(decoded.mean[0], folder / f"{stem}.recon.png")
            write_png(draw[0], folder / f"{stem}.draw.png")
            np.save(folder / f"{stem}.error.npy", error_levels(x, decoded.mean[0]))
            entry = {"recon": f"pictures/{stem}.recon.png", "draw": f"pictures/{stem}.draw.png",
                     "error": f"pictures/{stem}.error.npy"}  # fmt: skip
            if has_head(arm):
                np.save(folder / f"{stem}.sigma.npy", sigma_levels(decoded.logvar[0]))
                entry["sigma"] = f"pictures/{stem}.sigma.npy"
            entries[index]["arms"][arm] = entry
    return entries


SETTINGS = "comparison.json"
TASK = "task.json"
PLAIN_LINE_SECONDS = 15.0


def compare(comparison: Comparison, out: Path, console: Console, jobs: int, command: str = "") -> Path:
    """Do the comparison in `out` and return the path of its page; one that was stopped goes on.

    Args:
        comparison: what to compare.
        out: folder to write.
        console: where progress is shown.
        jobs: runs at a time.
        command: the command line, for the record.

    Raises:
        ConfigError: `out` holds another comparison or cannot be written.
        TrainingError: a run failed.
        Interrupted: a signal came; what is done is kept.
    """
    began = time.perf_counter()
    make_folder(out)
    _claim_folder(comparison, out)
    runs = runs_of(comparison, out)
    todo = [run for run in runs if not (run.folder / EVALUATION).is_file()]
    finished = {run.name for run in runs} - {run.name for run in todo}
    pool = Pool(jobs, lambda run: _task(comparison, run, runs, finished))
    _show(pool, runs, todo, finished, comparison.steps, console)
    result = _result(comparison, runs, out)
    result |= {"command": command, "seconds": round(time.perf_counter() - began, 1)}
    write_json(result, out / "compare.json")
    return write_compare(out)


def _claim_folder(comparison: Comparison, out: Path) -> None:
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


def _task(comparison: Comparison, run: Run, runs: list[Run], finished: set[str]) -> Path | None:
    """The task file of a run, or None while the reference run of its seed is not finished."""
    rate = None
    if needs_rate(comparison, run.arm):
        (reference,) = (other for other in runs if other.arm == comparison.reference and other.seed == run.seed)
        if reference.name not in finished:
            return None
        rate = settled_rate(reference)
    make_folder(run.folder)
    settings = settings_of(comparison, run, rate).model_dump(mode="json")
    task = {"run": str(run.folder), "settings": settings, **comparison.model_dump(include={"images", "evaluate_at"})}
    path = run.folder / TASK
    write_text_atomically(path, json.dumps(task) + "\n")
    return path


def _show(pool: Pool, runs: list[Run], todo: list[Run], finished: set[str], steps: int, console: Console) -> None:
    """Follow the pool with one bar over all steps of all runs, or with plain lines where there is no terminal."""
    columns = (
        TextColumn("compare"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )  # fmt: skip
    reached = {run.name: steps if run.name in finished else 0 for run in runs}
    working: dict[str, str] = {}
    spoken = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=steps * len(runs), completed=sum(reached.values()), now="")
        for told in pool.follow(todo):
            _note(told, reached, working, finished)
            now = ", ".join(f"{name} {what}" for name, what in working.items())
            progress.update(bar, completed=sum(reached.values()), now=now)
            if not console.is_terminal and (told.code == 0 or time.monotonic() - spoken >= PLAIN_LINE_SECONDS):
                spoken = time.monotonic()
                done = f"{len(finished)}/{len(runs)} runs, {sum(reached.values())}/{steps * len(runs)} steps"
                line = f"compare: {done}{'; ' if now else ''}{now}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def _note(told: Told, reached: dict[str, int], working: dict[str, str], finished: set[str]) -> None:
    name = told.run.name
    if told.code == 0:
        finished.add(name)
        working.pop(name, None)
        return
    reached[name] = told.values.get("step", reached[name])
    working[name] = told.values.get("phase", f"step {reached[name]}")


def _result(comparison: Comparison, runs: list[Run], out: Path) -> Json:
    measured: dict[str, list[Json]] = {arm: [] for arm in comparison.arms}
    folders: dict[str, list[str]] = {arm: [] for arm in comparison.arms}
    for run in runs:
        measured[run.arm].append(read_evaluation(run))
        folders[run.arm].append(str(run.folder.relative_to(out)))
    first = measured[comparison.reference][0]
    arms = [
        {
            "arm": arm,
            "title": arm,
            "seed_count": len(evaluations),
            "parameters": evaluations[0]["parameters"],
            "train_seconds": [one["train_seconds"] for one in evaluations],
            "beta": [last_beta(out / folder) for folder in folders[arm]],
            "runs": folders[arm],
            "metrics": summarise_arm(evaluations),
        }
        for arm, evaluations in measured.items()
    ]
    budget = {
        **comparison.model_dump(mode="json", exclude={"arms", "images"}),
        "data_fingerprint": first["metrics"]["data_fingerprint"],
        "images": images_trained(out / folders[comparison.reference][0]),
        "heldout_images": first["metrics"]["n_images"],
        "reference": comparison.reference,
        "rate_tolerance": RATE_TOLERANCE,
        "rates": rates_of_arms(comparison, measured),
    }
    return {
        "title": "jeppa compare",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "budget": budget,
        "arms": arms,
        "reasons": {arm: evaluations[0]["metrics"]["reasons"] for arm, evaluations in measured.items()},
        "paired": paired(measured, comparison.reference),
        "codecs": codecs(measured[comparison.reference]),
        "curves": {arm: evaluations[0]["curves"] for arm, evaluations in measured.items()},
        "gallery": draw_gallery(comparison, out, {arm: out / names[0] for arm, names in folders.items()}),
    }


def last_beta(run: Path) -> float:
    """Weight of the KL term at the end of a run."""
    return float(_last_line(run)["beta"])


def images_trained(run: Path) -> int:
    """Crops that a run saw."""
    return int(_last_line(run)["images"])


def _last_line(run: Path) -> Json:
    content: Json = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return content


def default_jobs() -> int:
    """One run for each core."""
    return os.cpu_count() or 1
