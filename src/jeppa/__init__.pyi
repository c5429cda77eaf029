from .config import PRESETS, DiffusionRun, VAEConfig, VAERun
from .data import open_source, read_image, write_png
from .diffusion import HeteroscedasticDDIMScheduler
from .distributions import DiagonalGaussian
from .errors import JeppaError
from .pipeline import Model, SamplerSettings, load_model
from .train import DiffusionObjective, VAEObjective
from .vae import HeteroscedasticVAE
from .vae.codec import LatentCodec, LatentStats

__all__ = [
    "PRESETS",
    "DiagonalGaussian",
    "DiffusionObjective",
    "DiffusionRun",
    "HeteroscedasticDDIMScheduler",
    "HeteroscedasticVAE",
    "JeppaError",
    "LatentCodec",
    "LatentStats",
    "Model",
    "SamplerSettings",
    "VAEConfig",
    "VAEObjective",
    "VAERun",
    "load_model",
    "open_source",
    "read_image",
    "write_png",
]

__version__: str
