"""Diffusion in latent space: schedule, denoiser with its variance, loss, DDIM. A latent is just a tensor."""

from jeppa.diffusion.ddim import (
    DDIM,
    SamplerStep,
    ddim_step,
    ddim_variance,
    generators_for,
    initial_noise,
    invert_ddim,
    sample_ddim,
    x0_share,
)
from jeppa.diffusion.denoiser import Denoiser, VarianceHead, make_denoise, make_unet, null_label
from jeppa.diffusion.folder import (
    DESCRIPTION,
    DenoiserAbout,
    load_denoiser,
    make_denoiser,
    read_description,
    save_denoiser,
)
from jeppa.diffusion.prediction import (
    Denoise,
    Prediction,
    add_noise,
    denoising_loss,
    drop_labels,
    sample_timesteps,
    target,
)
from jeppa.diffusion.schedule import Spacing, Timesteps, alpha_bars, make_scheduler, timesteps
from jeppa.diffusion.scheduler import HeteroscedasticDDIMScheduler
from jeppa.diffusion.variance_unet import VarianceUNet

__all__ = [
    "DDIM",
    "DESCRIPTION",
    "Denoise",
    "Denoiser",
    "DenoiserAbout",
    "HeteroscedasticDDIMScheduler",
    "Prediction",
    "SamplerStep",
    "Spacing",
    "Timesteps",
    "VarianceHead",
    "VarianceUNet",
    "add_noise",
    "alpha_bars",
    "ddim_step",
    "ddim_variance",
    "denoising_loss",
    "drop_labels",
    "generators_for",
    "initial_noise",
    "invert_ddim",
    "load_denoiser",
    "make_denoise",
    "make_denoiser",
    "make_scheduler",
    "make_unet",
    "null_label",
    "read_description",
    "sample_ddim",
    "sample_timesteps",
    "save_denoiser",
    "target",
    "timesteps",
    "x0_share",
]
