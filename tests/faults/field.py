"""Picture files as cameras, scanners, microscopes and Windows write them, and what each must become."""

import struct
from collections.abc import Iterator, Mapping

import numpy as np
from images import Golden, chunk, encoded, raw_png
from PIL import Image, ImageCms

Refused = tuple[str, bytes, str]
Tags = Mapping[int, int | tuple[int, ...] | bytes]
SIDE = 16
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
"""All 256 levels, once each."""


def grey(levels: np.ndarray) -> np.ndarray:
    """`[H,W]` as colour."""
    return np.repeat(np.asarray(levels, float)[..., None], 3, axis=2)


def directory(tags: Tags, start: int, order: str, following: int = 0) -> bytes:
    """A directory of a TIFF at offset `start`, and behind it the values that are longer than four bytes."""
    entries, behind = b"", b""
    place = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, bytes):
            kind, number, raw = 1, len(value), value
        else:
            values = value if isinstance(value, tuple) else (value,)
            kind, number = (4, len(values)) if max(values) > 65535 or tag in (273, 279, 330) else (3, len(values))
            raw = struct.pack(f"{order}{number}{'I' if kind == 4 else 'H'}", *values)
        if len(raw) > 4:
            behind, raw = behind + raw, struct.pack(order + "I", place + len(behind))
        entries += struct.pack(order + "HHI", tag, kind, number) + raw.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + behind


def tiff(
    width: int, height: int, bits: tuple[int, ...], photometric: int, rows: bytes, order: str = "<", **more: object
) -> bytes:
    """An uncompressed TIFF of one strip; `more` are tags named t259 and so on, and `sub`, tags of a sub-directory."""
    sub = more.pop("sub", None)
    tags: dict[int, int | tuple[int, ...] | bytes] = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 4096, 277: len(bits), 278: height,
        279: len(rows), **{int(name[1:]): value for name, value in more.items()},
    }  # fmt: skip
    if sub is not None:
        tags[330] = 2048
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "I", 8) + directory(tags, 8, order)
    if sub is not None:
        head = head.ljust(2048, b"\0") + directory(sub, 2048, order)
    return head.ljust(4096, b"\0") + rows


def packed_12_bit(values: np.ndarray) -> bytes:
    """Two values in three bytes, as a TIFF has them."""
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    three = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return three.astype(np.uint8).tobytes()


def bmp(rows: np.ndarray, masks: tuple[int, ...], header: int = 108) -> bytes:
    """A BMP of 32 bits with the masks of a V4 or V5 header; `rows` are uint8 `[H,W,4]` as they lie in the file."""
    height, width = rows.shape[:2]
    data = rows[::-1].tobytes()
    about = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    about = (about + struct.pack("<4I", *masks)).ljust(header, b"\0")
    offset = 14 + header
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + about + data


BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RGBA = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
COLOURS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
ALPHA = RAMP.astype(np.uint8)
ON_WHITE = COLOURS * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None].astype(float)


def modes() -> Iterator[Golden]:
    """Every row of the table in docs/files.md that is read: `TIFF: 12-bit grey`, a file, and its pixels."""
    yield from _tiffs_of_grey()
    yield from _tiffs_of_colour()
    yield from _bmps()
    yield from _pngs()
    yield from _anymaps()


