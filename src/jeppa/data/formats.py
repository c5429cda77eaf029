"""What kind of file this is, told by its first bytes and never by its name, and whether it is read."""

from importlib.util import find_spec

from PIL import features

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is read, by Pillow's names. Vector and page formats never: some of them start an interpreter."""

HEAD_BYTES = 32

AVIF, HEIC, JPEG_XL = "AVIF", "HEIC", "JPEG XL"
REMEDIES = {
    AVIF: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    HEIC: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    # Every decoder of it for Python expands the picture before its size can be checked, so no extra brings one.
    JPEG_XL: "no extra reads it, jeppa[formats] neither: convert it to PNG or JPEG",
}
"""What to do about a format that is an image, but not read here and now."""

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
    """Whether `head`, the first `HEAD_BYTES` of a file, bears the clear signature of a format read here.

    BMP and PPM have signatures of two letters, which a text can start with, and are not recognised.
    """
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_SIGNATURES)


def foreign_kind(head: bytes) -> str | None:
    """The name of a format that people take for an image but that is not among `FORMATS`, or None."""
    if head[4:8] == b"ftyp":
        if head[8:11] == b"avi":
            return AVIF
        return HEIC if head[8:12] in _HEIC_BRANDS else "a video"
    start = head.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((kind for magic, kind in _FOREIGN if start.startswith(magic)), None)


def optional_format(head: bytes) -> str | None:
    """Pillow's name of a format that is read only where its decoder is installed, and is; else None."""
    kind = foreign_kind(head)
    if kind == AVIF and features.check("avif"):
        return "AVIF"
    if kind == HEIC and find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener()
        return "HEIF"
    return None
