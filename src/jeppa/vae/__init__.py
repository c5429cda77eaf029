"""The heteroscedastic VAE: model, sigma head, likelihoods, folders that diffusers opens."""

from jeppa.vae.codec import load_folder, save_folder
from jeppa.vae.foreign import describe_vae, is_foreign, load_vae
from jeppa.vae.likelihoods import LIKELIHOODS
from jeppa.vae.model import FACTOR, HeteroscedasticVAE, Rows, pad_to_multiple
from jeppa.vae.sigma_head import KNOTS, SigmaHead

__all__ = [
    "FACTOR",
    "KNOTS",
    "LIKELIHOODS",
    "HeteroscedasticVAE",
    "Rows",
    "SigmaHead",
    "describe_vae",
    "is_foreign",
    "load_folder",
    "load_vae",
    "pad_to_multiple",
    "save_folder",
]
