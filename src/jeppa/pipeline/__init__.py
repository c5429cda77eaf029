"""From a folder to a working model: reconstruct, sigma map, generate, interpolate, mix."""

from jeppa.config import DDIMSettings, SamplerSettings
from jeppa.pipeline.drawing import Axis, Moment, draw_grid, draw_live
from jeppa.pipeline.loading import about_denoiser, check_latents, describe_denoiser, load_model
from jeppa.pipeline.looking import Look, Readout, Trip, draw_again, has_texture, look, round_trips, with_texture
from jeppa.pipeline.mixing import Method, between, even_shares, fuse, slerp
from jeppa.pipeline.model import Model, Preview, Sample, Uncertainty, batch_size_for, uncertainty
from jeppa.pipeline.regions import Edit, change_inside, draw_inside, paste_back, texture_inside

__all__ = [
    "Axis",
    "DDIMSettings",
    "Edit",
    "Look",
    "Method",
    "Model",
    "Moment",
    "Preview",
    "Readout",
    "Sample",
    "SamplerSettings",
    "Trip",
    "Uncertainty",
    "about_denoiser",
    "batch_size_for",
    "between",
    "change_inside",
    "check_latents",
    "describe_denoiser",
    "draw_again",
    "draw_grid",
    "draw_inside",
    "draw_live",
    "even_shares",
    "fuse",
    "has_texture",
    "load_model",
    "look",
    "paste_back",
    "round_trips",
    "slerp",
    "texture_inside",
    "uncertainty",
    "with_texture",
]
