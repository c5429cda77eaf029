"""The training loop of both models, on accelerate: a generator that yields a record after every step.

    for record in train(VAEObjective(config), config, Path("run")): ...

All randomness is a function of (seed, step), so a resumed run takes the same steps as an uninterrupted one.

Each record goes to `log.jsonl` and TensorBoard too.
"""

import json
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.tensorboard import SummaryWriter

from jeppa.config import RunConfig
from jeppa.errors import TrainingError
from jeppa.files import write_text_atomically
from jeppa.runtime import lay_out
from jeppa.train.faults import BAD_STEPS_IN_A_ROW, RunLock, StopSignal, blame, explosion, refuse_to_keep, told_plainly
from jeppa.train.run_folder import Change, open_run, publish, restore, store
from jeppa.train.step import Objective, Stepper, Terms, training_runtime


@dataclass(frozen=True)
class StepRecord:
    """What the caller of the loop learns after each step.

    Args:
        step: steps taken so far, from 1.
        total: steps of the whole run.
        images: images seen so far.
        images_per_second: in this run of the loop.
        figures: the content of the line just logged; empty on steps without a line.
        note: something worth telling a person, or empty.
    """

    step: int
    total: int
    images: int
    images_per_second: float
    figures: dict[str, float]
    note: str = ""


