"""List the possible images of a folder, a zip archive or the built-in set; each is read only when it is needed.

A folder is walked recursively, without leaving it. Members of an archive are read into memory and never extracted. A
member is reported as skipped, and not read, if its name is absolute or contains `..`, if it is a link or encrypted, if
it is larger than `MAX_FILE_BYTES`, or if it is larger than `FREE_BYTES` and expands more than `MAX_RATIO` times (the
most that deflate can do is 1032 times; photographs hardly reach 2).

`builtin:photos` are photographs that the packages scikit-image and scikit-learn contain, so the demo and the comparison
run without a download. They are split by scene, and the split is fixed here: no held-out picture has the motif of a
training picture (the two views of the motorcycle are one scene).
"""

import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from jeppa.data.decode import HEAD_BYTES, MAX_FILE_BYTES, Pixels, looks_like_image, one_line, read_pixels
from jeppa.errors import DataError

_READ = ".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .heic .heif .avif"

# These count as unreadable images, so that their number is reported and not silently left out.
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
    except DataError:  # unreadable, and its name does not claim an image: not counted at all
        return False


def is_hidden(name: str) -> bool:
    """Whether a part of a relative POSIX path starts with a dot, or is the folder that macOS adds to archives."""
    parts = (part for part in name.split("/") if part not in (".", ".."))
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def list_folder(root: Path) -> Listing:
    """List the files under `root` that claim to be images, sorted by relative POSIX name (code points).

    Hidden files and everything that is not a regular file (pipes, devices) are ignored. A link to a file
    counts if its target lies inside the folder; links to folders are not followed, so the walk terminates.

    Raises:
        DataError: if the folder itself cannot be listed.
    """
    skipped: list[Skipped] = []
    files = (ref for ref in _walk(root.resolve(), skipped) if is_candidate(ref))
    refs = tuple(sorted(files, key=lambda ref: ref.name))
    return Listing(refs, tuple(sorted(skipped, key=lambda one: one.name)))


def file_ref(path: Path, name: str, label: str | None = None) -> ImageRef:
    """The reference to one regular file."""
    return ImageRef(name, label, path.stat().st_size, partial(_open_file, str(path)))


def _walk(root: Path, skipped: list[Skipped]) -> Iterator[ImageRef]:
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if folder == root:
                reason = error.strerror or "unknown reason"
                raise DataError(f"{str(root)!r}: cannot be listed ({reason}); check its rights") from error
            skipped.append(Skipped(folder.relative_to(root).as_posix(), "the folder cannot be listed"))
            continue
        for entry in entries:
            name = Path(entry.path).relative_to(root).as_posix()
            if is_hidden(name):
                continue
            if entry.is_symlink():
                refusal = _refuse_file(entry.path, root)
                if refusal is not None:
                    skipped.append(Skipped(name, refusal))
                    continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif entry.is_file():
                yield file_ref(Path(entry.path), name)


def _refuse_file(link: str, root: Path) -> str | None:
    """Why a symbolic link is not used, or None if it is."""
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(root):
        return "the link leaves the folder; copy the file instead"
    if target.is_dir():
        return "links to folders are not followed"
    return None if os.path.isfile(target) else "the link leads nowhere"


def _open_file(path: str) -> IO[bytes]:
    return open(path, "rb")


MAX_RATIO = 200
FREE_BYTES = 2**20


def list_zip(path: Path) -> Listing:
    """List the members of a zip that claim to be images, sorted by name.

    The one folder that encloses all images, if there is one, is no part of the names: a zipped folder
    gives the same names, labels and fingerprint as the folder itself.

    Raises:
        DataError: if the file is no intact zip, or its members overlap (a form of bomb).
    """
    try:
        members = _open_archive(str(path), path.stat().st_mtime_ns, os.getpid()).infolist()
    except Exception as error:  # OSError, BadZipFile, and on damaged directories struct.error, ValueError and others
        raise DataError(f"{str(path)!r}: cannot be read as a zip ({one_line(error)}); pack it again") from error
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise DataError(f"{str(path)!r}: its members overlap, as in a zip bomb; pack it again")
    # Of members with the same name zipfile reads the last one.
    unique = {member.filename: member for member in members if not member.filename.endswith("/")}
    files = [member for name, member in sorted(unique.items()) if not is_hidden(name)]
    refused = [(member.filename, _refuse_member(member)) for member in files]
    refs = [
        ImageRef(member.filename, None, member.file_size, partial(_open_member, str(path), member.filename))
        for member in files
        if _refuse_member(member) is None
    ]
    skipped = tuple(Skipped(name, reason) for name, reason in refused if reason is not None)
    return Listing(_drop_enclosing_folder(ref for ref in refs if is_candidate(ref)), skipped)


