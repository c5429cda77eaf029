"""The denoisers of the sampler study: one for each seed, on the latents of grocery pictures at 64 pixels."""

from pathlib import Path

from jeppa.config import DataConfig, DenoiserConfig, DiffusionRun, OptimConfig
from jeppa.pipeline import load_model
from jeppa.train import DiffusionObjective, train, with_classes

RESOLUTION = 64
STEPS = 2500
MODEL = DenoiserConfig(block_out_channels=(32, 64, 64), attention=(False, True, True))
OPTIM = OptimConfig(
    steps=STEPS, batch_size=64, learning_rate=2e-3, ema_decay=0.998, precision="exact", log_every=100, save_every=500
)


def run_folder(work: Path, seed: int) -> Path:
    """Where the denoiser of a seed is."""
    return work / f"denoiser-{seed}"


def train_denoiser(vae: Path, data: Path, work: Path, seed: int) -> None:
    """Train one denoiser with its variance head, or go on where it stopped."""
    crops = DataConfig(data=str(data), resolution=RESOLUTION, min_view=0.9)
    config = with_classes(
        DiffusionRun(seed=seed, vae=str(vae), model=MODEL, classes=True, views=2514, data=crops, optim=OPTIM)
    )
    for _ in train(DiffusionObjective(config, load_model(vae).codec), config, run_folder(work, seed), resume=True):
        pass
