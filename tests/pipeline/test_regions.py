"""A change stays inside its mask: `jeppa.pipeline.regions`."""

from pathlib import Path

import numpy as np
import pytest

from jeppa.errors import ConfigError
from jeppa.pipeline import change_inside, draw_inside, load_model, paste_back
from jeppa.pipeline.regions import read_painted

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 56, 3), np.uint8)
CHANGE = 255 - PIXELS
MASK = np.zeros((40, 56), bool)
MASK[8:30, 10:44] = True
SIGMA = np.full((40, 56), 8, np.float32)


@pytest.mark.parametrize("softness", [0.0, 1.0, 10.0])
def test_everything_outside_stays_bit_for_bit(softness: float):
    """Red when the blend reaches over the border of the mask by a pixel."""
    edit = paste_back(PIXELS, CHANGE, MASK, SIGMA, softness)
    assert np.array_equal(edit.pixels[~MASK], PIXELS[~MASK])
    assert edit.changed_outside == 0
    assert edit.inside == MASK.sum()
    assert 0 < edit.changed <= edit.inside


def test_a_hard_edge_takes_the_change_whole():
    edit = paste_back(PIXELS, CHANGE, MASK, SIGMA, 0.0)
    assert np.array_equal(edit.pixels[MASK], CHANGE[MASK])
    difference = np.abs(CHANGE.astype(int) - PIXELS)[MASK]
    assert edit.mean_change == pytest.approx(difference.mean(), rel=1e-5)
    assert edit.largest_change == difference.max()


def test_the_weight_is_that_of_inverse_variances():
    """At distance d: q d / (q d + sigma^2), with q = 16; red when sigma is not squared, or d starts at 0."""
    black, white = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    mask = np.ones((9, 9), bool)
    mask[:, 0] = False
    row = paste_back(black, white, mask, np.full((9, 9), 8, np.float32)).pixels[4, :, 0]
    expected = [0, *(255 * 16 * d / (16 * d + 64) for d in range(1, 9))]
    assert row == pytest.approx(np.rint(expected))


def test_a_mask_over_everything_has_no_border():
    edit = paste_back(PIXELS, CHANGE, np.ones_like(MASK), SIGMA, 5.0)
    assert np.array_equal(edit.pixels, CHANGE)


def test_a_drawn_region_of_a_model_leaves_the_rest(vae_folder: Path):
    model = load_model(vae_folder)
    edit = draw_inside(model, PIXELS, MASK, 1.0, 0)
    assert np.array_equal(edit.pixels[~MASK], PIXELS[~MASK])
    assert edit.changed > 0
    assert np.array_equal(change_inside(model, PIXELS, MASK, edit.pixels, 0.0).pixels, edit.pixels)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="nothing is painted"):
        paste_back(PIXELS, CHANGE, np.zeros_like(MASK), SIGMA)
    with pytest.raises(ConfigError, match="one size"):
        paste_back(PIXELS, CHANGE[:20], MASK, SIGMA)
    with pytest.raises(ConfigError, match="softness is 11"):
        paste_back(PIXELS, CHANGE, MASK, SIGMA, 11.0)


def test_a_painted_mask_is_scaled_to_the_picture():
    painted = np.zeros((20, 28, 3), np.uint8)
    painted[4:15, 5:22] = 255
    assert np.array_equal(read_painted(painted, (40, 56)), MASK)