def refused_modes() -> Iterator[Refused]:
    """Every row of the table that is refused, with a word of the refusal."""
    floats = np.zeros((SIDE, SIDE))
    yield "TIFF: floating point", tiff(SIDE, SIDE, (32,), 1, floats.astype("<f4").tobytes(), t339=3), "floating-point"
    yield "TIFF: floating point", tiff(SIDE, SIDE, (16,), 1, floats.astype("<f2").tobytes(), t339=3), "floating-point"
    yield "TIFF: signed", tiff(SIDE, SIDE, (16,), 1, RAMP.astype("<i2").tobytes(), t339=2), "signed"
    yield "TIFF: 32-bit integers", tiff(SIDE, SIDE, (32,), 1, RAMP.astype("<u4").tobytes()), "32-bit"
    planes = bytes(SIDE * SIDE * 6)
    yield "TIFF: 16-bit colour in separate planes", tiff(SIDE, SIDE, (16, 16, 16), 2, planes, t284=2), "separate planes"
    yield "TIFF: 10 or 14 bits, packed", tiff(SIDE, SIDE, (14,), 1, bytes(SIDE * SIDE * 2)), "14 bits"
    yield "TIFF: 10 or 14 bits, packed", tiff(SIDE, SIDE, (10,), 1, bytes(SIDE * SIDE * 2)), "10 bits"
    yield "TIFF: a thumbnail first", tiff(
        8, 8, (8,), 1, bytes(64), sub={254: 0, 256: 400, 257: 300, 258: 8, 259: 1, 262: 1, 273: 0, 279: 0}
    ), "thumbnail"  # fmt: skip
    yield "TIFF: a thumbnail first", tiff(
        8, 8, (8,), 1, bytes(64), t254=1, sub={254: 0, 256: 400, 257: 300, 258: 8, 259: 1, 262: 1, 273: 0, 279: 0}
    ), "thumbnail"  # fmt: skip
    yield "PFM: floating point", b"Pf\n2 2\n-1.0\n" + bytes(16), "floating-point"


def raws() -> Iterator[Refused]:
    """Camera raw in the layouts of several makers."""
    sensor = {254: 0, 256: 600, 257: 400, 258: 14, 259: 1, 262: 32803, 273: 0, 277: 1, 279: 0}
    thumb = bytes(24 * 16 * 3)
    for name, order, more in (
        ("sub-directory.arw", "<", {"sub": {**sensor, 259: 32767}}),
        ("big-endian.nef", ">", {"sub": {**sensor, 259: 34713}}),
        ("linear.dng", "<", {"sub": {**sensor, 262: 34892, 258: (16, 16, 16)}, "t50706": b"\1\4\0\0"}),
        ("version alone.tif", "<", {"t50706": b"\1\1\0\0"}),
    ):
        yield name, tiff(24, 16, (8, 8, 8), 2, thumb, order, t254=1, **more), "camera raw"
    yield "no sign of it.mos", tiff(24, 16, (8, 8, 8), 2, thumb), "camera raw"
    yield "sensor first.pef", tiff(24, 16, (12,), 32803, thumb), "camera raw"
    behind = tiff(24, 16, (8, 8, 8), 2, thumb)
    yield "canon.cr2", behind[:8] + b"CR\2\0" + behind[12:], "camera raw"
    yield "fuji.raf", b"FUJIFILMCCD-RAW 0201FF389501" + bytes(100), "camera raw"
    yield "canon.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw"
    yield "olympus.orf", b"IIRO\x08\0\0\0" + bytes(100), "camera raw"
    yield "panasonic.rw2", b"IIU\0\x18\0\0\0" + bytes(100), "camera raw"


def foreign() -> Iterator[tuple[str, bytes]]:
    """Pictures of kinds that are not read, by name."""
    rest = bytes(100)
    yield "sheet.tga", bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", 8, 8, 24, 0) + bytes(192)
    yield "scan.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + rest
    yield "layers.PSD", b"8BPS\0\1" + rest
    yield "light.exr", b"\x76\x2f\x31\x01\2\0\0\0" + rest
    yield "favicon.ico", b"\0\0\1\0\1\0" + rest
    yield "texture.dds", b"DDS |\0\0\0" + rest
    yield "layers.xcf", b"gimp xcf v011" + rest
    yield "sky.hdr", b"#?RADIANCE\n" + rest
    yield "slice.dcm", rest + bytes(28) + b"DICM"
    yield "stars.fits", b"SIMPLE  =                    T" + rest
    yield "old.pcx", b"\x0a\5\1\x08" + rest
    yield "quick.qoi", b"qoif" + rest
    yield "amiga.IFF", b"FORM" + rest
    yield "game.vtf", b"VTF\0" + rest
    yield "book.djvu", b"AT&TFORM" + rest
    yield "silicon.rgb", b"\x01\xda\x01\x01" + rest
    yield "phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rest
    yield "without suffix", b"8BPS\0\1" + rest


