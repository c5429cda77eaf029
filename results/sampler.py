"""Is the learned variance worth it on real latents, and does predicted uncertainty find bad samples?

    jeppa compare ... (the command of compare.md, for the VAE)
    python results/sampler.py --vae comparison/runs/band-t-faithful-0 --data grocery/train --work sampler

Trains three denoisers with variance heads, draws 1,000 samples from each with every sampler, and writes `sampler.json`
and `sampler.md` beside this file. A run that was stopped goes on where it was.
"""

import argparse
import json
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sampler.drawing import COUNT, draw
from sampler.measuring import Real, figures, real_features, rejection
from sampler.runs import RESOLUTION, STEPS, train_denoiser
from sampler.samplers import KNOB_STEPS, Sampler, knobs, rows
from sampler.table import table

from jeppa.machine import commit, machine
from jeppa.pipeline import load_model

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
REJECTED = (Sampler("plain", 25), Sampler("learned", 10))
SCORES = (
    "log variance", "variance", "log variance, first third", "log variance, middle third", "log variance, last third",
)  # fmt: skip


def main() -> None:
    """Train, draw, measure and write."""
    given = _parser().parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by each new process
    samplers = [*rows(), *knobs()]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        runs = [(given.vae, given.data, given.work, seed) for seed in SEEDS]
        list(pool.map(train_denoiser, *zip(*runs, strict=True)))
        jobs = [(sampler, seed, given.work) for seed in SEEDS for sampler in samplers]
        for sampler, seed, _ in _progress(pool, jobs):
            print(f"seed {seed}: {sampler.title}, {sampler.steps} evaluations", flush=True)  # noqa: T201
        real = real_features(given.data, load_model(given.vae).codec, given.work / "real.npz")
        found = {
            f"{sampler.title} {sampler.steps}": list(
                pool.map(figures, *zip(*[(given.work, sampler, seed, real) for seed in SEEDS], strict=True))
            )
            for sampler in samplers
        }
        rejected = [entry for sampler in REJECTED for entry in _rejections(given.work, sampler, real)]
    record = {
        "command": "python results/sampler.py " + shlex.join(sys.argv[1:]), "commit": commit(), "machine": machine(),
        "seeds": SEEDS, "count": COUNT, "resolution": RESOLUTION, "train_steps": STEPS, "knob_steps": KNOB_STEPS,
        "floors": real.floors, "rows": found, "rejection": rejected,
    }  # fmt: skip
    (HERE / "sampler.json").write_text(json.dumps(record, indent=1) + "\n")
    (HERE / "sampler.md").write_text(table(record))


def _progress(pool: ProcessPoolExecutor, jobs: list) -> list:
    for job, _ in zip(jobs, pool.map(draw, *zip(*jobs, strict=True)), strict=True):
        yield job


def _rejections(work: Path, sampler: Sampler, real: Real) -> list[dict]:
    """Choose the score with the lowest distance on the first seed, then judge it on all."""
    first = {score: rejection(work, sampler, SEEDS[0], score, real) for score in SCORES}
    best = min(SCORES, key=lambda score: first[score]["fd"])
    about = {"sampler": f"{sampler.title} {sampler.steps}"}
    entries = [{**about, "score": score, "seed": SEEDS[0], **first[score]} for score in SCORES]
    judged = [
        {**about, "score": best, "seed": seed, **rejection(work, sampler, seed, best, real)} for seed in SEEDS[1:]
    ]
    return entries + judged


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Samplers on real latents.")
    parser.add_argument("--vae", type=Path, required=True, help="run folder of a VAE")
    parser.add_argument("--data", type=Path, required=True, help="folder of grocery training pictures")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and samples")
    parser.add_argument("--processes", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
