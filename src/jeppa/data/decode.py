"""One image file to 8-bit sRGB "pixels", uint8 `[H,W,3]`: the only place with mode conversion.

Everything that a file can hold beyond that (orientation, profile, alpha, depth) is resolved here:

- the format is decided by content, never by the file name, among `FORMATS`, and AVIF and HEIC where installed;
- of an animation the first frame is read;
- the EXIF orientation is applied, then an embedded ICC profile is converted to sRGB; either is ignored when
  it is itself damaged or does not fit the pixels (common in old photographs, whose pixels are fine);
- alpha is composited on white, grey is replicated, 16-bit grey is scaled by 1/257 (Pillow would clip it);
- floating-point images are refused, because nothing in the file says which range they have.

Nothing here needs torch, so that `jeppa.data.limited` can decode in a process that starts in a moment.
"""

import contextlib
import io
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError, features

from jeppa.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are read, by Pillow's names. Vector and page formats never: some of them start an interpreter."""
HEAD_BYTES = 32
AVIF, HEIC, JPEG_XL = "AVIF", "HEIC", "JPEG XL"
REMEDIES = {
    AVIF: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    HEIC: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    # Every decoder of it for Python expands the picture before its size can be checked, so no extra brings one.
    JPEG_XL: "no extra reads it, jeppa[formats] neither: convert it to PNG or JPEG",
}
"""Advice for image formats that are not read, or not without their decoder."""
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_FOREIGN = (
    (b"%pdf", "PDF"),
    (b"%!ps", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or other XML"),
    (b"<!doctype", "SVG or other XML"),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cjxl ", JPEG_XL),
    (b"8bps", "PSD"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def looks_like_image(head: bytes) -> bool:
    """Whether `head`, the first `HEAD_BYTES` of a file, starts with the signature of a format that is read.

    BMP and PPM are not recognised: their signatures have two letters, and an ordinary text can start with those.
    """
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_SIGNATURES)


def foreign_kind(head: bytes) -> str | None:
    """The name of an image, page or video format that is not among `FORMATS`, or None."""
    if head[4:8] == b"ftyp":
        if head[8:11] == b"avi":
            return AVIF
        return HEIC if head[8:12] in _HEIC_BRANDS else "a video"
    start = head.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((kind for magic, kind in _FOREIGN if start.startswith(magic)), None)


def optional_format(head: bytes) -> str | None:
    """Pillow's name of an optional format whose decoder is installed; None for any other file."""
    kind = foreign_kind(head)
    if kind == AVIF and features.check("avif"):
        return "AVIF"
    if kind == HEIC and find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener()
        return "HEIF"
    return None


Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 100_000_000
"""Largest width x height decoded. Pillow itself refuses more than 178,956,970, whatever is passed."""
MAX_FILE_BYTES = 512 * 2**20
"""Largest file read: an uncompressed 16-bit image of about 90 megapixels fits."""

# The texts of a PNG are unpacked and kept whether or not anybody reads them. Pillow allows 64 MiB of them in a picture
# of four pixels, and has no argument for it, so the limit of the process is lowered.
PngImagePlugin.MAX_TEXT_MEMORY = min(PngImagePlugin.MAX_TEXT_MEMORY, 8 * 2**20)
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
        image.load()
        return np.array(_flatten(_turn_upright(image), called))
    except (DataError, MemoryError):  # a lack of memory says nothing about the file
        raise
    except Exception as error:  # on damaged files Pillow raises anything from SyntaxError to struct.error
        raise _refusal(called, f"it is damaged ({one_line(error)})", _DELETE) from error


def open_header(stream: IO[bytes], name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Parse the header of an image and check its size and mode; no pixel is decoded.

    Raises:
        DataError: as `read_pixels`, except for damage beyond the header.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    optional = optional_format(head)
    try:
        image = Image.open(stream, formats=FORMATS if optional is None else (optional,))
    except UnidentifiedImageError as error:
        raise _unidentified_refusal(head, name, optional) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _size_refusal(name, "it has more pixels than Pillow opens", max_pixels) from error
    except MemoryError:
        raise
    except Exception as error:  # text and profile bombs come as ValueError, damage as nearly anything
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
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white


def _grey_from_16_bit(image: Image.Image, name: str) -> Image.Image:
    """Values 0 to 65535 to L, or to LA where PNG's tRNS chunk declares one grey value transparent."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _refusal(name, "it has 32-bit values outside 0 to 65535", "save it with 8 or 16 bits")
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(alpha)))


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """To colour in one of the modes L, RGB, CMYK, and alpha in mode L where the image has any."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")), None


def _to_srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged or of other channels: ignored
            converted = None
        if converted is not None:
            return converted
    return colour.convert("RGB")


def _unidentified_refusal(head: bytes, name: str, optional: str | None) -> DataError:
    if not head:
        return _refusal(name, "it is empty (0 bytes)", _DELETE)
    kind = foreign_kind(head)
    if kind is None:
        return _refusal(name, f"it is damaged or none of {', '.join(FORMATS)}", _DELETE)
    if optional is not None:
        return _refusal(name, f"it is {kind}, and damaged", _DELETE)
    return _refusal(name, f"it is {kind}, which is not read", REMEDIES.get(kind, _CONVERT))


def _size_refusal(name: str, what: str, max_pixels: int) -> DataError:
    return _refusal(name, f"{what}, limit {max_pixels:,} pixels", "scale it down")


def _refusal(name: str, problem: str, remedy: str) -> DataError:
    return DataError(f"{name!r}: {problem}; {remedy}")
