"""Does the learned variance pay on real latents, and does the predicted uncertainty find bad samples?

    jeppa compare ...  (the command in the first line of compare.md; it trains the VAE)
    python -m results.sampler --vae comparison/runs/band-t-faithful-0 --data grocery/train --work sampler

Trains three denoisers with variance heads and draws 1,000 samples from each with every sampler. A study that was
stopped resumes where it was. Writes `sampler.json` and `sampler.md`.
"""

import argparse
import sys
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from jeppa.pipeline import load_model
from results.record import Json, report_progress, run_study, save_record, study_parser
from results.sampler.drawing import COUNT, RESOLUTION, STEPS, draw, train_denoiser
from results.sampler.measuring import Real, compute_real_features, measure, measure_rejection
from results.sampler.samplers import KNOB_STEPS, Sampler, list_knobs, list_samplers
from results.sampler.table import render
from results.short_runs import single_threaded_processes

SEEDS = (0, 1, 2)
REJECTED = (Sampler("plain", 25), Sampler("learned", 10))
"""Samplers whose most uncertain samples are rejected."""
SCORES = (
    "log variance", "variance", "log variance, first third", "log variance, middle third", "log variance, last third",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = study_parser("sampler", __doc__)
    parser.add_argument("--vae", type=Path, required=True, help="run folder of a VAE")
    parser.add_argument("--data", type=Path, required=True, help="folder of grocery training pictures")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and samples")
    parser.add_argument("--processes", type=int, default=2, help="how many train or draw at a time")
    return run_study(parser, measure_samplers, arguments)


def measure_samplers(options: argparse.Namespace) -> None:
    """Train, draw and measure, and write the record."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    samplers = [*list_samplers(), *list_knobs()]
    with single_threaded_processes(options.processes) as pool:
        list(pool.map(partial(train_denoiser, options.vae, options.data, work), SEEDS))
        draw_all(pool, samplers, work)
        real = compute_real_features(options.data, load_model(options.vae).codec, work / "real.npz")
        rows = {
            f"{sampler.title} {sampler.steps}": list(pool.map(partial(measure, work, sampler, real), SEEDS))
            for sampler in samplers
        }
        rejections = [entry for sampler in REJECTED for entry in judge_rejection(work, sampler, real)]
    figures = {
        "seeds": SEEDS, "count": COUNT, "resolution": RESOLUTION, "train_steps": STEPS, "knob_steps": KNOB_STEPS,
        "floors": real.measure_floors(), "rows": rows, "rejection": rejections,
    }  # fmt: skip
    save_record(options.command, options.out / "sampler", figures, render)


def draw_all(pool: Executor, samplers: list[Sampler], work: Path) -> None:
    """Draw from every denoiser with every sampler."""
    jobs = [(sampler, seed) for seed in SEEDS for sampler in samplers]
    finished = pool.map(partial(draw, work), *zip(*jobs, strict=True))
    for (sampler, seed), _ in zip(jobs, finished, strict=True):
        report_progress(f"seed {seed}: {sampler.title}, {sampler.steps} evaluations")


def judge_rejection(work: Path, sampler: Sampler, real: Real) -> list[Json]:
    """All scores on the first seed, and on every other seed the score with the lowest distance on the first."""
    first, *others = SEEDS
    by_score = {score: measure_rejection(work, sampler, first, score, real) for score in SCORES}
    best = min(SCORES, key=lambda score: by_score[score]["fd"])
    name = {"sampler": f"{sampler.title} {sampler.steps}"}
    chosen = [{**name, "score": score, "seed": first, **by_score[score]} for score in SCORES]
    judged = [
        {**name, "score": best, "seed": seed, **measure_rejection(work, sampler, seed, best, real)} for seed in others
    ]
    return chosen + judged


if __name__ == "__main__":
    sys.exit(main())
