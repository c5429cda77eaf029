"""Names of images that are read only when needed: what a folder, an archive or the built-in set lists."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from jeppa.data.decode import MAX_FILE_BYTES, Pixels, one_line, read_pixels
from jeppa.data.formats import HEAD_BYTES, looks_like_image
from jeppa.errors import DataError

_READ = ".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .heic .heif .avif"
# These count as unreadable, so that a folder of them does not shrink without a word.
_NOT_READ = ".jxl .svg .eps"
IMAGE_SUFFIXES = frozenset(f"{_READ} {_NOT_READ}".split())


@dataclass(frozen=True)
class ImageRef:
    """One image of a source.

    Args:
        name: relative POSIX path inside the source.
        label: the class, or None.
        size: bytes of the (uncompressed) file.
        open: opens the file as a seekable binary stream; picklable, so that data-loader workers can use it.
    """

    name: str
    label: str | None
    size: int
    open: Callable[[], IO[bytes]] = field(repr=False, compare=False)

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """The open file, as a context in which a failure becomes a `DataError` that names the image."""
        try:
            with self.open() as stream:
                yield stream
        except (DataError, MemoryError):
            raise
        except Exception as error:  # OSError, and from archives also zlib.error, BadZipFile, EOFError
            problem = f"it cannot be read ({one_line(error)})"
            raise DataError(f"{self.name!r}: {problem}; delete or replace it") from error

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            DataError: if it is larger than `MAX_FILE_BYTES` or cannot be read.
        """
        if self.size > MAX_FILE_BYTES:
            raise DataError(f"{self.name!r}: it has {self.size:,} bytes, limit {MAX_FILE_BYTES:,}; convert it")
        with self.stream() as stream:
            return stream.read(self.size)  # a larger number would reserve that much memory for every image

    def read_pixels(self) -> Pixels:
        """Decode to uint8 `[H,W,3]`; raises `DataError` as `jeppa.data.images.read_pixels` does."""
        return read_pixels(self.read_bytes(), self.name)


@dataclass(frozen=True)
class Skipped:
    """Something in a source that is not used, and why (one line)."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What lies in a folder or archive: possible images in order of name, and what was refused unopened."""

    refs: tuple[ImageRef, ...]
    skipped: tuple[Skipped, ...]


def is_candidate(ref: ImageRef) -> bool:
    """Whether a file claims to be an image: by a known suffix, or else by the signature of its content."""
    dot = ref.name.rfind(".")
    if dot >= 0 and ref.name[dot:].lower() in IMAGE_SUFFIXES:
        return True
    try:
        with ref.stream() as stream:
            return looks_like_image(stream.read(HEAD_BYTES))
    except DataError:  # unreadable and not named like an image: none of our business
        return False


def is_hidden(name: str) -> bool:
    """Whether any part of a relative POSIX path is hidden, or is the shadow folder of macOS archives."""
    parts = (part for part in name.split("/") if part not in (".", ".."))
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
