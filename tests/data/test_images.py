"""Every kind of file becomes the right 8-bit sRGB pixels, or a one-line DataError, quickly."""

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from jeppa.data.decode import MAX_FILE_BYTES, read_pixels
from jeppa.data.images import fit, read_image, to_pixels, to_x
from jeppa.errors import DataError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_MAGIC + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    pixels = read_pixels(encoded(Image.fromarray(values), kind))
    assert_close(pixels, np.repeat(values[..., None] / 257, 3, axis=2))


def test_16_bit_big_endian_tiff_is_scaled() -> None:
    values = np.linspace(0, 65535, 35).astype(">u2").reshape(5, 7)
    image = Image.frombytes("I;16B", (7, 5), values.tobytes())
    assert_close(read_pixels(encoded(image, "TIFF")), np.repeat(values[..., None] / 257, 3, axis=2))


def test_16_bit_rgb_png_is_scaled() -> None:
    values = np.linspace(0, 65535, 18).astype(">u2").reshape(2, 3, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    assert_close(read_pixels(raw_png(3, 2, 16, 2, rows)), values / 257)


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


def test_one_bit_is_black_and_white() -> None:
    bits = colours()[..., 0] > 127
    pixels = read_pixels(encoded(Image.fromarray(bits)))
    assert np.array_equal(pixels, np.repeat(bits[..., None], 3, axis=2) * np.uint8(255))


def test_cmyk_is_subtractive() -> None:
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 128, 0, 0]]], np.uint8)
    expected = np.array([[[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 127, 255]]])
    image = Image.frombytes("CMYK", (4, 1), cmyk.tobytes())
    assert_close(read_pixels(encoded(image, "TIFF")), expected)


def test_cmyk_jpeg_is_not_inverted() -> None:
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert read_pixels(encoded(white, "JPEG")).min() >= 253


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    alpha = np.array([[0, 51, 128, 204, 255]], np.uint8)
    if mode == "P":
        image = Image.fromarray(np.arange(5, dtype=np.uint8)[None]).convert("P")
        image.putpalette([40, 90, 200] * 5)
        data = encoded(image, transparency=alpha.tobytes())
        colour = np.array([40, 90, 200])
    else:
        bands = (40,) if mode == "LA" else (40, 90, 200)
        parts = [Image.new("L", (5, 1), value) for value in bands]
        data = encoded(Image.merge(mode, (*parts, Image.fromarray(alpha))))
        colour = np.array([40, 40, 40]) if mode == "LA" else np.array(bands)
    weight = alpha[..., None] / 255
    assert_close(read_pixels(data), weight * colour + (1 - weight) * 255)


def test_premultiplied_or_palette_alpha_tiff_is_composited_on_white() -> None:
    image = Image.new("PA", (3, 2))
    image.putpalette([10, 20, 30])
    image.putalpha(0)
    assert read_pixels(encoded(image, "TIFF")).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = colours()
    # How each orientation is stored, from the EXIF standard: row 0 and column 0 lie at the named sides.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert np.array_equal(read_pixels(data), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_leaves_the_pixels() -> None:
    data = encoded(Image.fromarray(colours()), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_pixels(data), colours())


def test_icc_profile_is_converted_to_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(colours())
    assert_close(read_pixels(encoded(image, icc_profile=srgb)), colours())
    # The same curves with red and green primaries swapped: the decoded channels must swap.
    swapped = srgb.replace(b"rXYZ", b"tmpX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmpX", b"gXYZ", 1)
    pixels = read_pixels(encoded(image, icc_profile=swapped))
    assert_close(pixels, colours()[..., [1, 0, 2]])


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200])
def test_broken_icc_profile_is_ignored(profile: bytes) -> None:
    assert np.array_equal(read_pixels(encoded(Image.fromarray(colours()), icc_profile=profile)), colours())


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (200, 100, 0)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(read_pixels(data)[..., 0].astype(int) - 200).max() <= 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_header_bomb_is_rejected_before_decoding() -> None:
    tracemalloc.start()
    start = time.perf_counter()
    assert_refused(raw_png(50_000, 50_000, 8, 2, b"\0" * 100), "pixels", "scale it down")
    assert_refused(raw_png(10_001, 10_000, 8, 2, b"\0" * 100), "10001 x 10000", "scale it down")
    assert time.perf_counter() - start < 1.0
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_pixel_limit_is_inclusive() -> None:
    data = encoded(Image.new("RGB", (10, 10)))
    assert read_pixels(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DataError, match="limit 99 pixels"):
        read_pixels(data, max_pixels=99)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_bomb_is_rejected_cheaply(kind: bytes) -> None:
    prefix = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    bomb = chunk(kind, prefix + zlib.compress(b"a" * 30_000_000, 1))
    start = time.perf_counter()
    assert_refused(raw_png(2, 2, 8, 2, b"\0" * 14, bomb), "oversized")
    assert time.perf_counter() - start < 1.0


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
        (PNG_MAGIC, "damaged"),
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
    assert np.array_equal(fit(pixels, 16), np.full((16, 16, 3), 77, np.uint8))
    assert fit(np.zeros((1, 10_000, 3), np.uint8), 8).shape == (8, 8, 3)
