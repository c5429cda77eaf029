"""What a file is, told by its first bytes or else by its name; no pixel is decoded here.

Two things can pass for a picture and are not: a format that is not read, which must be named and counted, and a file
whose first picture is not the picture. Camera raw is a TIFF of the second kind: a thumbnail comes first, and the data
of the sensor lie in a directory below it, or behind it. So the directories of a TIFF are read, within bounds, before
its first picture is taken for the whole.
"""

import struct
from importlib.util import find_spec
from typing import IO

from PIL import features

HEAD_BYTES = 32
AVIF, HEIC, JPEG_XL, CAMERA_RAW = "AVIF", "HEIC", "JPEG XL", "camera raw"
REMEDIES = {
    AVIF: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    HEIC: "its decoder is missing: pip install 'jeppa[formats]', or convert it to PNG or JPEG",
    # Every decoder of it for Python expands the picture before its size can be checked, so no extra brings one.
    JPEG_XL: "no extra reads it, jeppa[formats] neither: convert it to PNG or JPEG",
    CAMERA_RAW: "develop it first, and save it as PNG, TIFF or JPEG",
    "a web page": "download the picture itself",
    "an error message of a server": "download the picture again",
    "a picture in base64": "decode the text first",
    "a pointer of Git LFS": "fetch the picture itself: git lfs pull",
}
"""Advice for image formats that are not read, or not without their decoder."""

_READ = (
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .heic .heif .hif .avif"
)
_RAW_SUFFIXES = (
    ".3fr .arw .bay .cap .cr2 .cr3 .crw .dcr .dng .eip .erf .fff .gpr .iiq .k25 .kdc .mdc .mef .mos .mrw .nef .nrw "
    ".orf .ori .pef .ptx .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f"
)
_NOT_READ = (
    ".ai .astc .avifs .blp .bpg .cin .cur .dcm .dds .dicom .djvu .dpx .emf .eps .exr .fit .fits .flif .fts .hdp "
    ".hdr .heics .icns .ico .iff .im .j2c .j2k .jls .jng .jp2 .jpc .jpf .jpm .jpx .jxl .jxr .jxs .kra .ktx .ktx2 "
    ".lbm .mng .msp .ora .pam .pcx .pfm .pic .pict .psb .psd .pvr .qoi .ras .rgb .rgba .rgbe .sgi .svg .svgz .tga "
    ".vda .vtf .wdp .wmf .xbm .xcf .xpm"
)
IMAGE_SUFFIXES = frozenset(f"{_READ} {_RAW_SUFFIXES} {_NOT_READ}".split())
"""Names of these endings count as images, so that a folder of kinds that are not read does not shrink unseen."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", *TIFF_STARTS)
_NAMES = {b"\x89": "PNG", b"\xff": "JPEG", b"G": "GIF", b"I": "TIFF", b"M": "TIFF", b"R": "WEBP"}
_DOCUMENTS = (
    (b"%pdf", "PDF"),
    (b"%!ps", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"<svg", "SVG"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<error", "an error message of a server"),
    (b"<?xml", "SVG or other XML"),
    (b"<!doctype", "SVG or other XML"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"data:image/", "a picture in base64"),
    (b"/9j/", "a picture in base64"),
    (b"ivborw0kggo", "a picture in base64"),
)
_PICTURES = (
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL ", JPEG_XL),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"qoif", "QOI"),
    (b"gimp xcf", "XCF"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"SDPX", "DPX"),
    (b"XPDS", "DPX"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"\xabKTX", "KTX"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"P7\n", "PAM"),
    (b"FUJIFILMCCD-RAW", CAMERA_RAW),
    (b"IIRO", CAMERA_RAW),
    (b"IIRS", CAMERA_RAW),
    (b"MMOR", CAMERA_RAW),
    (b"IIU\0", CAMERA_RAW),
    (b"FOVb", CAMERA_RAW),
    (b"\0MRM", CAMERA_RAW),
    (b"II\x1a\0\0\0HEAP", CAMERA_RAW),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def looks_like_image(head: bytes) -> bool:
    """Whether `head`, the first `HEAD_BYTES` of a file, bears the clear signature of an image, read here or not.

    BMP and PPM have signatures of two letters, which a text can start with, and are not recognised.
    """
    if head.startswith(_SIGNATURES) or _is_webp(head):
        return True
    kind = foreign_kind(head)
    return kind is not None and kind != "a video" and kind not in dict(_DOCUMENTS).values()


def foreign_kind(head: bytes) -> str | None:
    """The name of a format that people take for an image but that is not read, by its first bytes, or None."""
    if head[4:8] == b"ftyp":
        if head[8:12] == b"crx ":
            return CAMERA_RAW
        if head[8:11] == b"avi":
            return AVIF
        return HEIC if head[8:12] in _HEIC_BRANDS else "a video"
    if head.startswith(TIFF_STARTS) and (head[8:10] == b"CR" or head[8:12] in (b"IIII", b"MMMM")):
        return CAMERA_RAW
    found = next((kind for magic, kind in _PICTURES if head.startswith(magic)), None)
    # A TGA can begin as an ICO or CUR does, but these have pictures in them, and so their count.
    if found is not None and not (found in ("ICO", "CUR") and head[4:6] == b"\0\0"):
        return found
    start = head.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((kind for magic, kind in _DOCUMENTS if start.startswith(magic)), None)


def optional_format(head: bytes) -> str | None:
    """Pillow's name of a format that is read only where its decoder is installed, and is; else None."""
    if head[4:8] != b"ftyp":  # asked of every file, so the longer question is left for last
        return None
    kind = foreign_kind(head)
    if kind == AVIF and features.check("avif"):
        return "AVIF"
    if kind == HEIC and find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener()
        return "HEIF"
    return None


