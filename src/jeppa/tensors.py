"""Reading tensors from safetensors files that a stranger may have made.

safetensors itself refuses a file whose header is damaged, and one whose tensors overlap, leave gaps or reach beyond its
end. Such a file can hold no code. But the library accepts a name given twice, a header of 100 MB, NaN, and tensors that
nobody asked for. `read_tensors` refuses those too: it returns exactly the names, shapes and types that the model needs,
with finite values. Names, shapes and types are compared before any value is read, so memory stays within that of the
tensors asked for.

`read_part` reads one module of an exported folder: a sub-folder with diffusers' `config.json` and weights. diffusers
itself opens nothing here. The model is built from our own description, and the module's configuration is only checked:
it must not name code, for the sake of those who open the folder with diffusers.

Source of the format: https://github.com/huggingface/safetensors#format.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jeppa.errors import CheckpointError
from jeppa.files import MAX_JSON_BYTES, open_regular, parse_json, read_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8,
}  # fmt: skip
HALVES = (torch.float16, torch.bfloat16)
_LENGTH_BYTES = 8


def read_tensors(
    path: Path,
    expected: Mapping[str, Tensor] | None = None,
    prefix: str = "",
    half: bool = False,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Read the tensors of a file into memory, on the CPU.

    Args:
        path: a .safetensors file.
        expected: for each name, without `prefix`, a tensor of the shape and type that the file must hold; its device
            does not matter and may be `meta`. None accepts whatever the file holds.
        prefix: only names that begin with it are read, and they are returned without it.
        half: the file may hold float16 or bfloat16 where float32 is expected; what is returned is float32.
        names: only these are read, whatever else the file holds; None for all.

    Raises:
        CheckpointError: the file is missing or damaged, holds a name twice, a type that is not in `DTYPES`, other
            names, shapes or types than expected, or NaN or infinity.
    """
    try:
        _check_tensor_header(path)
        with safe_open(path, "pt") as file:
            wanted = [
                name
                for name in file.keys()  # noqa: SIM118, as it is no mapping
                if name.startswith(prefix) and (names is None or name in names)
            ]
            outlines = {name.removeprefix(prefix): _read_outline(file, name, path) for name in wanted}
            if expected is not None:
                _check_architecture(outlines, expected, path, half)
            tensors = {name.removeprefix(prefix): _read_finite(file, name, path) for name in wanted}
        if half:
            return {name: tensor.float() if tensor.dtype in HALVES else tensor for name, tensor in tensors.items()}
        return tensors
    except SafetensorError as error:
        raise _damaged(path, " ".join(str(error).split())[:160]) from None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; more memory than torch can allocate
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: cannot be read ({reason}); restore the file") from None


def read_outlines(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Names, shapes and types of a file's tensors, on the meta device, and the texts of its metadata.

    No value is read.

    Raises:
        CheckpointError: the file is missing or damaged, holds a name twice or a type that is not in `DTYPES`.
    """
    try:
        _check_tensor_header(path)
        with safe_open(path, "pt") as file:
            outlines = {name: _read_outline(file, name, path) for name in file.keys()}  # noqa: SIM118
            return outlines, dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, " ".join(str(error).split())[:160]) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); restore the file"
        ) from None


def _check_tensor_header(path: Path) -> None:
    """Refuse a header that is huge or holds a name twice: safetensors keeps the last one without a word."""
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if length > MAX_JSON_BYTES:
            raise _damaged(path, f"its header claims {length:,} bytes, more than {MAX_JSON_BYTES:,}")
        parse_json(stream.read(length), f"{path}, header")


def _read_outline(file: Any, name: str, path: Path) -> Tensor:
    """A tensor on the meta device, without values, of the shape and type that the file says `name` has."""
    entry = file.get_slice(name)
    dtype = DTYPES.get(entry.get_dtype())
    if dtype is None:
        raise _damaged(path, f"{name!r:.80} has type {entry.get_dtype()}, but only {', '.join(DTYPES)} are read")
    return torch.empty(entry.get_shape(), dtype=dtype, device="meta")


def _check_architecture(outlines: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, half: bool) -> None:
    differing = next(iter(sorted(outlines.keys() ^ expected.keys())), None)
    if differing is not None:
        problem = f"{differing!r:.80} is {'missing' if differing in expected else 'not known'}"
        raise _another_architecture(path, problem)
    for name, outline in outlines.items():
        like = expected[name]
        halved = half and outline.dtype in HALVES and like.dtype == torch.float32
        if outline.shape != like.shape or not (outline.dtype == like.dtype or halved):
            problem = f"{name!r:.80} is {outline.dtype} {list(outline.shape)}, not {like.dtype} {list(like.shape)}"
            raise _another_architecture(path, problem)


def _read_finite(file: Any, name: str, path: Path) -> Tensor:
    tensor: Tensor = file.get_tensor(name).clone()  # a copy, so that nothing depends on the file any more
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{path}: {name!r:.80} holds NaN or infinity; do not use this file")
    return tensor


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}; the file is damaged or hostile, do not use it")


def _another_architecture(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: holds a model of another architecture ({problem}); use the configuration that it was saved with"
    )


FOREIGN = (".py", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_part(outline: torch.nn.Module, class_name: str, folder: Path) -> dict[str, Tensor]:
    """Read the weights of one module of an exported folder.

    Args:
        outline: the module on the meta device; the weights must have its names, shapes and types, or be float16
            or bfloat16 where it is float32.
        class_name: the class that `config.json` must name.
        folder: holds `config.json` and the weights.

    Returns:
        The state that `outline.load_state_dict` takes.

    Raises:
        CheckpointError: a file is missing, damaged or hostile, or of another class or architecture.
    """
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name != class_name or "auto_map" in config:
        raise CheckpointError(
            f"{folder / 'config.json'}: names {'code' if 'auto_map' in config else f'class {name!r:.80}'}, but must "
            f"be an {class_name} and name no code; do not use this folder"
        )
    foreign = next((path for path in sorted(folder.iterdir()) if path.name.endswith(FOREIGN)), None)
    if foreign is not None:
        raise CheckpointError(f"{foreign}: code, pickles and split weights have no place here; do not use this folder")
    return read_tensors(folder / "diffusion_pytorch_model.safetensors", outline.state_dict(), half=True)
