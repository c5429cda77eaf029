"""The possible images in a zip archive; members are read in memory and never extracted.

A member is refused, listed and left unread when its name is absolute or climbs with `..`, when it is a link
or encrypted, when it is larger than `MAX_FILE_BYTES`, or when it is larger than `FREE_BYTES` and expands
more than `MAX_RATIO` times (deflate reaches 1032, photographs hardly 2).
"""

import os
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO

from jeppa.data.decode import MAX_FILE_BYTES, one_line
from jeppa.data.refs import ImageRef, Listing, Skipped, is_candidate, is_hidden
from jeppa.errors import DataError

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
        members = _archive(str(path), path.stat().st_mtime_ns, os.getpid()).infolist()
    except Exception as error:  # OSError, BadZipFile, and on damaged directories struct.error, ValueError and others
        raise DataError(f"{str(path)!r}: cannot be read as a zip ({one_line(error)}); pack it again") from error
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise DataError(f"{str(path)!r}: its members overlap, as in a zip bomb; pack it again")
    # Of members with the same name zipfile reads the last one.
    unique = {member.filename: member for member in members if not member.filename.endswith("/")}
    files = [member for name, member in sorted(unique.items()) if not is_hidden(name)]
    refused = [(member.filename, _refusal(member)) for member in files]
    refs = [
        ImageRef(member.filename, None, member.file_size, partial(_open_member, str(path), member.filename))
        for member in files
        if _refusal(member) is None
    ]
    skipped = tuple(Skipped(name, reason) for name, reason in refused if reason is not None)
    return Listing(_without_enclosing_folder(ref for ref in refs if is_candidate(ref)), skipped)


def _refusal(member: zipfile.ZipInfo) -> str | None:
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


def _without_enclosing_folder(refs: Iterable[ImageRef]) -> tuple[ImageRef, ...]:
    kept = tuple(refs)
    tops = {ref.name.split("/")[0] if "/" in ref.name else "" for ref in kept}
    if len(tops) != 1 or tops == {""}:
        return kept
    return tuple(replace(ref, name=ref.name.split("/", 1)[1]) for ref in kept)


def _open_member(path: str, member: str) -> IO[bytes]:
    return _archive(path, os.stat(path).st_mtime_ns, os.getpid()).open(member)


@lru_cache(maxsize=4)
def _archive(path: str, mtime_ns: int, process: int) -> zipfile.ZipFile:
    """An open archive, kept because its directory is slow to parse.

    Keyed by process, because forked workers share the file offset of an inherited handle; and by
    modification time, because a replaced archive has another directory.
    """
    return zipfile.ZipFile(path)
