"""From a folder to a working model: reconstruct, sigma map, generate, interpolate, mix."""

from jeppa.pipeline.batches import at_once
from jeppa.pipeline.loading import about_denoiser, describe_denoiser, load_model
from jeppa.pipeline.mixing import Method, between, even_shares, fuse, slerp
from jeppa.pipeline.model import Model, Sample
from jeppa.pipeline.preview import Preview
from jeppa.pipeline.uncertainty import Uncertainty, uncertainty
from jeppa.sampling import DDIMSettings, SamplerSettings

__all__ = [
    "DDIMSettings",
    "Method",
    "Model",
    "Preview",
    "Sample",
    "SamplerSettings",
    "Uncertainty",
    "about_denoiser",
    "at_once",
    "between",
    "describe_denoiser",
    "even_shares",
    "fuse",
    "load_model",
    "slerp",
    "uncertainty",
]
