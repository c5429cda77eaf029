"""Tensors from a safetensors file that a stranger may have made: every claim of the header is checked first.

A safetensors file is 8 bytes with the length of a header, the header (JSON: name -> dtype, shape, place), and the
values. It can hold no code. Its own library accepts a name given twice, NaN, and tensors that nobody asked for; what
is accepted here has exactly the names, shapes and types that the model needs, and finite values. Memory stays within
that of the tensors asked for: sizes are compared before anything is read.

Source: https://github.com/huggingface/safetensors#format.

`read_part` reads one module of an exported folder: a sub-folder with diffusers' `config.json` and weights. diffusers
opens nothing here: the model is built from our own description, and a part's configuration is only checked, so that
it names no code for those who open the folder with diffusers.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jeppa.errors import CheckpointError
from jeppa.files import MAX_JSON_BYTES, open_regular, parse_json, read_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8,
}  # fmt: skip
_LENGTH_BYTES = 8
_MAX_SHAPE = 16
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class _Place:
    """One entry of the header; `begin` and `end` count from the first byte after it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_tensors(path: Path, expected: Mapping[str, Tensor] | None = None, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Args:
        path: a .safetensors file.
        expected: the names, without `prefix`, and for each a tensor (on any device, `meta` too) of the shape and type
            to be found; None takes whatever the file holds.
        prefix: only names that begin with it are read, and are returned without it.

    Raises:
        CheckpointError: missing or damaged; a name twice; places that overlap, leave gaps or point outside; a type
            that is not in `DTYPES`; other names, shapes or types than expected; NaN or infinity.
    """
    try:
        with open_regular(path) as stream:
            places, start = _read_header(stream, path)
            wanted = {name.removeprefix(prefix): place for name, place in places.items() if name.startswith(prefix)}
            if expected is not None:
                _check_architecture(wanted, expected, path)
            return {name: _read_one(stream, start, name, place, path) for name, place in wanted.items()}
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; more than torch can allocate
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: cannot be read ({reason}); restore the file") from None


def _read_header(stream: BufferedReader, path: Path) -> tuple[dict[str, _Place], int]:
    """Where each tensor lies, and where the values begin."""
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or start > size or length > MAX_JSON_BYTES:
        raise _damaged(path, f"its header claims {length:,} bytes of a file of {size:,}, limit {MAX_JSON_BYTES:,}")
    header = parse_json(stream.read(length), f"{path}, header")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _damaged(path, "its metadata is no mapping of text to text")
    places = {name: _parse_place(name, entry, path) for name, entry in header.items()}
    _check_cover(places, size - start, path)
    return places, start


def _parse_place(name: str, entry: Any, path: Path) -> _Place:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise _damaged(path, f"{name!r:.80} is not described by dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _damaged(path, f"{name!r:.80} has type {entry['dtype']!r:.20}, but only {', '.join(DTYPES)} are read")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > _MAX_SHAPE or not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(path, f"{name!r:.80} has a shape or data_offsets that are no counts")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name!r:.80} has {end - begin} bytes, which is not what its shape and type need")
    return _Place(dtype, tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    # A bool is an int, and beyond 63 bits no tensor can be.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_cover(places: Mapping[str, _Place], size: int, path: Path) -> None:
    """The tensors must fill the values from end to end: then none overlaps, and nothing is hidden between them."""
    reached = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            problem = "overlaps another tensor" if place.begin < reached else "leaves a gap before it"
            raise _damaged(path, f"{name!r:.80} {problem}")
        reached = place.end
    if reached != size:
        raise _damaged(path, f"its tensors need {reached:,} bytes, but {size:,} follow the header")


def _check_architecture(found: Mapping[str, _Place], expected: Mapping[str, Tensor], path: Path) -> None:
    differing = next(iter(sorted(found.keys() ^ expected.keys())), None)
    if differing is not None:
        problem = f"{differing!r:.80} is {'missing' if differing in expected else 'not known'}"
        raise _of_another_architecture(path, problem)
    for name, place in found.items():
        like = expected[name]
        if place.shape != tuple(like.shape) or place.dtype != like.dtype:
            problem = f"{name!r:.80} is {place.dtype} {list(place.shape)}, not {like.dtype} {list(like.shape)}"
            raise _of_another_architecture(path, problem)


def _read_one(stream: BufferedReader, start: int, name: str, place: _Place, path: Path) -> Tensor:
    stream.seek(start + place.begin)
    tensor = torch.empty(place.shape, dtype=place.dtype)
    values = tensor.view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    if stream.readinto(values.numpy().data) != place.end - place.begin:
        raise _damaged(path, "it ends before its last tensor")
    if place.dtype.is_floating_point and not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{path}: {name!r:.80} holds NaN or infinity; do not use this file")
    return tensor


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}; the file is damaged or hostile, do not use it")


def _of_another_architecture(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: holds a model of another architecture ({problem}); use the configuration that it was saved with"
    )


NOT_OURS = (".py", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_part(outline: torch.nn.Module, class_name: str, folder: Path) -> dict[str, Tensor]:
    """Weights of one module, of the names and shapes that `outline` (on the meta device, so without memory) has.

    Raises:
        CheckpointError: a file is missing, damaged or hostile, or of another class or architecture.
    """
    config = read_json(folder / "config.json")
    named = config.get("_class_name")
    if named != class_name or "auto_map" in config:
        raise CheckpointError(
            f"{folder / 'config.json'}: names {'code' if 'auto_map' in config else f'class {named!r:.80}'}, but must "
            f"be an {class_name} and name no code; do not use this folder"
        )
    stranger = next((path for path in sorted(folder.iterdir()) if path.name.endswith(NOT_OURS)), None)
    if stranger is not None:
        raise CheckpointError(f"{stranger}: code, pickles and split weights have no place here; do not use this folder")
    return read_tensors(folder / "diffusion_pytorch_model.safetensors", outline.state_dict())
