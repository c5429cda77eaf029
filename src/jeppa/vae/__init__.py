"""The heteroscedastic VAE: model, sigma head, likelihoods, folders that diffusers opens."""

from jeppa.vae.curve import KNOTS
from jeppa.vae.interop import load_folder, save_folder
from jeppa.vae.likelihood import LIKELIHOODS
from jeppa.vae.model import FACTOR, HeteroscedasticVAE, Rows, pad_to_multiple
from jeppa.vae.sigma import SigmaHead

__all__ = [
    "FACTOR",
    "KNOTS",
    "LIKELIHOODS",
    "HeteroscedasticVAE",
    "Rows",
    "SigmaHead",
    "load_folder",
    "pad_to_multiple",
    "save_folder",
]
