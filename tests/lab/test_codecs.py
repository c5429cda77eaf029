"""Lossless codecs: they are lossless, and their bits are those of the files."""

import io

import numpy as np
import pytest
from PIL import Image

from jeppa.lab.metrics import CODECS, lossless_bpd

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("side", [8, 24, 72])
@pytest.mark.parametrize("key", CODECS)
def test_every_codec_gives_the_pixels_back(key, side):
    """Red when a codec is lossy."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    name, options = CODECS[key]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=name, **options)
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), pixels)
    assert lossless_bpd(pixels)[key] == pytest.approx(8 * len(stream.getvalue()) / pixels.size)


def test_noise_costs_8_bits_and_a_flat_picture_almost_none():
    """Red when bytes are not turned into bits, or the channels are not counted."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for noisy, flat in zip(lossless_bpd(noise).values(), lossless_bpd(np.zeros_like(noise)).values(), strict=True):
        assert 8.0 < noisy < 8.8
        assert flat < 0.03
