"""YAML of plain values, from people and from strangers: no tags, no aliases, no key twice, bounded in every way.

PyYAML's safe reader builds no foreign objects, but an alias can stand for a list of aliases (ten lines make a billion
entries), the last of two equal keys wins without a word, and deep nesting ends in errors or in quadratic time. Here
the stream of events, which costs next to nothing, is checked before any value is built.
"""

import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from jeppa.errors import ConfigError
from jeppa.regular import open_regular

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
# Numbers of more digits would be slow to make and cannot even be printed.
MAX_SCALAR = 1024
MAX_SHOWN = 60


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values.

    Raises:
        ConfigError: missing, no regular file, larger than 64 KiB, or not what `parse_yaml` takes.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give an existing YAML file")
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, origin: str) -> dict[str, Any]:
    """The mapping that `content` spells.

    Args:
        content: UTF-8, at most 64 KiB.
        origin: what the error calls it.

    Raises:
        ConfigError: one line that names the key: too large, damaged, no mapping, nested too deeply, or with tags,
            anchors, aliases or a key twice in it.
    """
    if len(content) > MAX_BYTES:
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
    """A given value as an error shows it, whatever its size and type."""
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


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key in seen and key is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {shorten(key)} twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = MAX_SHOWN