class RunLog:
    """Appends to `log.jsonl` and to TensorBoard; on resume, forgets what the lost steps wrote."""

    def __init__(self, run: Path, start: int) -> None:
        self._path = run / "log.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _logged_step(line) <= start]
        write_text_atomically(self._path, "".join(line + "\n" for line in kept))
        self._board = SummaryWriter(str(run), purge_step=start + 1)

    def write(self, figures: dict[str, float]) -> None:
        """Append one line; `figures` has a `step`."""
        rounded = {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in figures.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        for key, value in figures.items():
            if key != "step":
                self._board.add_scalar(key, value, int(figures["step"]))

    def close(self) -> None:
        """Flush TensorBoard."""
        self._board.close()


def _logged_step(line: str) -> float:
    """The step of a log line; a half-written one counts as lost."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def train(
    objective: Objective, config: RunConfig, run: Path, resume: bool = False, allow: Collection[Change] = ()
) -> Generator[StepRecord, None, None]:
    """Train `objective`, writing the run folder `run`; yields after each step.

    The last checkpoint has the averaged weights' export and latent statistics. Stopping the iteration early
    leaves the newest checkpoint as it is; SIGTERM or Ctrl-C finishes the step and saves.

    Args:
        objective: the model with its loss; its weights are replaced on resume.
        config: all settings; must equal those of the run that is resumed, but for what has no influence on weights.
        run: folder to write; must not hold another run.
        resume: go on from the newest verified checkpoint (or start, if there is none yet).
        allow: what may differ on resume after all: settings (never the model's or the seed), data.

    Raises:
        ConfigError: the folder holds a run and `resume` is False, settings or images differ from its own, or
            another process trains in it.
        CheckpointError: a checkpoint cannot be written or none can be read.
        TrainingError: ten steps in a row gave a non-finite loss or gradient, or a weight is not finite; memory or
            disk do not suffice; a process that reads images died.
        Interrupted: a signal came; everything is saved.
    """
    with RunLock(run), told_plainly(run, config.optim, config.data.resolution):
        yield from _train(objective, config, run, resume, allow)


def _train(
    objective: Objective, config: RunConfig, run: Path, resume: bool, allow: Collection[Change]
) -> Iterator[StepRecord]:
    opened = open_run(run, config, objective.inputs(), resume, allow)
    checkpoint, notes = opened.checkpoint, opened.notes
    optim = config.optim
    objective.to(PartialState().device)
    runtime = training_runtime(objective, optim)
    accelerator = Accelerator()
    lay_out(objective, runtime)
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in objective.groups()],
        optim.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=optim.steps)
    ema = EMAModel(_trainable(objective), optim.ema_decay, foreach=True)
    if checkpoint is not None:
        restore(checkpoint, objective, optimizer, ema, schedule)
    start = checkpoint.step if checkpoint is not None else 0
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    stepper = Stepper(objective, wrapped, optimizer, accelerator, runtime, optim)
    notes.append(str(runtime))
    log = RunLog(run, start)
    yield StepRecord(start, optim.steps, objective.images_seen(start), 0.0, {}, "; ".join(notes))

    window, bad, began = _Window(), 0, time.perf_counter()
    with StopSignal() as stop, closing(objective.batches(start, optim.steps)) as batches:
        for step, batch in enumerate(batches, start + 1):
            taken = stepper.take(batch, step_generator(config.seed, step, accelerator))
            note, bad = ("", 0) if taken.norm is not None else (blame(objective, taken.terms), bad + 1)
            if bad == BAD_STEPS_IN_A_ROW:
                raise TrainingError(explosion(run, step, note))
            schedule.step()
            if taken.norm is not None:
                ema.step(_trainable(objective))
                window.add(taken.terms, taken.norm)
            else:
                window.skipped += 1
                note = f"step {step} skipped: {note} is not finite"
            images = objective.images_seen(step)
            speed = (images - objective.images_seen(start)) / (time.perf_counter() - began)
            figures: dict[str, float] = {}
            stopping = stop.received
            last = step == optim.steps or stopping
            saving = step % optim.save_every == 0 or last
            if saving:
                refuse_to_keep(run, step, objective, ema, optimizer)
            if step % optim.log_every == 0 or last:
                lr = schedule.get_last_lr()[0]
                figures = _log_line(objective, window, step, lr, speed)
                log.write(figures)
                window = _Window()
            if step % optim.sample_every == 0 or last:
                with averaged(ema, objective):
                    objective.draw_samples(run / "samples" / f"step-{step:06d}.png")
            if saving:
                with averaged(ema, objective):
                    published = publish(objective, run)
                    averaged_weights = {key: value.clone() for key, value in objective.state_dict().items()}
                store(
                    run, step, objective, averaged_weights, optimizer, ema, schedule, published, optim.keep,
                    opened.origin,
                )  # fmt: skip
            yield StepRecord(step, optim.steps, images, speed, figures, note)
            if stopping:
                stop.interrupt()
    log.close()


def step_generator(seed: int, step: int, accelerator: Accelerator) -> torch.Generator:
    """The source of all noise in one step of one process."""
    words = np.random.SeedSequence([seed, step, accelerator.process_index]).generate_state(1)
    return torch.Generator().manual_seed(int(words[0]))


@contextmanager
def averaged(ema: EMAModel, objective: Objective) -> Iterator[None]:
    """The model with its averaged weights and in evaluation mode; the trained ones come back afterwards."""
    ema.store(_trainable(objective))
    ema.copy_to(_trainable(objective))
    objective.eval()
    try:
        yield
    finally:
        ema.restore(_trainable(objective))
        objective.train()


class _Window:
    """Sums of the loss terms since the last log line."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.skipped = 0

    def add(self, terms: Terms, norm: float) -> None:
        for key, value in {**{k: float(v.mean()) for k, v in terms.items()}, "grad_norm": norm}.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {key: value / self.count for key, value in self.sums.items()}


def _log_line(objective: Objective, window: _Window, step: int, lr: float, speed: float) -> dict[str, float]:
    figures: dict[str, float] = {"step": step, "images": objective.images_seen(step)}
    if window.count:
        means = window.means()
        figures |= objective.summary(means) | {"grad_norm": means["grad_norm"]}
    return figures | {"lr": lr, "images_per_second": speed, "skipped": window.skipped}


def _trainable(objective: Objective) -> list[torch.nn.Parameter]:
    return [parameter for group in objective.groups() for parameter in group]
