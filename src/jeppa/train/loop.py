"""The training loop of all models, on accelerate: a generator that yields a record after every step.

    for record in train(VAEObjective(config), Path("run")): ...

All randomness is a function of (seed, step), so a resumed run takes the same steps as an uninterrupted one. Started by
`accelerate launch` or torchrun, the loop runs in many processes, which take each step together; see `train.ranks`.

Each record goes to `log.jsonl` and TensorBoard too.
"""

import json
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from jeppa.errors import JeppaError, TrainingError
from jeppa.files import write_text_atomically
from jeppa.runtime import lay_out
from jeppa.train.faults import BAD_STEPS_IN_A_ROW, RunLock, blame, check_finite, explain_failures, explosion
from jeppa.train.ranks import Ranks, joined_ranks, make_accelerator
from jeppa.train.run_folder import Change, open_run, restore, store
from jeppa.train.signals import PATIENCE, StepAbandoned, StopSignal
from jeppa.train.step import Objective, Stepper, Terms, TrainState, make_state, training_runtime


@dataclass(frozen=True)
class StepRecord:
    """What the loop tells its caller after each step.

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
    objective: Objective, run: Path, resume: bool = False, allow: Collection[Change] = ()
) -> Generator[StepRecord, None, None]:
    """Train `objective` with its settings, writing the run folder `run`; yields after each step.

    The last checkpoint has the averaged weights' export and latent statistics. Stopping the iteration early
    leaves the newest checkpoint as it is; SIGTERM or Ctrl-C finishes the step and saves.

    Args:
        objective: the model with its loss, its data and its settings; its weights are replaced on resume.
        run: folder to write; must not hold another run.
        resume: go on from the newest intact checkpoint, or start if there is none yet. The settings must equal those
            of the run, except for those that do not influence the weights.
        allow: what may differ on resume after all: settings (never the model's or the seed), data.

    Raises:
        ConfigError: the folder holds a run and `resume` is False, settings or images differ from its own, or
            another process trains in it.
        CheckpointError: a checkpoint cannot be written or none can be read.
        TrainingError: ten steps in a row gave a non-finite loss or gradient, or a weight is not finite; memory or
            disk do not suffice; a process that reads images, or that trains with this one, died.
        Interrupted: a signal came; everything is saved.
    """
    config = objective.config
    with explain_failures(run, config.optim, config.data.resolution), joined_ranks() as ranks, ExitStack() as held:
        ranks.from_first(lambda: bool(held.enter_context(RunLock(run))))
        yield from _train(objective, run, resume, allow, ranks)


def _train(
    objective: Objective, run: Path, resume: bool, allow: Collection[Change], ranks: Ranks
) -> Iterator[StepRecord]:
    data, optim = objective.data, objective.config.optim
    inputs = data.describe()
    opened = ranks.from_first(lambda: open_run(run, objective.config, inputs, resume, allow))
    accelerator = make_accelerator(ranks)
    objective.to(accelerator.device)
    ranks.equalise(objective)
    runtime = ranks.from_first(lambda: training_runtime(objective, ranks))
    lay_out(objective, runtime)
    state, start = make_state(objective), 0
    if opened.checkpoint is not None:
        restore(opened.checkpoint, state)
        start = opened.checkpoint.step
    wrapped, optimizer = accelerator.prepare(objective, state.optimizer)
    stepper = Stepper(objective, wrapped, optimizer, accelerator, runtime, ranks)
    log = RunLog(run, start) if ranks.is_first else None
    notes = "; ".join([*opened.notes, str(runtime)])
    yield StepRecord(start, optim.steps, data.images_seen(start), 0.0, {}, notes)

    window, bad, began, stored = _Window(), 0, time.perf_counter(), start
    stop = StopSignal(objective if ranks.count == 1 else None)
    with stop, closing(data.batches(start, optim.steps, ranks)) as batches:
        for step in range(start + 1, optim.steps + 1):
            try:
                with stop.patience(0.0):
                    batch = next(batches)
                with stop.patience(PATIENCE):
                    part = data.part(step - 1, ranks)
                    result = stepper.take(batch, step_generator(objective.config.seed, step), part)
            except StepAbandoned:
                if stored < step - 1:
                    check_finite(run, step - 1, state)
                    store(run, step - 1, state, opened.origin)
                stop.interrupt(saved=step > 1)
            note, bad = ("", 0) if result.norm is not None else (blame(objective, result.means), bad + 1)
            if bad == BAD_STEPS_IN_A_ROW:
                raise TrainingError(explosion(run, step, note))
            state.schedule.step()
            if result.norm is not None:
                state.advance()
                window.add(result.means, result.norm)
            else:
                window.skipped += 1
                note = f"step {step} skipped: {note} is not finite"
            images = data.images_seen(step)
            speed = (images - data.images_seen(start)) / (time.perf_counter() - began)
            figures: dict[str, float] = {}
            stopping = ranks.any(stop.received)
            last = step == optim.steps or stopping
            saving = step % optim.save_every == 0 or last
            if saving:
                check_finite(run, step, state)
            if step % optim.log_every == 0 or last:
                figures = _log_line(objective, window, step, float(state.schedule.get_last_lr()[0]), speed)
                if log is not None:
                    log.write(figures)
                window = _Window()
            if ranks.is_first and saving:
                store(run, step, state, opened.origin)
                stored = step
            if ranks.is_first and not stopping and (step % optim.sample_every == 0 or step == optim.steps):
                note = "; ".join(filter(None, (note, _draw_sheet(run, step, state))))
            yield StepRecord(step, optim.steps, images, speed, figures, note)
            if stopping:
                stop.interrupt()
    if log is not None:
        log.close()


def _draw_sheet(run: Path, step: int, state: TrainState) -> str:
    """Draw the sheet of samples; a failure is no reason to end the run, and is returned as a note."""
    path = run / "samples" / f"step-{step:06d}.png"
    try:
        with state.use_average():
            state.objective.draw_samples(path)
    except (JeppaError, OSError, MemoryError, RuntimeError, ValueError) as error:
        return f"no sample sheet at step {step}: {' '.join(str(error).split())[:200]}"
    return ""


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of all noise in one step."""
    words = np.random.SeedSequence([seed, step, 0]).generate_state(1)
    return torch.Generator().manual_seed(int(words[0]))


class _Window:
    """Sums of the loss terms since the last log line."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.skipped = 0

    def add(self, means: Terms, norm: float) -> None:
        for key, value in {**{k: float(v) for k, v in means.items()}, "grad_norm": norm}.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {key: value / self.count for key, value in self.sums.items()}


def _log_line(objective: Objective, window: _Window, step: int, lr: float, speed: float) -> dict[str, float]:
    figures: dict[str, float] = {"step": step, "images": objective.data.images_seen(step)}
    if window.count:
        means = window.means()
        figures |= objective.summary(means) | {"grad_norm": means["grad_norm"]}
    return figures | {"lr": lr, "images_per_second": speed, "skipped": window.skipped}
