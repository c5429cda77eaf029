"""Every kind of file becomes the right 8-bit sRGB pixels, or a one-line DataError.

Depths, modes, EXIF and profiles are in the rows F16 to F19 of tests/faults/test_faults.py.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from images import MAGIC, chunk, encoded, raw_png
from PIL import Image

from jeppa.data.decode import MAX_FILE_BYTES, read_pixels
from jeppa.data.images import fit_square, read_image, to_pixels, to_x
from jeppa.errors import DataError


def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def assert_close(pixels: np.ndarray, expected: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - np.round(expected).astype(int)).max() <= 1


def assert_refused(source: Path | bytes, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pixels(source, "picture.png")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("'picture.png': ")
    assert len(message) < 300
    for word in words:
        assert word in message


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_is_exact_in_every_format(kind: str) -> None:
    assert np.array_equal(read_pixels(encoded(Image.fromarray(colours()), kind)), colours())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_rgb_is_near(kind: str) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    pixels = read_pixels(encoded(Image.fromarray(flat), kind, quality=95))
    assert np.abs(pixels.astype(int) - flat).max() <= 3


def test_transparent_16_bit_grey_value_becomes_white() -> None:
    rows = b"\0" + np.array([40000, 30000], ">u2").tobytes()
    pixels = read_pixels(raw_png(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 30000))))
    assert pixels[0, :, 0].tolist() == [156, 255]


def test_32_bit_integers_out_of_range_and_floats_are_refused() -> None:
    assert_refused(encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "32-bit", "8 or 16 bits")
    assert_refused(encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point")


def test_grey_is_replicated() -> None:
    grey = colours()[..., 0]
    assert np.array_equal(read_pixels(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))


def test_premultiplied_or_palette_alpha_tiff_is_composited_on_white() -> None:
    image = Image.new("PA", (3, 2))
    image.putpalette([10, 20, 30])
    image.putalpha(0)
    assert read_pixels(encoded(image, "TIFF")).min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_leaves_the_pixels() -> None:
    data = encoded(Image.fromarray(colours()), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_pixels(data), colours())


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200])
def test_broken_icc_profile_is_ignored(profile: bytes) -> None:
    assert np.array_equal(read_pixels(encoded(Image.fromarray(colours()), icc_profile=profile)), colours())


def test_pixel_limit_is_inclusive() -> None:
    data = encoded(Image.new("RGB", (10, 10)))
    assert read_pixels(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DataError, match="limit 99 pixels"):
        read_pixels(data, max_pixels=99)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"just a text\nwith lines", "none of PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (MAGIC, "damaged"),
    ],
)
def test_what_is_no_image_is_refused_by_content(data: bytes, word: str) -> None:
    assert_refused(data, word)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_truncated_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert_refused(data[: len(data) // 2])


def test_only_regular_files_of_bounded_size_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    assert_refused(tmp_path / "pipe.png", "regular file")
    assert_refused(tmp_path, "regular file")
    assert_refused(tmp_path / "huge.png", "bytes")
    assert_refused(tmp_path / "absent.png", "does not exist")
    assert_refused(tmp_path / "nul\0.png", "cannot be opened")


def test_disguised_extension_is_read_by_content(tmp_path: Path) -> None:
    (tmp_path / "really_png.jpg").write_bytes(encoded(Image.fromarray(colours())))
    assert np.array_equal(read_pixels(tmp_path / "really_png.jpg"), colours())


def test_x_spans_minus_one_to_one_and_rounds_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    x = to_x(levels)
    assert x.dtype == torch.float32
    assert x.shape == (3, 16, 16)
    assert x.min() == -1.0
    assert x.max() == 1.0
    assert np.array_equal(to_pixels(x), levels)
    assert np.array_equal(to_pixels(x + 0.49 / 127.5), levels)
    assert to_pixels(torch.tensor([-9.0, 0.0, 9.0])[:, None, None]).ravel().tolist() == [0, 128, 255]


def test_to_pixels_refuses_nan_and_batches() -> None:
    with pytest.raises(DataError, match="NaN"):
        to_pixels(torch.full((3, 2, 2), float("nan")))
    with pytest.raises(DataError, match="shape"):
        to_pixels(torch.zeros(1, 3, 2, 2))


def test_read_image_is_channels_first_red_first() -> None:
    x = read_image(encoded(Image.new("RGB", (4, 2), (255, 0, 0))))
    assert x.shape == (3, 2, 4)
    assert x[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_fit_keeps_the_centre() -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 77
    assert np.array_equal(fit_square(pixels, 16), np.full((16, 16, 3), 77, np.uint8))
    assert fit_square(np.zeros((1, 10_000, 3), np.uint8), 8).shape == (8, 8, 3)
