from .config import PRESETS, DiffusionRun, VAEConfig, VAERun
from .data import open_source, read_image, write_png
from .diffusion import HeteroscedasticDDIMScheduler, VarianceHead
from .distributions import DiagonalGaussian
from .errors import JeppaError
from .pipeline import Model, SamplerSettings, load_model
from .pipeline.stock_pipeline import HeteroscedasticPipeline
from .train import DiffusionObjective, VAEObjective
from .vae import HeteroscedasticVAE
from .vae.codec import LatentCodec, LatentStats
from .vae.pyramid import PyramidAutoencoder
from .vae.sigma_head import SigmaHead
from .vae.texture import TextureHead

__all__ = [
    "PRESETS",
    "DiagonalGaussian",
    "DiffusionObjective",
    "DiffusionRun",
    "HeteroscedasticDDIMScheduler",
    "HeteroscedasticPipeline",
    "HeteroscedasticVAE",
    "JeppaError",
    "LatentCodec",
    "LatentStats",
    "Model",
    "PyramidAutoencoder",
    "SamplerSettings",
    "SigmaHead",
    "TextureHead",
    "VAEConfig",
    "VAEObjective",
    "VAERun",
    "VarianceHead",
    "load_model",
    "open_source",
    "read_image",
    "write_png",
]

__version__: str
