"""Figures of one decoded image: edges, colour, texture, artefacts, and sigma against complexity.

Fixed before any run: `IMAGES` held-out images, evenly spread by name; of the square that `jeppa compare` measured,
the centre of `CROP` pixels; the reconstruction from the latent mean; one drawn reconstruction for each image and seed.
The same noise is given to all arms.
"""

import torch
from torch import Tensor

from claims.compared import Compared, NotMeasuredError, generator
from jeppa.evaluate import complexity, structure
from jeppa.lab.metrics import gradient_energy_ratio, mean_square_error, sobel_logvar
from jeppa.vae import HeteroscedasticVAE

IMAGES = 32
CROP = 192
RESOLUTION = 344
REGIONS_FROM = "faithful"
"""The arm whose sigma says, seed by seed, where texture is looked for: the same places for all arms."""

KEYS = (
    "mean_gradient", "edge_psnr", "block_colour", "mean_spectrum", "draw_spectrum", "draw_gradient", "mean_grid",
    "draw_grid", "mean_ringing", "draw_ringing", "mean_specks", "draw_specks", "sigma_bits", "sobel_bits",
    "sigma_entropy", "sobel_entropy", "sigma_ratio", "sigma_miss", "sobel_miss", "encoder_bits",
)  # fmt: skip

Row = dict[str, float]


class DecodedFigures:
    """Per-image figures of any run, each run measured once and only when asked for."""

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
        self._rows: dict[tuple[str, int], dict[str, Row]] = {}
        self._tiles: dict[tuple[int, str], Tensor] = {}

    def rows(self, arm: str, seed: int) -> dict[str, Row]:
        """The figures `KEYS` of a run by the image's name."""
        if (arm, seed) not in self._rows:
            self._rows[arm, seed] = self._measure(arm, seed)
        return self._rows[arm, seed]

    def _measure(self, arm: str, seed: int) -> dict[str, Row]:
        images = self._compared.images(IMAGES, RESOLUTION, CROP)
        tiles = {name: self._regions(seed, name, x) for name, x in images.items()}
        vae = self._compared.vae(arm, seed)
        return {
            name: measure(vae, x, tiles[name], generator(seed, index)) for index, (name, x) in enumerate(images.items())
        }

    def _regions(self, seed: int, name: str, x: Tensor) -> Tensor | None:
        if (seed, name) not in self._tiles:
            try:
                vae = self._compared.vae(REGIONS_FROM, seed)
            except NotMeasuredError:
                return None
            with torch.no_grad():
                self._tiles[seed, name] = structure.texture_tiles(vae.reconstruct(x).logvar.mul(0.5).exp())
        return self._tiles[seed, name]


@torch.no_grad()
def measure(vae: HeteroscedasticVAE, x: Tensor, tiles: Tensor | None, noise: torch.Generator) -> Row:
    """All of `KEYS` for one image `[1,3,H,W]`, H and W multiples of 8; texture is left out without `tiles`."""
    posterior = vae.encode(x)
    decoded = vae.decode(posterior.mean)
    mean, draw = decoded.mean, decoded.sample(noise)
    sigmas = _sigma_figures(x, mean, decoded.logvar, posterior.logvar)
    return {key: float(value) for key, value in {**_pictures(x, mean, draw, tiles), **sigmas}.items()}


def _pictures(x: Tensor, mean: Tensor, draw: Tensor, tiles: Tensor | None) -> dict[str, Tensor]:
    found = {
        "mean_gradient": gradient_energy_ratio(x, mean),
        "edge_psnr": structure.edge_band_psnr(x, mean),
        "block_colour": structure.block_colour_error(x, mean),
        "draw_gradient": gradient_energy_ratio(x, draw),
    }
    for name, picture in (("mean", mean), ("draw", draw)):
        found[f"{name}_grid"] = structure.blockiness_excess(x, picture).abs()
        found[f"{name}_ringing"] = structure.ringing(x, picture)
        found[f"{name}_specks"] = structure.colour_specks(x, picture)
        if tiles is not None:
            found[f"{name}_spectrum"] = structure.spectrum_error(x, picture, tiles)
    return found


def _sigma_figures(x: Tensor, mean: Tensor, logvar: Tensor, posterior_logvar: Tensor) -> dict[str, Tensor]:
    """Sigma of the decoder, Sobel's baseline and the encoder against bits, entropy and the real error."""
    bits, entropy = complexity.block_bits(x), complexity.block_entropy(x)
    error = complexity.block_sigma((x - mean).square().clamp_min(1e-12).log())
    true_ratio = complexity.plain_to_complex(error, bits)
    blocks = {
        "sigma": complexity.block_sigma(logvar),
        "sobel": complexity.block_sigma(sobel_logvar(mean, mean_square_error(x, mean))),
    }
    found = {"encoder_bits": complexity.rank_correlation(0.5 * posterior_logvar.mean(1), bits)}
    for name, sigma in blocks.items():
        ratio = complexity.plain_to_complex(sigma, bits)
        found[f"{name}_bits"] = complexity.rank_correlation(sigma, bits)
        found[f"{name}_entropy"] = complexity.rank_correlation(sigma, entropy)
        found[f"{name}_ratio"] = ratio
        found[f"{name}_miss"] = (ratio / true_ratio).log().abs()
    return found