def _refuse_member(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, or None if it may be."""
    name = member.filename.replace("\\", "/")
    if not name:
        return "it has no name"
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        return "its name leaves the archive"
    # S_ISREG is not asked: archives made on Windows record no file type at all.
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a link"
    if member.flag_bits & 0x1:
        return "it is encrypted; pack it without a password"
    if member.file_size > MAX_FILE_BYTES:
        return f"it has {member.file_size:,} bytes, limit {MAX_FILE_BYTES:,}"
    if member.file_size > max(FREE_BYTES, MAX_RATIO * member.compress_size):
        return f"it expands more than {MAX_RATIO} times, as in a zip bomb"
    return None


def _drop_enclosing_folder(refs: Iterable[ImageRef]) -> tuple[ImageRef, ...]:
    kept = tuple(refs)
    tops = {ref.name.split("/")[0] if "/" in ref.name else "" for ref in kept}
    if len(tops) != 1 or tops == {""}:
        return kept
    return tuple(replace(ref, name=ref.name.split("/", 1)[1]) for ref in kept)


def _open_member(path: str, member: str) -> IO[bytes]:
    return _open_archive(path, os.stat(path).st_mtime_ns, os.getpid()).open(member)


@lru_cache(maxsize=4)
def _open_archive(path: str, mtime_ns: int, process: int) -> zipfile.ZipFile:
    """An open archive, kept because its directory is slow to parse.

    Keyed by process, because forked workers share the file offset of an inherited handle; and by
    modification time, because a replaced archive has another directory.
    """
    return zipfile.ZipFile(path)


BUILTIN_NAMES = ("photos",)
HELDOUT_SCENES = frozenset({"cat", "coffee", "rocket", "camera", "gravel"})
_SCIKIT_IMAGE = {
    "astronaut.png": "astronaut",
    "brick.png": "brick",
    "camera.png": "camera",
    "cell.png": "cell",
    "chelsea.png": "cat",
    "clock_motion.png": "clock",
    "coffee.png": "coffee",
    "coins.png": "coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies",
    "ihc.png": "tissue",
    "moon.png": "moon",
    "motorcycle_left.png": "motorcycle",
    "motorcycle_right.png": "motorcycle",
    "retina.jpg": "retina",
    "rocket.jpg": "rocket",
}
_SCIKIT_LEARN = {"china.jpg": "temple", "flower.jpg": "flower"}


def list_builtin(name: str) -> tuple[ImageRef, ...]:
    """The images of a built-in set, sorted by name; the label is the scene.

    Raises:
        DataError: if the set is unknown, or a package that holds it is incomplete.
    """
    if name not in BUILTIN_NAMES:
        known = ", ".join(f"builtin:{name}" for name in BUILTIN_NAMES)
        raise DataError(f"'builtin:{name}' is no built-in data set; the known ones are: {known}")
    refs = [
        *_find_installed("skimage", "data", "scikit-image", _SCIKIT_IMAGE),
        *_find_installed("sklearn", "datasets/images", "scikit-learn", _SCIKIT_LEARN),
    ]
    return tuple(sorted(refs, key=lambda ref: ref.name))


def _find_installed(module: str, folder: str, distribution: str, scenes: dict[str, str]) -> list[ImageRef]:
    spec = find_spec(module)  # finds the package without importing it, which takes a second
    if spec is None or spec.origin is None:
        raise DataError(f"builtin:photos needs {distribution}; run: pip install {distribution}")
    root = Path(spec.origin).parent / folder
    missing = [name for name in scenes if not (root / name).is_file()]
    if missing:
        remedy = f"run: pip install --force-reinstall {distribution}"
        raise DataError(f"builtin:photos misses {missing[0]!r} of {distribution}; {remedy}")
    return [file_ref(root / name, name, scene) for name, scene in scenes.items()]
