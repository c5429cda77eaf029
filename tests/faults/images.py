"""Picture files as strangers make them, and the pixels that the good ones must give."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

MAGIC = b"\x89PNG\r\n\x1a\n"
FRAMES = 10_000
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file\n"
PDF = b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(canary)>>>>endobj\n"

Golden = tuple[str, bytes, np.ndarray]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the content of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG whose header says anything, whatever its rows are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return MAGIC + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def photo(side: int = 8, seed: int = 0) -> np.ndarray:
    """Noise, uint8 `[side,side,3]`."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def fill(folder: Path, count: int) -> Path:
    """A folder of `count` small good pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"good-{index:03d}.png").write_bytes(encoded(Image.fromarray(photo(8, index))))
    return folder


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Small files that claim to be, or unpack to, a great deal: name, content, and a word of the refusal."""
    yield "50,000 x 50,000 header", raw_png(50_000, 50_000, 8, 2, b"\0" * 100), "more pixels"
    yield "10,001 x 10,000 header", raw_png(10_001, 10_000, 8, 2, b"\0" * 100), "10001 x 10000 pixels"
    thirty_mb = zlib.compress(b"a" * 30_000_000, 9)
    for kind, prefix in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")):
        yield f"{kind.decode()} of 30 MB", raw_png(2, 2, 8, 2, b"\0" * 14, chunk(kind, prefix + thirty_mb)), "too large"
    almost_mib = zlib.compress(b"a" * 1_000_000, 9)
    many = [chunk(b"zTXt", b"%d\0\0" % index + almost_mib) for index in range(100)]
    yield "100 texts of 1 MB", raw_png(2, 2, 8, 2, b"\0" * 14, *many), "text chunks"
    yield "100 texts of 1 MB behind the pixels", _behind_the_pixels(many), "text chunks"


def golden() -> Iterator[Golden]:
    """Name, file, and the pixels that a colour-managed viewer shows on white."""
    colours = photo(7)[:5]
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    grey = np.repeat(values[..., None] / 257, 3, axis=2)
    for kind in ("PNG", "TIFF", "PPM"):
        yield f"16-bit grey {kind}", encoded(Image.fromarray(values), kind), grey
    big_endian = Image.frombytes("I;16B", (7, 5), values.astype(">u2").tobytes())
    yield "16-bit big-endian TIFF", encoded(big_endian, "TIFF"), grey
    deep = np.linspace(0, 65535, 18).astype(">u2").reshape(2, 3, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    yield "16-bit colour PNG", raw_png(3, 2, 16, 2, rows), deep / 257
    yield from _subtractive()
    yield from _transparent()
    bits = colours[..., 0] > 127
    yield "1-bit", encoded(Image.fromarray(bits)), np.repeat(bits[..., None], 3, axis=2) * 255
    yield from _turned(colours)
    yield from _profiled(colours)


def many_frames(kind: str) -> bytes:
    """An animation of `FRAMES` frames, the first one red."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200), (0, 200, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=20)
    if kind == "GIF":
        second = data.index(b"\x21\xf9", data.index(b"\x21\xf9") + 2)
        third = data.index(b"\x21\xf9", second + 2)
        return data[:third] + data[second:third] * (FRAMES - 3) + data[third:]
    last = data.rindex(b"ANMF")
    body = data[12:] + data[last:] * (FRAMES - 3)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def hostile_tree(root: Path, outside: Path) -> Path:
    """A folder with one good picture and everything that makes a careless walk hang or leave it."""
    fill(root, 1)
    fill(outside, 1)
    for loop, target in (("loop", root), ("self.png", "self.png"), ("up", "..")):
        (root / loop).symlink_to(target)
    (root / "escape").symlink_to(outside)
    (root / "escape.png").symlink_to(outside / "good-000.png")
    os.mkfifo(root / "pipe.png")
    (root / "pipe-link.png").symlink_to("pipe.png")
    odd = encoded(Image.fromarray(photo()))
    for name in (b"new\nline.png", b"not-utf8-\xff.png", "ümlaut 🧀.png".encode(), b"-rf.png", b"%s{0}.png"):
        (root / os.fsdecode(name)).write_bytes(odd)
    return root


def _behind_the_pixels(chunks: list[bytes]) -> bytes:
    png = raw_png(2, 2, 8, 2, b"\0" * 14)
    end = png.rindex(b"IEND") - 4
    return png[:end] + b"".join(chunks) + png[end:]


def _subtractive() -> Iterator[Golden]:
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 128, 0, 0]]], np.uint8)
    expected = np.array([[[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 127, 255]]])
    yield "CMYK TIFF", encoded(Image.frombytes("CMYK", (4, 1), cmyk.tobytes()), "TIFF"), expected
    yield "CMYK JPEG", encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), np.full((8, 8, 3), 255)


def _transparent() -> Iterator[Golden]:
    """Alpha on white: palette, grey and colour."""
    alpha = np.array([[0, 51, 128, 204, 255]], np.uint8)
    weight = alpha[..., None] / 255

    def on_white(colour: tuple[int, int, int]) -> np.ndarray:
        return weight * np.array(colour) + (1 - weight) * 255

    palette = Image.fromarray(np.arange(5, dtype=np.uint8)[None]).convert("P")
    palette.putpalette([40, 90, 200] * 5)
    yield "palette with alpha", encoded(palette, transparency=alpha.tobytes()), on_white((40, 90, 200))
    for mode, bands in (("LA", (40,)), ("RGBA", (40, 90, 200))):
        parts = [Image.new("L", (5, 1), value) for value in bands]
        data = encoded(Image.merge(mode, (*parts, Image.fromarray(alpha))))
        yield mode, data, on_white((40, 40, 40) if mode == "LA" else (40, 90, 200))


def _turned(upright: np.ndarray) -> Iterator[Golden]:
    """How each EXIF orientation is stored, from the standard: row 0 and column 0 lie at the named sides."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF"):
            data = encoded(Image.fromarray(np.ascontiguousarray(pixels)), kind, exif=exif)
            yield f"EXIF {orientation} {kind}", data, upright


def _profiled(colours: np.ndarray) -> Iterator[Golden]:
    """An sRGB profile changes nothing; one with red and green exchanged exchanges the channels."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmpX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmpX", b"gXYZ", 1)
    yield "sRGB profile", encoded(Image.fromarray(colours), icc_profile=srgb), colours
    yield "exchanged profile", encoded(Image.fromarray(colours), icc_profile=swapped), colours[..., [1, 0, 2]]
