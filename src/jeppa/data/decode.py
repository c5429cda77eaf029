"""One image file to 8-bit sRGB "pixels", uint8 `[H,W,3]`: the only place with mode conversion.

Everything that a file can hold beyond that (orientation, profile, alpha, depth) is resolved here:

- the format is decided by content, never by the file name, among `FORMATS`, and AVIF and HEIC where installed;
- of an animation the first frame is read;
- the EXIF orientation is applied, then an embedded ICC profile is converted to sRGB; either is ignored when
  it is itself damaged or does not fit the pixels (common in old photographs, whose pixels are fine);
- alpha is composited on white, but one that is 0 everywhere in front of a picture counts as left unused;
- grey is replicated; 12 and 16 bits are scaled to 8 (Pillow would clip them), and "white is zero" is turned over;
- floating-point, signed and 32-bit values are refused, because nothing in the file says which range they have;
- a TIFF whose first picture is a thumbnail, as in camera raw, is refused.

Nothing here needs torch, so that `jeppa.data.limited` can decode in a process that starts in a moment.
"""

import contextlib
import io
import stat
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from jeppa.data.kinds import (
    HEAD_BYTES,
    REMEDIES,
    STRAY_BYTES,
    TIFF_STARTS,
    behind_stray_bytes,
    bits_of_tiff,
    foreign_kind,
    kind_of_name,
    odd_jpeg,
    odd_tiff,
    optional_format,
)
from jeppa.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are read, by Pillow's names. Vector and page formats never: some of them start an interpreter."""

Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 100_000_000
"""Largest width x height decoded. Pillow itself refuses more than 178,956,970, whatever is passed."""
MAX_FILE_BYTES = 512 * 2**20
"""Largest file read: an uncompressed 16-bit image of about 90 megapixels fits."""

# The texts of a PNG are unpacked and kept whether or not anybody reads them. Pillow allows 64 MiB of them in a picture
# of four pixels, and has no argument for it, so the limit of the process is lowered.
PngImagePlugin.MAX_TEXT_MEMORY = min(PngImagePlugin.MAX_TEXT_MEMORY, 8 * 2**20)
# Grey of 12 and 16 bits that Pillow reads only where 0 is black, or only from little-endian files; `_grey_from_16_bit`
# turns it over.
for _order, _deep in ((b"II", "I;16"), (b"MM", "I;16B")):
    TiffImagePlugin.OPEN_INFO.setdefault((_order, 0, (1,), 1, (16,), ()), (_deep, _deep))
    for _polarity in (0, 1):
        TiffImagePlugin.OPEN_INFO.setdefault((_order, _polarity, (1,), 1, (12,), ()), ("I;16", "I;12"))
_BITS, _PHOTOMETRIC, _EXTRA_SAMPLES, _WHITE_IS_ZERO = 258, 262, 338, 0  # tags of TIFF 6.0, and a value
_CONVERT = "convert it to PNG or JPEG"
_DELETE = "delete or replace it"


def read_pixels(source: Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode one image to 8-bit sRGB.

    Args:
        source: a regular file, or the content of one.
        name: what errors call the image; the path by default.
        max_pixels: largest width x height, checked on the header before anything is decoded.

    Returns:
        uint8 `[H,W,3]`.

    Raises:
        DataError: if the file is missing, not regular, too large, damaged, or no image that is read here.
    """
    called = name or (str(source) if isinstance(source, Path) else "image")
    data = source if isinstance(source, bytes) else read_file(source, called)
    image = open_header(io.BytesIO(data), called, max_pixels)
    try:
        _scale_transparent_value(image)
        image.load()
        return np.array(_flatten(_turn_upright(image), called))
    except (DataError, MemoryError):  # a lack of memory says nothing about the file
        raise
    except Exception as error:  # on damaged files Pillow raises anything from SyntaxError to struct.error
        odd = odd_jpeg(io.BytesIO(data)) if image.format == "JPEG" else None
        if odd is not None:
            raise _refusal(called, f"it is {odd}, which is not read", _CONVERT) from error
        raise _refusal(called, f"it is damaged ({one_line(error)})", _DELETE) from error


def open_header(stream: IO[bytes], name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Parse the header of an image and check its size and mode; no pixel is decoded.

    Raises:
        DataError: as `read_pixels`, except for damage beyond the header.
    """
    head = stream.read(HEAD_BYTES)
    optional = optional_format(head)
    odd = odd_tiff(stream, name) if head.startswith(TIFF_STARTS) else None
    if odd is not None:
        raise _refusal(name, *odd)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS if optional is None else (optional,))
    except UnidentifiedImageError as error:
        raise _unidentified_refusal(stream, name) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _size_refusal(name, "it has more pixels than Pillow opens", max_pixels) from error
    except MemoryError:
        raise
    except Exception as error:  # text and profile bombs come as ValueError, damage as nearly anything
        if str(error).startswith("Unsupported"):
            raise _refusal(name, f"it is of a kind that is not read ({one_line(error)})", _CONVERT) from error
        raise _refusal(name, f"its header is damaged or oversized ({one_line(error)})", _DELETE) from error
    if image.width * image.height > max_pixels:
        raise _size_refusal(name, f"it is {image.width} x {image.height} pixels", max_pixels)
    if image.mode == "F":
        raise _refusal(name, "it holds floating-point values of unknown range", "save it with 8 or 16 bits")
    return image


