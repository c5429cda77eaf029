"""Diffusion in latent space: schedule, denoiser, training loss, DDIM sampler. A latent is just a tensor."""

from jeppa.diffusion.ddim import (
    SamplerStep,
    ddim_step,
    ddim_variance,
    generators_for,
    initial_noise,
    sample_ddim,
)
from jeppa.diffusion.denoiser import guided, make_denoiser, null_label
from jeppa.diffusion.loss import drop_labels, sample_timesteps, v_loss
from jeppa.diffusion.schedule import (
    Denoise,
    Spacing,
    add_noise,
    alpha_bars,
    eps_from_v,
    make_scheduler,
    timesteps,
    v_target,
    x0_from_v,
)

__all__ = [
    "Denoise",
    "SamplerStep",
    "Spacing",
    "add_noise",
    "alpha_bars",
    "ddim_step",
    "ddim_variance",
    "drop_labels",
    "eps_from_v",
    "generators_for",
    "guided",
    "initial_noise",
    "make_denoiser",
    "make_scheduler",
    "null_label",
    "sample_ddim",
    "sample_timesteps",
    "timesteps",
    "v_loss",
    "v_target",
    "x0_from_v",
]
