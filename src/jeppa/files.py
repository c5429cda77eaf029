"""Read files that may come from strangers, within limits, and write files so that a kill leaves no half of one.

- `open_regular` opens only regular files. Reading a named pipe in a stranger's folder would wait forever.
- `read_json` limits the size, refuses repeated keys and NaN, and expects an object at the top. Python's reader keeps
  the last of two equal keys, so two programs can read one file differently; it accepts NaN, which JSON does not have;
  and deep nesting raises an error of its own kind.
- `read_yaml` accepts plain values only: no tags, no aliases, no repeated keys, and limits on size and depth. PyYAML's
  safe reader builds no foreign objects, but an alias can stand for a list of aliases (ten lines make a billion
  entries), the last of two equal keys silently wins, and deep nesting ends in errors or quadratic time. So the events
  of the parser, which cost next to nothing, are checked before any value is built.
- `write_text_atomically` leaves the old or the new text, never a part. `make_folder` makes a folder for output.
"""

import json
import os
import reprlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import yaml

from jeppa.errors import CheckpointError, ConfigError


def open_regular(path: Path) -> BufferedReader:
    """The file for reading, if it is a regular one.

    Raises:
        OSError: missing, not regular, or may not be read.
        ValueError: a NUL in the path.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return open(descriptor, "rb")


MAX_JSON_BYTES = 2**20
"""Far above any JSON file of ours: a checkpoint's state has hundreds of bytes, a header of 1,000 tensors 100 kB."""


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        CheckpointError: missing, too large, or refused by `parse_json`.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}); restore the file") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, origin: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: UTF-8, at most `MAX_JSON_BYTES`.
        origin: name of the content in errors.

    Raises:
        CheckpointError: too large, damaged, nested too deeply, no object, or with a key twice or a NaN in it.
    """
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(f"{origin}: more than {MAX_JSON_BYTES:,} bytes of JSON; this is no file of jeppa")
    try:
        values = json.loads(content.decode(), object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{origin}: not valid JSON ({reason}); restore the file") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{origin}: holds no JSON object; restore the file")
    return values


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


MAX_YAML_BYTES = 64 * 1024
MAX_DEPTH = 16

# Longer numbers would be slow to convert, and Python refuses to print them.
MAX_SCALAR = 1024
MAX_SHOWN = 60


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values.

    Raises:
        ConfigError: missing, no regular file, larger than 64 KiB, or refused by `parse_yaml`.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give an existing YAML file")
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, origin: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Args:
        content: UTF-8, at most 64 KiB.
        origin: name of the content in errors.

    Raises:
        ConfigError: one line that names the key: too large, damaged, no mapping, nested too deeply, or with tags,
            anchors, aliases or a key twice in it.
    """
    if len(content) > MAX_YAML_BYTES:
        raise ConfigError(f"{origin}: larger than 64 KiB, so not a jeppa configuration")
    try:
        text = content.decode()
        _check_events(text, origin)
        values = yaml.load(text, _UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:  # ValueError: 2001-99-99 is no date
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: must be a mapping of keys to values")
    return values


def shorten(value: Any) -> str:
    """A value of any size and type as short text for an error."""
    return _shown.repr(value)


def _check_events(text: str, origin: str) -> None:
    depth, last = 0, "its top"
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ConfigError(f"{origin}, line {line}: an alias or anchor at {last}; write the values out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError(f"{origin}, line {line}: tag {shorten(tag)} at {last}; only plain values are read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR:
                raise ConfigError(f"{origin}, line {line}: a value of more than {MAX_SCALAR} characters at {last}")
            last = f"key {shorten(event.value)}"
        if depth > MAX_DEPTH:
            raise ConfigError(f"{origin}, line {line}: nested more than {MAX_DEPTH} deep at {last}")


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's SafeLoader, but a key given twice is an error."""


def _construct_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key in seen and key is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {shorten(key)} twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = MAX_SHOWN


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader sees the old or the new content, never a part."""
    temporary = path.name + ".tmp"
    with written_atomically(path, temporary if len(os.fsencode(temporary)) <= LONGEST_NAME else None) as draft:
        draft.write_text(text, encoding="utf-8")
        flush(draft)
    flush(path.parent)


LONGEST_NAME = 255
"""Bytes of a file's name, on most systems."""


@contextmanager
def written_atomically(path: Path, temporary: str | None = None) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end, or is removed if that fails.

    It lies in the same folder, because `os.replace` is atomic only within one file system. Its name is short unless
    given, because that of `path` may be as long as a name can be.
    """
    draft = path.with_name(temporary or f".{secrets.token_hex(8)}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def folder_made_atomically(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end, or is removed if that fails.

    Raises:
        ConfigError: as `check_new`.
    """
    check_new(out)
    draft = out.with_name(f".{secrets.token_hex(8)}.tmp")
    make_folder(draft)
    try:
        yield draft
        for path in draft.rglob("*"):
            flush(path)
        if out.is_dir():
            out.rmdir()
        os.rename(draft, out)
        flush(out.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_new(out: Path) -> None:
    """Refuse a file or a folder that holds something already.

    Raises:
        ConfigError: it does.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out}: is there already and is not replaced; choose another --out, or move it away")


def check_out_file(out: Path) -> None:
    """Refuse a file that could not be written at the end of the work; nothing is written yet.

    Raises:
        ConfigError: it is a folder, a device or a pipe, its name is too long, or its folder cannot be made or written
            to.
    """
    _check_name(out)
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, but a file is to be written; use for example --out {out / 'out.json'}")
    if out.exists() and not out.is_file():  # a file would take its place: as root even that of /dev/null
        raise ConfigError(f"{out}: is a device or a pipe, which is not replaced by a file; choose another --out")
    _check_ancestor(out, out.parent)


def check_out_folder(out: Path, data: str | Path | None = None) -> None:
    """Refuse a folder that could not be made or written to; nothing is written yet.

    Args:
        out: the folder.
        data: what is read; a folder must not hold `out`, or the pictures that are made would become its own.

    Raises:
        ConfigError: it is a file, lies in `data`, its name is too long, or it cannot be made or written to.
    """
    _check_name(out)
    _check_ancestor(out, out)
    if data is None or not Path(data).is_dir():
        return
    if out.resolve().is_relative_to(Path(data).resolve()):
        raise ConfigError(
            f"{out}: lies in {data}, whose pictures would be joined by those that are made; use an --out outside of it"
        )


def _check_name(out: Path) -> None:
    try:
        os.lstat(out)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long, a file among its folders, a NUL
        reason = getattr(error, "strerror", None) or error
        shown = str(out) if len(str(out)) <= LONGEST_NAME else shorten(str(out))
        raise ConfigError(f"{shown}: cannot be written ({reason}); choose another --out") from None


def _check_ancestor(out: Path, folder: Path) -> None:
    """Whether `folder` can be written to, or made in the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"{out}: {folder} is not a folder; choose another --out")
    try:  # not `os.access`, which believes the rights that /proc shows
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{out}: {folder} cannot be written to ({error.strerror}); choose another --out") from None


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(out: Path) -> None:
    """Make a folder to write into, with its parents.

    Raises:
        ConfigError: it cannot be made, for example because a file has its name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None
