"""Training: one loop for the VAE and the denoiser."""

from jeppa.train.diffusion import DiffusionObjective, with_classes
from jeppa.train.initial import like_denoiser
from jeppa.train.interrupt import Interrupted
from jeppa.train.loop import train
from jeppa.train.record import StepRecord
from jeppa.train.texture import TextureObjective
from jeppa.train.vae import VAEObjective

__all__ = ["DiffusionObjective", "Interrupted", "StepRecord", "TextureObjective", "VAEObjective", "like_denoiser", "train", "with_classes"]