def read_file(path: Path, name: str) -> bytes:
    """The content of a regular file of bounded size.

    Raises:
        DataError: if it is missing, not regular, too large, or may not be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(name, "it is not a regular file", "pass an image file")
        if status.st_size > MAX_FILE_BYTES:
            raise _refusal(name, f"it has {status.st_size:,} bytes, limit {MAX_FILE_BYTES:,}", _CONVERT)
        with path.open("rb") as stream:
            return stream.read(status.st_size)  # a larger number would reserve that much memory
    except FileNotFoundError as error:
        raise _refusal(name, "it does not exist", "check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refusal(name, f"it cannot be opened ({one_line(error)})", "check the path and its rights") from error


def one_line(error: Exception) -> str:
    """The text of a foreign error, which may span lines or quote the file, as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _turn_upright(image: Image.Image) -> Image.Image:
    # The pixels are decoded by now, so only the EXIF block can be damaged; the module says why it is ignored.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Any mode to RGB: depth, then alpha off, then profile, then alpha onto white."""
    profile = image.info.get("icc_profile")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _grey_from_16_bit(image, name)
    colour, alpha = _split_alpha(image)
    rgb = _to_srgb(colour, profile)
    if alpha is None or _is_unused(alpha, colour, image):
        return rgb
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white


def _grey_from_16_bit(image: Image.Image, name: str) -> Image.Image:
    """Values of 12 or 16 bits to L, or to LA where PNG's tRNS chunk declares one grey value transparent."""
    values = np.asarray(image).astype(np.int64)
    tags = _tiff_tags(image)
    largest = 2 ** tags.get(_BITS, (16,))[0] - 1
    if values.min() < 0 or values.max() > largest:
        raise _refusal(name, f"it has values outside 0 to {largest}", "save it with 8 or 16 bits")
    levels = (values * 255 + largest // 2) // largest
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    grey = Image.fromarray(levels.astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(alpha)))


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """To colour in one of the modes L, RGB, CMYK, LAB, and alpha in mode L where the image has any."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")), None


def _is_unused(alpha: Image.Image, colour: Image.Image, image: Image.Image) -> bool:
    """Whether alpha is 0 everywhere and would hide a picture: then nobody filled it.

    Programs write BMP of 32 bits with or without it, and so a TIFF whose fourth sample has no declared meaning. Where
    alpha is declared, as in PNG, it is believed if there is nothing behind it but one colour.
    """
    if alpha.getbbox() is not None:
        return False
    if image.format == "BMP" or (image.format == "TIFF" and _EXTRA_SAMPLES not in _tiff_tags(image)):
        return True
    pixels = np.asarray(colour.convert("RGB"))
    return bool((pixels != pixels[0, 0]).any())


def _scale_transparent_value(image: Image.Image) -> None:
    """Of a PNG of 2 or 4 bits, as Pillow scales its pixels to 8 bits, but not the grey value that is transparent."""
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", [])
    if image.format != "PNG" or image.mode != "L" or not isinstance(key, int) or not tiles:
        return
    largest = {"L;2": 3, "L;4": 15}.get(tiles[0].args)
    if largest is not None:
        image.info["transparency"] = key * 255 // largest


def _tiff_tags(image: Image.Image) -> dict[int, Any]:
    return dict(getattr(image, "tag_v2", {}))


def _to_srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    if colour.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(colour, lab, ImageCms.createProfile("sRGB"), outputMode="RGB") or colour
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged or of other channels: ignored
            converted = None
        if converted is not None:
            return converted
    return colour.convert("RGB")


def _unidentified_refusal(stream: IO[bytes], name: str) -> DataError:
    """Why Pillow does not know a file, as exactly as its first bytes and its name say."""
    stream.seek(0)
    head = stream.read(STRAY_BYTES)
    if not head:
        return _refusal(name, "it is empty (0 bytes)", _DELETE)
    kind = foreign_kind(head[:HEAD_BYTES])
    if kind is not None and optional_format(head[:HEAD_BYTES]) is not None:
        return _refusal(name, f"it is {kind}, and damaged", _DELETE)
    if kind is None and head.startswith(b"\xff\xd8"):
        kind = odd_jpeg(stream)
    if kind is None and head.startswith(TIFF_STARTS):
        kind = f"a damaged TIFF, or one of a layout ({bits_of_tiff(stream)} bits a sample)"
    kind = kind or kind_of_name(name)
    if kind is not None:
        return _refusal(name, f"it is {kind}, which is not read", REMEDIES.get(kind, _CONVERT))
    stray = behind_stray_bytes(head)
    if stray is not None:
        return _refusal(name, f"it is {stray}", "open it in a picture editor and save it anew, or delete it")
    return _refusal(name, f"it is damaged or none of {', '.join(FORMATS)}", _DELETE)


def _size_refusal(name: str, what: str, max_pixels: int) -> DataError:
    return _refusal(name, f"{what}, limit {max_pixels:,} pixels", "scale it down")


def _refusal(name: str, problem: str, remedy: str) -> DataError:
    return DataError(f"{name!r}: {problem}; {remedy}")
