"""Figures of one decoded image: edges, colour, texture, artefacts, and sigma against complexity.

Fixed before any run: `IMAGES` held-out images, evenly spread by name; the middle `CROP` pixels of the square that
`jeppa compare` measured; the reconstruction from the latent mean; one drawn reconstruction for each image and seed. All
arms are given the same noise.
"""

import torch
from torch import Tensor

from jeppa.lab.calibration import mean_square_error, sobel_logvar
from jeppa.lab.metrics import gradient_energy_ratio
from jeppa.vae import HeteroscedasticVAE
from results.claims import complexity, structure
from results.claims.folder import CompareFolder, NotMeasuredError, make_generator

IMAGES = 32
CROP = 192
RESOLUTION = 344
REGIONS_FROM = "faithful"
"""The arm whose sigma says, for each seed, where all arms are searched for texture."""

KEYS = (
    "mean_gradient", "edge_psnr", "block_colour", "mean_spectrum", "draw_spectrum", "draw_gradient", "mean_grid",
    "draw_grid", "mean_ringing", "draw_ringing", "mean_specks", "draw_specks", "sigma_bits", "sobel_bits",
    "sigma_entropy", "sobel_entropy", "sigma_ratio", "sigma_miss", "sobel_miss", "encoder_bits",
)  # fmt: skip

Row = dict[str, float]


class DecodedFigures:
    """Figures of each image of any run; a run is measured once, when it is first asked for."""

    def __init__(self, folder: CompareFolder) -> None:
        self._folder = folder
        self._rows: dict[tuple[str, int], dict[str, Row]] = {}
        self._tiles: dict[tuple[int, str], Tensor] = {}

    def measure_run(self, arm: str, seed: int) -> dict[str, Row]:
        """The figures `KEYS` of a run by the image's name."""
        if (arm, seed) not in self._rows:
            self._rows[arm, seed] = self._measure(arm, seed)
        return self._rows[arm, seed]

    def _measure(self, arm: str, seed: int) -> dict[str, Row]:
        images = self._folder.load_images(IMAGES, RESOLUTION, CROP)
        tiles = {name: self._choose_tiles(seed, name, x) for name, x in images.items()}
        vae = self._folder.load_vae(arm, seed)
        return {
            name: measure(vae, x, tiles[name], make_generator(seed, index))
            for index, (name, x) in enumerate(images.items())
        }

    def _choose_tiles(self, seed: int, name: str, x: Tensor) -> Tensor | None:
        if (seed, name) not in self._tiles:
            try:
                vae = self._folder.load_vae(REGIONS_FROM, seed)
            except NotMeasuredError:
                return None
            with torch.no_grad():
                self._tiles[seed, name] = structure.texture_tiles(vae.reconstruct(x).logvar.mul(0.5).exp())
        return self._tiles[seed, name]


@torch.no_grad()
def measure(vae: HeteroscedasticVAE, x: Tensor, tiles: Tensor | None, noise: torch.Generator) -> Row:
    """The figures `KEYS` of one image `[1,3,H,W]`, H and W multiples of 8; without `tiles`, all but texture."""
    posterior = vae.encode(x)
    decoded = vae.decode(posterior.mean)
    mean, draw = decoded.mean, decoded.sample(noise)
    sigmas = measure_sigmas(x, mean, decoded.logvar, posterior.logvar)
    return {key: float(value) for key, value in {**measure_pictures(x, mean, draw, tiles), **sigmas}.items()}


def measure_pictures(x: Tensor, mean: Tensor, draw: Tensor, tiles: Tensor | None) -> dict[str, Tensor]:
    """What the eye sees in the mean and in a draw: edges, colour, texture and artefacts."""
    figures = {
        "mean_gradient": gradient_energy_ratio(x, mean),
        "edge_psnr": structure.edge_band_psnr(x, mean),
        "block_colour": structure.block_colour_error(x, mean),
        "draw_gradient": gradient_energy_ratio(x, draw),
    }
    for name, picture in (("mean", mean), ("draw", draw)):
        figures[f"{name}_grid"] = structure.blockiness_excess(x, picture).abs()
        figures[f"{name}_ringing"] = structure.ringing(x, picture)
        figures[f"{name}_specks"] = structure.colour_specks(x, picture)
        if tiles is not None:
            figures[f"{name}_spectrum"] = structure.spectrum_error(x, picture, tiles)
    return figures


def measure_sigmas(x: Tensor, mean: Tensor, logvar: Tensor, posterior_logvar: Tensor) -> dict[str, Tensor]:
    """Sigma of the decoder, Sobel's baseline and the encoder against bits, entropy and the real error."""
    bits, entropy = complexity.block_bits(x), complexity.block_entropy(x)
    error = complexity.block_sigma((x - mean).square().clamp_min(1e-12).log())
    true_ratio = complexity.plain_to_complex(error, bits)
    blocks = {
        "sigma": complexity.block_sigma(logvar),
        "sobel": complexity.block_sigma(sobel_logvar(mean, mean_square_error(x, mean))),
    }
    figures = {"encoder_bits": complexity.rank_correlation(0.5 * posterior_logvar.mean(1), bits)}
    for name, sigma in blocks.items():
        ratio = complexity.plain_to_complex(sigma, bits)
        figures[f"{name}_bits"] = complexity.rank_correlation(sigma, bits)
        figures[f"{name}_entropy"] = complexity.rank_correlation(sigma, entropy)
        figures[f"{name}_ratio"] = ratio
        figures[f"{name}_miss"] = (ratio / true_ratio).log().abs()
    return figures
