"""From a folder to a working model: reconstruct, sigma map, generate, interpolate, mix."""

from jeppa.config import DDIMSettings, SamplerSettings
from jeppa.pipeline.loading import about_denoiser, describe_denoiser, load_model
from jeppa.pipeline.mixing import Method, between, even_shares, fuse, slerp
from jeppa.pipeline.model import Model, Preview, Sample, Uncertainty, batch_size_for, uncertainty

__all__ = [
    "DDIMSettings",
    "Method",
    "Model",
    "Preview",
    "Sample",
    "SamplerSettings",
    "Uncertainty",
    "about_denoiser",
    "batch_size_for",
    "between",
    "describe_denoiser",
    "even_shares",
    "fuse",
    "load_model",
    "slerp",
    "uncertainty",
]
