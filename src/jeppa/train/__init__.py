"""Training: one loop for the VAE and the denoiser."""

from jeppa.train.diffusion import DiffusionObjective, like_denoiser, with_classes
from jeppa.train.loop import StepRecord, train
from jeppa.train.run_folder import replace_sigma_head
from jeppa.train.signals import Interrupted
from jeppa.train.texture import TextureObjective
from jeppa.train.vae import VAEObjective

__all__ = [
    "DiffusionObjective",
    "Interrupted",
    "StepRecord",
    "TextureObjective",
    "VAEObjective",
    "like_denoiser",
    "replace_sigma_head",
    "train",
    "with_classes",
]