def kind_of_name(name: str) -> str | None:
    """What a file that nothing in its content explains is by the ending of its name, if that kind is not read."""
    suffix = suffix_of(name)
    if suffix in _RAW_SUFFIXES.split():
        return CAMERA_RAW
    return suffix[1:].upper() if suffix in _NOT_READ.split() else None


def suffix_of(name: str) -> str:
    """The ending of a name in small letters, with its dot; empty where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


STRAY_BYTES = 16 * 2**10


def behind_stray_bytes(head: bytes) -> str | None:
    """`a JPEG behind 3 stray bytes` where a picture begins within `head`, but not at once; else None."""
    places = {at: magic[:1] for magic in _SIGNATURES if (at := head.find(magic)) > 0}
    if (at := head.find(b"RIFF")) > 0 and _is_webp(head[at:]):
        places[at] = b"R"
    return f"a {_NAMES[places[min(places)]]} behind {min(places)} stray bytes" if places else None


def odd_jpeg(stream: IO[bytes]) -> str | None:
    """What is unusual about a JPEG: `12-bit JPEG`, `lossless JPEG`; None if nothing is, or it is damaged."""
    stream.seek(2)
    for _ in range(1000):
        marker = stream.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            return None
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            bits = stream.read(1)
            if bits not in (b"", b"\x08"):
                return f"a {bits[0]}-bit JPEG"
            return "a lossless JPEG" if marker[1] in (0xC3, 0xC7, 0xCB, 0xCF) else None
        stream.seek(max(0, int.from_bytes(marker[2:], "big") - 2), 1)
    return None


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


# Tags of a TIFF, of TIFF 6.0 and of DNG, and the values of them that tell camera raw.
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_PLANES, _SUB_DIRECTORIES, _SAMPLE_FORMAT, _DNG_VERSION = 284, 330, 339, 50706
_SEPARATE = 2
_WANTED = {_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC}
_WANTED |= {_PLANES, _SUB_DIRECTORIES, _SAMPLE_FORMAT, _DNG_VERSION}
_SENSOR_PHOTOMETRICS = {32803, 34892}
_SENSOR_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
_IS_BELOW = -1
"""Not a tag: the mark of a directory below another one."""
_MOST_DIRECTORIES, _MOST_ENTRIES, _MOST_VALUES = 16, 1024, 16
_VALUE_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

Directory = dict[int, tuple[int, ...]]
"""Values by tag, of the tags in `_WANTED` alone."""


def odd_tiff(stream: IO[bytes], name: str) -> tuple[str, str] | None:
    """What is wrong with taking the first picture of a TIFF for the picture, and the remedy; None if nothing is."""
    if suffix_of(name) in _RAW_SUFFIXES.split():
        return f"it is {CAMERA_RAW}, which is not read", REMEDIES[CAMERA_RAW]
    first, *others = read_directories(stream) or [{}]
    if _DNG_VERSION in first or any(_is_of_sensor(one) for one in (first, *others)):
        return f"it is {CAMERA_RAW}, which is not read", REMEDIES[CAMERA_RAW]
    # A page behind the first one may be larger, but not a picture below it: that would be the first one's own.
    hidden = [one for one in others if _IS_BELOW in one or _value(first, _SUBFILE_TYPE) & 1]
    if max(map(_area, hidden), default=0) > _area(first):
        return "its first picture is a thumbnail of a larger one behind it", "save it as a plain TIFF or as PNG"
    bits, kind = first.get(_BITS, (1,)), _value(first, _SAMPLE_FORMAT)
    if kind == 3:
        return "it holds floating-point values of unknown range", "save it with 8 or 16 bits"
    if max(bits) > 16:
        return f"it holds {max(bits)}-bit values of unknown range", "save it with 8 or 16 bits"
    if _value(first, _PLANES) == _SEPARATE and len(bits) > 1 and max(bits) > 8:
        return f"it holds {max(bits)}-bit colours in separate planes", "save it with interleaved colours or as PNG"
    if kind == 2:
        return "it holds signed values of unknown range", "save it with 8 or 16 bits, without a sign"
    return None


def bits_of_tiff(stream: IO[bytes]) -> int:
    """Bits of a sample of the first picture; 0 where it does not say."""
    return max((read_directories(stream) or [{}])[0].get(_BITS, (0,)))


def read_directories(stream: IO[bytes]) -> list[Directory]:
    """The directories of a TIFF or BigTIFF: the first, those behind it, and those below each, at most 16 in all.

    What is damaged is left out, since reading the picture itself will tell.
    """
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = head[2:4] in (b"+\0", b"\0+")
    pending = [_unpack(order + "Q", head[8:16]) if is_big else _unpack(order + "I", head[4:8])]
    found: list[Directory] = []
    seen: set[int] = set()
    below: set[int] = set()
    while pending and len(found) < _MOST_DIRECTORIES:
        offset = pending.pop(0)
        if not 0 < offset < 2**62 or offset in seen:
            continue
        seen.add(offset)
        directory, following = _read_directory(stream, offset, order, is_big)
        if offset in below:
            directory[_IS_BELOW] = (1,)
        found.append(directory)
        below |= {*directory.get(_SUB_DIRECTORIES, ())}
        pending += [*directory.get(_SUB_DIRECTORIES, ()), following]
    return found


def _read_directory(stream: IO[bytes], offset: int, order: str, is_big: bool) -> tuple[Directory, int]:
    """One directory, and the offset of the next one or 0."""
    count_format, entry, inline = ("Q", 20, 8) if is_big else ("H", 12, 4)
    stream.seek(offset)
    count = _unpack(order + count_format, stream.read(struct.calcsize(order + count_format)))
    if count > _MOST_ENTRIES:
        return {}, 0
    content = stream.read(count * entry)
    following = _unpack(order + ("Q" if is_big else "I"), stream.read(inline))
    directory: Directory = {}
    for at in range(0, len(content) - entry + 1, entry):
        tag, kind = struct.unpack_from(order + "HH", content, at)
        number = _unpack(order + ("Q" if is_big else "I"), content[at + 4 : at + 4 + inline])
        form = _VALUE_FORMATS.get(kind)
        if tag not in _WANTED or form is None or not 0 < number <= _MOST_VALUES:
            continue
        size = struct.calcsize(order + form) * number
        raw = content[at + entry - inline : at + entry]
        if size > inline:
            place = _unpack(order + ("Q" if is_big else "I"), raw)
            if place >= 2**62:
                continue
            stream.seek(place)
            raw = stream.read(size)
        if len(raw) >= size:
            directory[tag] = struct.unpack_from(f"{order}{number}{form}", raw)
    return directory, following


def _unpack(form: str, content: bytes) -> int:
    """One number; 0 where the file ends before it."""
    return int(struct.unpack(form, content)[0]) if len(content) == struct.calcsize(form) else 0


def _value(directory: Directory, tag: int) -> int:
    return directory.get(tag, (0,))[0]


def _area(directory: Directory) -> int:
    return _value(directory, _WIDTH) * _value(directory, _HEIGHT)


def _is_of_sensor(directory: Directory) -> bool:
    if _value(directory, _PHOTOMETRIC) in _SENSOR_PHOTOMETRICS:
        return True
    return _value(directory, _COMPRESSION) in _SENSOR_COMPRESSIONS
