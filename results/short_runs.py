"""Short training runs of a VAE, as several studies need them, and processes to run them side by side."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

from jeppa.config import OptimConfig, VAERun
from jeppa.pipeline import load_model
from jeppa.train import VAEObjective, train
from jeppa.vae import HeteroscedasticVAE


def short_optimisation(steps: int) -> OptimConfig:
    """Settings for this number of steps of eight crops, with one sample sheet and one checkpoint, at the end."""
    return OptimConfig(steps=steps, batch_size=8, ema_decay=0.99, sample_every=steps, save_every=steps)


def train_vae(config: VAERun, run: Path, start: Path | None = None) -> HeteroscedasticVAE:
    """Train to the end.

    Args:
        config: settings of the run.
        run: folder to train in.
        start: run folder of a VAE whose weights to start from.

    Returns:
        The model with averaged weights, as `load_model` gives it.
    """
    for _ in train(VAEObjective(config, start), run):
        pass
    return load_model(run).codec.vae


@contextmanager
def single_threaded_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that compute with one thread each, and start from nothing instead of being forked."""
    with (
        mock.patch.dict(os.environ, OMP_NUM_THREADS="1"),  # each new process reads it
        ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool,
    ):
        yield pool
