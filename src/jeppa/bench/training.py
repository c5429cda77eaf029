"""Training steps beside a plain loop of diffusers and accelerate in fp32: same net, batch and pictures."""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch.nn import functional as F
from torch.utils.data import DataLoader

from jeppa.bench.clock import Row, race
from jeppa.config import DataConfig, OptimConfig, VAEConfig, VAERun
from jeppa.data import CropDataset, open_source
from jeppa.train import VAEObjective, train
from jeppa.train.vae import initial_model

BATCH = 32
SIDE = 64
STEPS_A_TURN = 2
MANY_STEPS = 1_000_000
LEARNING_RATE = 3e-4
MODEL = VAEConfig(
    pixel_unshuffle=1, block_out_channels=(32, 64, 128, 128), layers_per_block=1, norm_num_groups=16,
    mid_block_attention=True, sigma_channels=48,
)  # fmt: skip


def training_rows(alternations: int) -> Iterator[Row]:
    """Images a second, pictures read and cropped included."""
    config = _config()
    with tempfile.TemporaryDirectory() as folder:
        objective = VAEObjective(config)
        with closing(train(objective, config, Path(folder) / "run")) as records, closing(plain_loop(config)) as peer:
            note = next(records).note
            yield race(
                "small_train_64", lambda: _take(records), lambda: _take(peer), alternations,
                f"{STEPS_A_TURN} steps of {BATCH} crops of {SIDE} pixels, no sigma head; ours {note}",
            )  # fmt: skip


def plain_loop(config: VAERun) -> Generator[float, None, None]:
    """The loop that a user would write: the losses of its steps."""
    accelerator = Accelerator()
    model: AutoencoderKL = initial_model(config, None).vae
    crops = CropDataset(open_source(config.data.data, "train"), SIDE, config.seed)
    keys = (range(start, start + BATCH) for start in range(0, MANY_STEPS * BATCH, BATCH))
    loader = DataLoader(crops, batch_sampler=keys)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in loader:
        posterior = model.encode(batch["x"]).latent_dist
        loss = F.mse_loss(model.decode(posterior.sample()).sample, batch["x"]) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())


def _config() -> VAERun:
    optim = OptimConfig(
        steps=MANY_STEPS, batch_size=BATCH, learning_rate=LEARNING_RATE, log_every=MANY_STEPS,
        sample_every=MANY_STEPS, save_every=MANY_STEPS,
    )  # fmt: skip
    data = DataConfig(resolution=SIDE, sizes=1)
    return VAERun(preset=None, model=MODEL, likelihood="shared", data=data, optim=optim)


def _take(steps: Iterator[object]) -> None:
    for _ in islice(steps, STEPS_A_TURN):
        pass
