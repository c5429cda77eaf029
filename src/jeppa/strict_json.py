"""JSON from strangers: bounded in size, no key twice, no NaN, an object at the top.

Python's reader keeps the last of two equal keys, so that two programs can see two different files; it accepts NaN,
which is no JSON; and it answers deep nesting with an error of its own.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from jeppa.errors import CheckpointError
from jeppa.regular import open_regular

MAX_BYTES = 2**20
"""Far above any JSON file of ours: a checkpoint's state has hundreds of bytes, a header of 1,000 tensors 100 kB."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: missing, too large, or not what `parse_json` takes.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}); restore the file") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, origin: str) -> dict[str, Any]:
    """The object that `content` spells.

    Args:
        content: UTF-8, at most `MAX_BYTES`.
        origin: what the error calls it.

    Raises:
        CheckpointError: too large, damaged, nested too deeply, no object, or with a key twice or a NaN in it.
    """
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{origin}: more than {MAX_BYTES:,} bytes of JSON; this is no file of jeppa")
    try:
        values = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{origin}: not valid JSON ({reason}); restore the file") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{origin}: holds no JSON object; restore the file")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
