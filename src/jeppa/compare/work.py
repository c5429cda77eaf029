"""One run of a comparison in a process of its own: train, measure, and say how far it is.

    python -m jeppa.compare.work TASK.json

Prints a JSON object for every few steps; what is done already is not done again.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

from jeppa.checkpoint import write_text_atomically
from jeppa.config import VAERun
from jeppa.data import open_source
from jeppa.errors import JeppaError
from jeppa.evaluate import evaluate
from jeppa.pipeline import load_model
from jeppa.train import Interrupted, VAEObjective, train

SPEAK_SECONDS = 1.0
EVALUATION = "evaluation.json"


def main(task: Path) -> int:
    """Do the task; exit codes and the one line on standard error are those of the command line."""
    try:
        content = json.loads(task.read_text(encoding="utf-8"))
        work(
            Path(content["run"]),
            VAERun.model_validate(content["settings"]),
            int(content["images"]),
            content["evaluate_at"],
        )
    except (JeppaError, Interrupted) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 128 + error.signal_number if isinstance(error, Interrupted) else 2
    return 0


def work(run: Path, settings: VAERun, images: int, evaluate_at: int | None) -> None:
    """Train to the end, then measure on at most `images` held-out pictures, whole or at a resolution."""
    objective = VAEObjective(settings)
    began, spoken = time.perf_counter(), 0.0
    for record in train(objective, settings, run, resume=True):
        if time.perf_counter() - spoken >= SPEAK_SECONDS or record.step == record.total:
            spoken = time.perf_counter()
            _say(step=record.step, images_per_second=record.images_per_second)
    seconds = time.perf_counter() - began
    _say(step=settings.optim.steps, phase="measuring")
    source = open_source(settings.data.data, "heldout")
    evaluation = evaluate(load_model(run).codec.vae, source, evaluate_at, run.name, limit=images)
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    content = {**dataclasses.asdict(evaluation), "parameters": parameters, "train_seconds": round(seconds, 1)}
    write_text_atomically(run / EVALUATION, json.dumps(content, allow_nan=False) + "\n")


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201 - standard output is the channel to the parent


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
