"""The training loop of both models, on accelerate: a generator that yields a record after every step.

    for record in train(VAEObjective(config), config, Path("run")): ...

All randomness is a function of (seed, step), so a resumed run takes the same steps as an uninterrupted one.
"""

import time
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from jeppa.config import RunConfig
from jeppa.errors import TrainingError
from jeppa.runtime import Runtime, choose_runtime, lay_out
from jeppa.train.changes import Change
from jeppa.train.failures import told_plainly
from jeppa.train.interrupt import StopSignal
from jeppa.train.lock import RunLock
from jeppa.train.nonfinite import BAD_STEPS_IN_A_ROW, Buffers, blame, explosion, refuse_to_keep
from jeppa.train.objective import Batch, Objective
from jeppa.train.record import RunLog, StepRecord
from jeppa.train.run_folder import open_run, publish, restore, store


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
    with RunLock(run), told_plainly(run, config.optim.batch_size, config.data.resolution):
        yield from _train(objective, config, run, resume, allow)


def _train(
    objective: Objective, config: RunConfig, run: Path, resume: bool, allow: Collection[Change]
) -> Iterator[StepRecord]:
    opened = open_run(run, config, objective.inputs(), resume, allow)
    checkpoint, notes = opened.checkpoint, opened.notes
    optim = config.optim
    objective.to(PartialState().device)
    runtime = _runtime(objective, config)
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
    notes.append(str(runtime))
    log = RunLog(run, start)
    yield StepRecord(start, optim.steps, objective.images_seen(start), 0.0, {}, "; ".join(notes))

    window, bad, began = _Window(), 0, time.perf_counter()
    with StopSignal() as stop, closing(objective.batches(start, optim.steps)) as batches:
        for step, batch in enumerate(batches, start + 1):
            buffers = Buffers(objective)
            noise = step_generator(config.seed, step, accelerator)
            with _autocast(accelerator.device, runtime):
                terms = wrapped(_placed(batch, accelerator.device, runtime), noise)
            norm = _update(accelerator, terms["loss"].mean(), objective.groups(), optimizer, optim.clip_norm)
            note, bad = ("", 0) if norm is not None else (blame(objective, terms), bad + 1)
            if bad == BAD_STEPS_IN_A_ROW:
                raise TrainingError(explosion(run, step, note))
            schedule.step()
            if norm is not None:
                ema.step(_trainable(objective))
                window.add(terms, norm)
            else:
                buffers.put_back()
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
                figures = _line(objective, window, step, lr, speed)
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

    def add(self, terms: dict[str, Tensor], norm: float) -> None:
        for key, value in {**{k: float(v.detach().mean()) for k, v in terms.items()}, "grad_norm": norm}.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {key: value / self.count for key, value in self.sums.items()}


def _runtime(objective: Objective, config: RunConfig) -> Runtime:
    def step(runtime: Runtime) -> None:
        handles = lay_out(objective, runtime)
        batch = _placed(next(iter(objective.batches(0, 1))), torch.device("cpu"), runtime)
        with _autocast(torch.device("cpu"), runtime):
            terms = objective(batch, torch.Generator().manual_seed(0))
        terms["loss"].mean().backward()
        objective.zero_grad()
        for handle in handles:
            handle.remove()

    saved = {key: value.clone() for key, value in objective.state_dict().items()}
    runtime = choose_runtime(config.optim.precision, objective, f"training on {objective.batch_shape()}", step)
    objective.load_state_dict(saved)
    return runtime


def _autocast(device: torch.device, runtime: Runtime) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def _placed(batch: Batch, device: torch.device, runtime: Runtime) -> Batch:
    def place(value: Tensor) -> Tensor:
        layout = runtime.memory_format if value.ndim == 4 else torch.contiguous_format
        return value.to(device, memory_format=layout)

    return {key: place(value) for key, value in batch.items()}


def _update(
    accelerator: Accelerator,
    loss: Tensor,
    groups: list[list[torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> float | None:
    """Take one optimizer step; the norm of all gradients, or None when the step was skipped as non-finite."""
    optimizer.zero_grad()
    accelerator.backward(loss)
    norms = [float(accelerator.clip_grad_norm_(group, clip_norm)) for group in groups]
    norm = float(np.sqrt(np.square(norms).sum()))
    if not np.isfinite(norm) or not bool(loss.isfinite()):
        optimizer.zero_grad()
        return None
    optimizer.step()
    return norm


def _line(objective: Objective, window: _Window, step: int, lr: float, speed: float) -> dict[str, float]:
    figures: dict[str, float] = {"step": step, "images": objective.images_seen(step)}
    if window.count:
        means = window.means()
        figures |= objective.summary(means) | {"grad_norm": means["grad_norm"]}
    return figures | {"lr": lr, "images_per_second": speed, "skipped": window.skipped}


def _trainable(objective: Objective) -> list[torch.nn.Parameter]:
    return [parameter for group in objective.groups() for parameter in group]
