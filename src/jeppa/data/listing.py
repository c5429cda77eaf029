"""List the possible images of a folder, a zip archive or the built-in set; each is read only when it is needed.

A folder is walked recursively; links in it are followed, but only to files. Members of an archive are read into memory
and never extracted. A member is reported as skipped, and not read, if its name is absolute or contains `..`, if it is a
link or encrypted, if it is larger than `MAX_FILE_BYTES`, or if it is larger than `FREE_BYTES` and expands more than
`MAX_RATIO` times (the most that deflate can do is 1032 times; photographs hardly reach 2).

`builtin:photos` are photographs that the packages scikit-image and scikit-learn contain, so the demo and the comparison
run without a download. They are split by scene, and the split is fixed here: no held-out picture has the motif of a
training picture (the two views of the motorcycle are one scene).
"""

import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from jeppa.data.decode import MAX_FILE_BYTES, Pixels, one_line, read_pixels
from jeppa.data.kinds import HEAD_BYTES, IMAGE_SUFFIXES, looks_like_image, suffix_of
from jeppa.errors import ConfigError, DataError

Notes = tuple[str, ...]
SHOWN_KINDS = 5
MAC_FOLDER = "__MACOSX"


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has not changed: where it is, its size and when it, or its archive, was last changed."""

    place: str
    size: int
    written_ns: int
    changed_ns: int


@dataclass(frozen=True)
class ImageRef:
    """One image of a source.

    Args:
        name: relative POSIX path inside the source.
        label: the class, or None.
        size: bytes of the (uncompressed) file.
        open: opens the file as a seekable binary stream; picklable, so that data-loader workers can use it.
        stamp: stays the same while the content does.
        shard: number of the shard that holds it, where a source has several.
        checked: True where it is not opened before it is needed, and `size` is an upper limit.
    """

    name: str
    label: str | None
    size: int
    open: Callable[[], IO[bytes]] = field(repr=False, compare=False)
    stamp: Stamp | None = field(default=None, repr=False, compare=False)
    shard: int = field(default=0, repr=False, compare=False)
    checked: bool = field(default=False, repr=False, compare=False)

    def labelled(self, label: str | None) -> "ImageRef":
        """The same image under another label; `dataclasses.replace` would take three times as long."""
        if label == self.label:
            return self
        return ImageRef(self.name, label, self.size, self.open, self.stamp, self.shard, self.checked)

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
    """What lies in a folder or archive: possible images in order of name, what was refused unopened, and notes."""

    refs: tuple[ImageRef, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def is_candidate(ref: ImageRef) -> bool:
    """Whether a file claims to be an image: by a known suffix, or else by the signature of its content."""
    if suffix_of(ref.name) in IMAGE_SUFFIXES:
        return True
    try:
        with ref.stream() as stream:
            return looks_like_image(stream.read(HEAD_BYTES))
    except DataError:  # unreadable, and its name does not claim an image: not counted at all
        return False


def is_hidden(name: str) -> bool:
    """Whether a part of a relative POSIX path starts with a dot, or is the folder that macOS adds to archives."""
    parts = (part for part in name.split("/") if part not in (".", ".."))
    return any(part.startswith(".") or part == MAC_FOLDER for part in parts)


def list_folder(root: Path) -> Listing:
    """List the files under `root` that claim to be images, sorted by relative POSIX name (code points).

    Hidden files and everything that is not a regular file (pipes, devices) are ignored. A link counts as the regular
    file that it ends in, wherever that lies; links to folders are not followed, so the walk terminates.

    Raises:
        DataError: if the folder itself cannot be listed.
    """
    skipped: list[Skipped] = []
    links: list[str] = []
    candidates, ignored = _choose_images(_walk(root.resolve(), skipped, links))
    refs = tuple(sorted(_compose(candidates), key=lambda ref: ref.name))
    return Listing(refs, tuple(sorted(skipped, key=lambda one: one.name)), (*_note_links(links, refs), *ignored))


def _choose_images(refs: Iterable[ImageRef]) -> tuple[list[ImageRef], Notes]:
    """Those that claim to be images, and a note that counts the others, so that none is left out without a word."""
    chosen: list[ImageRef] = []
    others: Counter[str] = Counter()
    for ref in refs:
        if is_candidate(ref):
            chosen.append(ref)
        else:
            others[suffix_of(ref.name) or "no ending"] += 1
    if not others:
        return chosen, ()
    kinds = ", ".join(f"{count} {suffix!r}" for suffix, count in others.most_common(SHOWN_KINDS))
    rest = ", ..." if len(others) > SHOWN_KINDS else ""
    return chosen, (f"{sum(others.values())} files are not taken for images: {kinds}{rest}",)


def _note_links(links: Collection[str], refs: Iterable[ImageRef]) -> Notes:
    """A line that counts the images that are links."""
    known = set(links)
    followed = [ref.name for ref in refs if ref.name in known]
    if not followed:
        return ()
    return (f"{len(followed)} images are links, which are followed to their files; the first is {followed[0]!r}",)


def file_ref(path: str | Path, name: str, status: os.stat_result, label: str | None = None) -> ImageRef:
    """The reference to one regular file of this `status`."""
    stamp = Stamp(str(path), status.st_size, status.st_mtime_ns, max(status.st_mtime_ns, status.st_ctime_ns))
    return ImageRef(name, label, status.st_size, partial(_open_file, str(path)), stamp)


def _compose(refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """With names in composed Unicode (NFC), whatever the file system or archive has them in, unless two become one."""
    kept = list(refs)
    names = [ref.name if ref.name.isascii() else unicodedata.normalize("NFC", ref.name) for ref in kept]
    counts = Counter(names)
    for ref, name in zip(kept, names, strict=True):
        yield replace(ref, name=name) if name != ref.name and counts[name] == 1 else ref


def _walk(root: Path, skipped: list[Skipped], links: list[str]) -> Iterator[ImageRef]:
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if not folder:
                reason = error.strerror or "unknown reason"
                raise DataError(f"{str(root)!r}: cannot be listed ({reason}); check its rights") from error
            skipped.append(Skipped(folder, "the folder cannot be listed"))
            continue
        for entry in entries:
            if entry.name[0] == "." or entry.name == MAC_FOLDER:  # as `is_hidden`, which takes longer
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                refusal = _refuse_link(entry.path)
                if refusal is not None:
                    skipped.append(Skipped(name, refusal))
                    continue
                links.append(name)
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            elif entry.is_file():
                yield file_ref(entry.path, name, entry.stat())


def _refuse_link(link: str) -> str | None:
    """Why a symbolic link is not used, or None if it is."""
    if os.path.isdir(link):
        return "links to folders are not followed; pass the folder itself, or link its files"
    return None if os.path.isfile(link) else "the link ends in no regular file"


def _open_file(path: str) -> IO[bytes]:
    return open(path, "rb")


MAX_RATIO = 200
FREE_BYTES = 2**20


def list_zip(path: Path, names_encoding: str | None = None) -> Listing:
    """List the members of a zip that claim to be images, sorted by name.

    The one folder that encloses all images, if there is one, is no part of the names: a zipped folder
    gives the same names, labels and fingerprint as the folder itself.

    Args:
        path: the archive.
        names_encoding: code page of the names that are not marked as UTF-8; None takes them for UTF-8 where they all
            are, or else for cp437, as the format says, with a note.

    Raises:
        DataError: if the file is no intact zip, or its members overlap (a form of bomb).
        ConfigError: if there is no such encoding, or a name is not in it.
    """
    try:
        status = path.stat()
        members = _open_archive(str(path), status.st_mtime_ns, os.getpid()).infolist()
    except Exception as error:  # OSError, BadZipFile, and on damaged directories struct.error, ValueError and others
        raise DataError(f"{str(path)!r}: cannot be read as a zip ({one_line(error)}); pack it again") from error
    if sum(member.compress_size for member in members) > status.st_size:
        raise DataError(f"{str(path)!r}: its members overlap, as in a zip bomb; pack it again")
    names, notes = _decode_names(path, members, names_encoding)
    # Of members with the same name zipfile reads the last one.
    unique = {name: member for name, member in zip(names, members, strict=True) if not name.endswith("/")}
    files = {name: member for name, member in sorted(unique.items()) if not is_hidden(name)}
    refused = {name: _refuse_member(name, member) for name, member in files.items()}
    refs = [_member_ref(path, status, name, member) for name, member in files.items() if refused[name] is None]
    skipped = tuple(Skipped(files[name].filename, reason) for name, reason in refused.items() if reason is not None)
    chosen, ignored = _choose_images(refs)
    candidates = _drop_enclosing_folder(chosen)
    return Listing(tuple(sorted(_compose(candidates), key=lambda ref: ref.name)), skipped, (*notes, *ignored))


_UTF_8_NAME = 0x800
_GUESSES = {"cp866": "\u0400-\u04ff", "cp932": "\u3040-\u30ff\u4e00-\u9fff", "gbk": "\u4e00-\u9fff"}
"""Code pages that archives are often made in, and the letters that such names are made of."""


def _decode_names(path: Path, members: list[zipfile.ZipInfo], encoding: str | None) -> tuple[list[str], Notes]:
    """The names with slashes between folders, and a note where their encoding is not known."""
    unmarked = {
        index: member.orig_filename.encode("cp437")
        for index, member in enumerate(members)
        if not member.flag_bits & _UTF_8_NAME and not member.orig_filename.isascii()
    }
    chosen = encoding or ("utf-8" if _are_all(unmarked.values(), "utf-8") else "cp437")
    names = [member.filename for member in members]
    for index, raw in unmarked.items():
        try:
            names[index] = raw.decode(chosen)
        except LookupError:
            raise ConfigError(f"names encoding is {chosen!r}, which is not known; use cp866, cp932 or gbk") from None
        except UnicodeDecodeError:
            shown = members[index].filename
            raise ConfigError(f"{str(path)!r}: the name {shown!r} is not in {chosen}; use another encoding") from None
    notes: Notes = ()
    if unmarked and encoding is None and chosen == "cp437":
        notes = (_explain_names(path, list(unmarked.values())),)
    # After decoding, as a backslash can be the second byte of a letter. Windows writes them between folders.
    return [name.replace("\\", "/") for name in names], notes


def _explain_names(path: Path, names: list[bytes]) -> str:
    taken = f"{str(path)!r}: {len(names)} names do not say their encoding and were read as {names[0].decode('cp437')!r}"
    for encoding, letters in _GUESSES.items():
        if _are_all(names, encoding) and re.fullmatch(f"[\x00-\x7f{letters}]*", names[0].decode(encoding)):
            return f"{taken}; with --names-encoding {encoding} it would be {names[0].decode(encoding)!r}"
    return f"{taken}; if that is wrong, give --names-encoding, such as cp866, cp932 or cp1252"


def _are_all(names: Iterable[bytes], encoding: str) -> bool:
    """Whether all of them can be decoded."""
    try:
        return all(name.decode(encoding) is not None for name in names)
    except UnicodeDecodeError:
        return False


def _member_ref(path: Path, status: os.stat_result, name: str, member: zipfile.ZipInfo) -> ImageRef:
    place = f"{path.absolute()}\0{member.header_offset}\0{member.CRC}"
    stamp = Stamp(place, member.file_size, status.st_mtime_ns, max(status.st_mtime_ns, status.st_ctime_ns))
    return ImageRef(name, None, member.file_size, partial(_open_member, str(path), member.filename), stamp)


def _refuse_member(name: str, member: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, or None if it may be."""
    if not name:
        return "it has no name"
    if leaves_archive(name):
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


def leaves_archive(name: str) -> bool:
    """Whether a member of that name would be written outside of a folder that the archive is unpacked into."""
    return name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")


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


def is_builtin(spec: str | Path) -> bool:
    """Whether a name of data is that of a built-in set."""
    return str(spec).startswith("builtin:")


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
    return [file_ref(root / name, name, (root / name).stat(), scene) for name, scene in scenes.items()]
