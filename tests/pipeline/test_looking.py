"""What a model is sure of in a picture: `jeppa.pipeline.looking`."""

from pathlib import Path

import numpy as np
import pytest

from jeppa.data.images import sigma_levels, to_pixels, to_x
from jeppa.errors import ConfigError
from jeppa.pipeline import Look, draw_again, load_model, look, round_trips, with_texture
from jeppa.pipeline.looking import coverage_map, interval_reach

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)


def test_a_look_is_the_reconstruction_and_sigma_of_the_model(vae_folder: Path):
    """Red when levels are not those of the command line, or mean and sigma change places."""
    model = load_model(vae_folder)
    found = look(model, PIXELS)
    decoded = model.reconstruct(to_x(PIXELS)[None])
    # Half a level and float16 may round the other way.
    assert np.abs(found.reconstruction.astype(int) - to_pixels(decoded.mean[0])).max() <= 1
    assert found.levels == pytest.approx(sigma_levels(decoded.logvar[0]), rel=2e-3)


def test_the_readout_has_the_known_interval_of_a_gaussian():
    """Red when the interval is one-sided, or rows and columns change places."""
    mean, sigma = np.zeros((2, 3, 3), np.float16), np.zeros((2, 3, 3), np.float16)
    mean[1, 2], sigma[1, 2] = (100, 110, 120), (10, 20, 30)
    told = Look(np.full((2, 3, 3), 7, np.uint8), mean, sigma).at(1, 2, 0.9)
    assert told.value == (7, 7, 7)
    assert told.mean == (100, 110, 120)
    assert told.low == pytest.approx((100 - 16.4485, 110 - 32.8971, 120 - 49.3456), abs=1e-3)
    assert told.high == pytest.approx((100 + 16.4485, 110 + 32.8971, 120 + 49.3456), abs=1e-3)


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (2, 0), (0, 3)])
def test_a_pixel_outside_is_refused(row: int, column: int):
    empty = np.zeros((2, 3, 3), np.float16)
    with pytest.raises(ConfigError, match="outside a picture of 3x2"):
        Look(np.zeros((2, 3, 3), np.uint8), empty, empty).at(row, column)


def test_coverage_of_draws_from_the_prediction_is_its_level():
    """Red when the interval has another reach, or the share counts pixels instead of numbers."""
    rng = np.random.default_rng(0)
    shape = (200, 200, 3)
    mean, sigma = np.full(shape, 128, np.float16), np.full(shape, 12, np.float16)
    pixels = np.rint(rng.normal(128, 12, shape)).clip(0, 255).astype(np.uint8)
    found = Look(pixels, mean, sigma)
    inside, share = found.covered(0.9)
    assert share == pytest.approx(0.9, abs=0.01)
    assert inside.mean() == pytest.approx(0.9**3, abs=0.02)
    assert coverage_map(found, 0.9)[1] == share


def test_the_reach_of_90_percent_is_the_textbooks():
    assert interval_reach(0.9) == pytest.approx(1.6448536, abs=1e-6)


def test_draw_again_is_the_mean_at_temperature_0_and_repeats_by_seed(vae_folder: Path):
    model = load_model(vae_folder)
    mean = to_pixels(model.reconstruct(to_x(PIXELS)[None]).mean[0])
    assert np.array_equal(draw_again(model, PIXELS, 0.0, 3), mean)
    first, second = (draw_again(model, PIXELS, 1.0, 3) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, draw_again(model, PIXELS, 1.0, 4))


def test_texture_needs_a_head(vae_folder: Path):
    with pytest.raises(ConfigError, match="no texture head"):
        with_texture(load_model(vae_folder), PIXELS, 1.0, 0)


def test_round_trips_start_anew_from_8_bit_pixels(vae_folder: Path):
    """Red when a trip starts from the original, or drift is not against the original."""
    model = load_model(vae_folder)
    first, second = round_trips(model, PIXELS, 2)
    assert np.array_equal(first.pixels, look(model, PIXELS).reconstruction)
    assert np.array_equal(second.pixels, look(model, first.pixels).reconstruction)
    assert second.drift == pytest.approx(tuple(second.pixels.mean((0, 1)) - PIXELS.mean((0, 1))))
    assert second.delta_e > 0
    with pytest.raises(ConfigError, match="must lie in 1 to 100"):
        round_trips(model, PIXELS, 0)
