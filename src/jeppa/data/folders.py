"""The possible images in a folder, recursively, without ever leaving it."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from jeppa.data.refs import ImageRef, Listing, Skipped, is_candidate, is_hidden
from jeppa.errors import DataError


def list_folder(root: Path) -> Listing:
    """List the files under `root` that claim to be images, sorted by relative POSIX name (code points).

    Hidden files and everything that is not a regular file (pipes, devices) are ignored. A link to a file
    counts if its target lies inside the folder; links to folders are not followed, so the walk terminates.

    Raises:
        DataError: if the folder itself cannot be listed.
    """
    skipped: list[Skipped] = []
    files = (found for found in _walk(root.resolve(), skipped) if is_candidate(found))
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
                refusal = _refusal(entry.path, root)
                if refusal is not None:
                    skipped.append(Skipped(name, refusal))
                    continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif entry.is_file():
                yield file_ref(Path(entry.path), name)


def _refusal(link: str, root: Path) -> str | None:
    """Why a symbolic link is not used, or None if it is."""
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(root):
        return "the link leaves the folder; copy the file instead"
    if target.is_dir():
        return "links to folders are not followed"
    return None if os.path.isfile(target) else "the link leads nowhere"


def _open_file(path: str) -> IO[bytes]:
    return open(path, "rb")
