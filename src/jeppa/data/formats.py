"""What kind of file this is, told by its first bytes and never by its name."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is read, by Pillow's names. Vector and page formats never: some of them start an interpreter."""

HEAD_BYTES = 32

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_FOREIGN = (
    (b"%pdf", "PDF"),
    (b"%!ps", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or other XML"),
    (b"<!doctype", "SVG or other XML"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjxl ", "JPEG XL"),
    (b"8bps", "PSD"),
)


def looks_like_image(head: bytes) -> bool:
    """Whether `head`, the first `HEAD_BYTES` of a file, bears the clear signature of a format read here.

    BMP and PPM have signatures of two letters, which a text can start with, and are not recognised.
    """
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_SIGNATURES)


def foreign_kind(head: bytes) -> str | None:
    """The name of a format that people take for an image but that is not read, or None."""
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:11] == b"avi" else "HEIC or a video"
    start = head.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((kind for magic, kind in _FOREIGN if start.startswith(magic)), None)
