"""What `jeppa reconstruct` fills row by row; the files are tested with the command line."""

from pathlib import Path

import numpy as np
import torch

from jeppa.data.images import colour_map, sigma_levels, to_pixels, to_x
from jeppa.outputs import reconstruct_pixels
from jeppa.pipeline import load_model


def test_a_picture_in_tiles_is_filled_row_by_row_with_the_reconstruction(vae_folder: Path):
    """Red when a strip lands at another place, its sigma in other units, or the colours are not those of sigma."""
    model = load_model(vae_folder)
    assert model.codec.vae.tiling is not None
    model.codec.vae.enable_tiling(240)
    pixels = np.random.default_rng(0).integers(0, 256, (301, 50, 3), np.uint8)
    decoded = model.reconstruct(to_x(pixels)[None])
    mean, levels, shown = reconstruct_pixels(model, pixels)
    assert np.array_equal(mean, to_pixels(decoded.mean[0]))
    assert np.array_equal(levels, sigma_levels(decoded.logvar[0]))
    assert np.array_equal(shown, colour_map(levels))


def test_without_tiling_the_rows_are_the_whole_picture(vae_folder: Path):
    """Red when rows are left out of what is read or of what is given away, or mean and log-variance change places."""
    model = load_model(vae_folder)
    model.codec.vae.disable_tiling()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    (rows,) = model.reconstruct_rows(pixels)
    assert rows.top == 0
    whole = model.reconstruct(to_x(pixels)[None])
    assert torch.equal(rows.mean, whole.mean)
    assert torch.equal(rows.logvar, whole.logvar)
