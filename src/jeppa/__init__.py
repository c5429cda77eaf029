"""jeppa: train, evaluate and use heteroscedastic VAEs for latent diffusion.

    import jeppa
    model = jeppa.load_model(Path("run"))
    decoded = model.reconstruct(jeppa.read_image(Path("photo.jpg"))[None])
    decoded.mean, decoded.std        # reconstruction and its per-pixel sigma, [1,3,H,W]
"""

from jeppa.config import PRESETS, DiffusionRun, VAEConfig, VAERun
from jeppa.data import open_source, read_image, write_png
from jeppa.errors import JeppaError
from jeppa.evaluate import evaluate
from jeppa.gaussian import DiagonalGaussian
from jeppa.latent import LatentCodec, LatentStats
from jeppa.pipeline import Model, SamplerSettings, load_model
from jeppa.train import DiffusionObjective, VAEObjective, train
from jeppa.vae import HeteroscedasticVAE

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "DiagonalGaussian",
    "DiffusionObjective",
    "DiffusionRun",
    "HeteroscedasticVAE",
    "JeppaError",
    "LatentCodec",
    "LatentStats",
    "Model",
    "SamplerSettings",
    "VAEConfig",
    "VAEObjective",
    "VAERun",
    "evaluate",
    "load_model",
    "open_source",
    "read_image",
    "train",
    "write_png",
]