def _tiffs_of_grey() -> Iterator[Golden]:
    for order in "<>":
        deep = (RAMP * 257).astype(order + "u2").tobytes()
        yield "TIFF: 16-bit grey", tiff(SIDE, SIDE, (16,), 1, deep, order), grey(RAMP)
        yield "TIFF: 16-bit grey, white is 0", tiff(SIDE, SIDE, (16,), 0, deep, order), grey(255 - RAMP)
    packed = packed_12_bit(RAMP * 4095 // 255)
    for order in "<>":
        yield "TIFF: 12-bit grey", tiff(SIDE, SIDE, (12,), 1, packed, order), grey(RAMP)
        yield "TIFF: 12-bit grey, white is 0", tiff(SIDE, SIDE, (12,), 0, packed, order), grey(255 - RAMP)
    yield "TIFF: 8-bit grey", tiff(SIDE, SIDE, (8,), 1, ALPHA.tobytes()), grey(RAMP)
    yield "TIFF: 1, 2, 4 or 8-bit grey, white is 0", tiff(SIDE, SIDE, (8,), 0, ALPHA.tobytes()), grey(255 - RAMP)
    quarters = np.tile(np.arange(4), 64).reshape(SIDE, SIDE)
    two = (quarters.reshape(-1, 4) << [6, 4, 2, 0]).sum(1).astype(np.uint8).tobytes()
    yield "TIFF: 1, 2 or 4-bit grey", tiff(SIDE, SIDE, (2,), 1, two), grey(quarters * 85)
    yield "TIFF: 1, 2, 4 or 8-bit grey, white is 0", tiff(SIDE, SIDE, (2,), 0, two), grey(255 - quarters * 85)
    bits = RAMP % 3 == 0
    yield (
        "TIFF: 1, 2, 4 or 8-bit grey, white is 0",
        tiff(SIDE, SIDE, (1,), 0, np.packbits(bits).tobytes()),
        grey(~bits * 255),
    )
    yield (
        "TIFF: 16-bit grey",
        encoded(Image.fromarray((RAMP * 257).astype(np.uint16)), "TIFF", compression="tiff_deflate"),
        grey(RAMP),
    )


def _tiffs_of_colour() -> Iterator[Golden]:
    yield "TIFF: 8-bit colour", tiff(SIDE, SIDE, (8,) * 3, 2, COLOURS.tobytes()), COLOURS
    deep = (COLOURS.astype(np.uint16) * 257).astype("<u2").tobytes()
    yield "TIFF: 16-bit colour", tiff(SIDE, SIDE, (16,) * 3, 2, deep), COLOURS
    four = np.dstack([COLOURS, ALPHA])
    yield "TIFF: colour and alpha", tiff(SIDE, SIDE, (8,) * 4, 2, four.tobytes(), t338=2), ON_WHITE
    nothing = np.dstack([COLOURS, 0 * ALPHA])
    yield (
        "TIFF: colour and a fourth sample of no declared meaning",
        tiff(SIDE, SIDE, (8,) * 4, 2, nothing.tobytes()),
        COLOURS,
    )
    yield (
        "TIFF: colour and a fourth sample of no declared meaning",
        tiff(SIDE, SIDE, (8,) * 4, 2, four.tobytes(), t338=0),
        COLOURS,
    )
    premultiplied = (COLOURS * (ALPHA[..., None] / 255)).round().astype(np.uint8)
    opaque = np.dstack([premultiplied, ALPHA])
    expected = premultiplied.astype(float) + 255 - ALPHA[..., None].astype(float)
    yield "TIFF: colour and alpha", tiff(SIDE, SIDE, (8,) * 4, 2, opaque.tobytes(), t338=1), expected
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    soft = Image.fromarray((64 + COLOURS // 2).astype(np.uint8))
    yield "TIFF: Lab", encoded(ImageCms.applyTransform(soft, transform), "TIFF"), np.asarray(soft)


def _bmps() -> Iterator[Golden]:
    blue_first = np.dstack([COLOURS[..., ::-1], ALPHA])
    yield "BMP: 32 bits with alpha", bmp(blue_first, BGRA), ON_WHITE
    unused = np.dstack([COLOURS[..., ::-1], 0 * ALPHA])
    yield "BMP: 32 bits with an alpha of 0 everywhere", bmp(unused, BGRA), COLOURS
    yield "BMP: 32 bits with an alpha of 0 everywhere", bmp(unused, BGRA, 124), COLOURS
    red_first = np.dstack([COLOURS, 0 * ALPHA])
    yield "BMP: 32 bits with an alpha of 0 everywhere", bmp(red_first, RGBA), COLOURS
    yield "BMP: 24 bits", encoded(Image.fromarray(COLOURS), "BMP"), COLOURS
    yield "BMP: 1 or 8 bits", encoded(Image.fromarray(ALPHA), "BMP"), grey(RAMP)


def _pngs() -> Iterator[Golden]:
    deep = (RAMP * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    yield "PNG: 16-bit grey", raw_png(SIDE, SIDE, 16, 0, rows), grey(RAMP)
    transparent = grey(np.where(RAMP == 100, 255, RAMP))
    yield (
        "PNG: grey with one transparent value",
        raw_png(SIDE, SIDE, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 25700))),
        transparent,
    )
    hidden = np.dstack([RAMP, RAMP, RAMP, 0 * RAMP]).astype(np.uint8)
    for kind in ("PNG", "WEBP"):
        file = encoded(Image.fromarray(hidden), kind, **({} if kind == "PNG" else {"lossless": True, "exact": True}))
        yield "PNG: an alpha of 0 everywhere in front of a picture", file, grey(RAMP)
    eight = b"".join(b"\0" + row.tobytes() for row in ALPHA)
    yield (
        "PNG: grey with one transparent value",
        raw_png(SIDE, SIDE, 8, 0, eight, chunk(b"tRNS", struct.pack(">H", 100))),
        transparent,
    )
    quarters = np.tile(np.arange(4), 64).reshape(SIDE, SIDE)
    two = (quarters.reshape(SIDE, -1, 4) << [6, 4, 2, 0]).sum(2).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in two)
    yield "PNG: 1, 2 or 4-bit grey", raw_png(SIDE, SIDE, 2, 0, lines), grey(quarters * 85)
    shown = grey(np.where(quarters == 1, 255, quarters * 85))
    yield "PNG: grey with one transparent value", raw_png(SIDE, SIDE, 2, 0, lines, chunk(b"tRNS", b"\0\1")), shown
    bits = RAMP % 3 == 0
    lines = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    yield (
        "PNG: grey with one transparent value",
        raw_png(SIDE, SIDE, 1, 0, lines, chunk(b"tRNS", b"\0\0")),
        grey(0 * RAMP + 255),
    )
    colours = (COLOURS.astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in colours)
    yield "PNG: 16-bit colour", raw_png(SIDE, SIDE, 16, 2, lines), COLOURS
    key = chunk(b"tRNS", colours[3, 4].tobytes())
    cut = COLOURS.copy()
    cut[(COLOURS[3, 4] == COLOURS).all(2)] = 255
    yield "PNG: colour with one transparent value", raw_png(SIDE, SIDE, 16, 2, lines, key), cut
    yield "PNG: colour and alpha", encoded(Image.fromarray(np.dstack([COLOURS, ALPHA]))), ON_WHITE


def _anymaps() -> Iterator[Golden]:
    yield "PGM: any largest value", b"P5\n16 16\n255\n" + ALPHA.tobytes(), grey(RAMP)
    yield "PGM: any largest value", b"P5\n16 16\n15\n" + (ALPHA // 17).tobytes(), grey(RAMP // 17 * 17)
    yield "PGM: any largest value", b"P5\n16 16\n4095\n" + (RAMP * 4095 // 255).astype(">u2").tobytes(), grey(RAMP)
    yield "PGM: any largest value", b"P5\n16 16\n65535\n" + (RAMP * 257).astype(">u2").tobytes(), grey(RAMP)
    yield "PGM: any largest value", b"P2\n2 1\n1000\n0 1000\n", grey(np.array([[0, 255]]))
    bits = RAMP % 3 == 0
    yield "PBM: 1 is black", b"P4\n16 16\n" + np.packbits(bits).tobytes(), grey(~bits * 255)
    yield (
        "PPM: any largest value",
        b"P6\n16 16\n65535\n" + (COLOURS.astype(np.uint16) * 257).astype(">u2").tobytes(),
        COLOURS,
    )
