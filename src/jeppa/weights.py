"""Files of pretrained weights inside optional packages, found and read without running code of those packages.

A pickle can run any function that it names. The pickles read here are nested dicts of numpy arrays, so the reader
below knows the three names that such an array needs and refuses all others.
"""

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from jeppa.errors import JeppaError

Arrays = dict[str, Any]
"""Nested dicts with arrays as leaves."""


class WeightsError(JeppaError):
    """Weights of an optional metric are not installed, or their file is not what it should be."""


def weights_file(package: str, relative: str, install: str) -> Path:
    """Path of a file inside an installed package, which is not imported.

    Args:
        package: import name of a top-level package.
        relative: path of the file inside it.
        install: the command that installs it, for the error.

    Raises:
        WeightsError: if the package or the file is missing.
    """
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / relative
        if path.is_file():
            return path
    raise WeightsError(f"{package}/{relative} is not installed: {install}")


def read_arrays(path: Path) -> Arrays:
    """Nested dicts of float arrays from a pickle, running none of its code.

    Raises:
        WeightsError: if the file is damaged, names anything but array construction, or holds anything but arrays.
    """
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise WeightsError(f"{path} is damaged ({type(error).__name__}): install its package again") from error
    _check(content, path, depth=0)
    arrays: Arrays = content
    return arrays


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays, of numpy 1 and 2, and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        """The constructor of an array or dtype; everything else is refused."""
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        raise WeightsError(
            f"the pickle asks for {module}.{name}, but may hold nothing but arrays: do not use this file"
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        """Arrays have no persistent ids."""
        raise WeightsError(f"the pickle refers to {pid!r} outside itself: do not use this file")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> NDArray[Any]:
    """What a pickled array starts as; its true shape and values follow as state."""
    if kind is not np.ndarray or shape != (0,):
        raise WeightsError(f"the pickle builds {kind!r} of shape {shape}, but may hold nothing but plain arrays")
    return np.empty(0, np.dtype(dtype.decode("ascii") if isinstance(dtype, bytes) else dtype))


def _check(content: Any, path: Path, depth: int) -> None:
    if isinstance(content, dict) and depth < 4:
        for value in content.values():
            _check(value, path, depth + 1)
    elif not (isinstance(content, np.ndarray) and content.dtype.kind == "f"):
        raise WeightsError(f"{path} holds a {type(content).__name__} where float arrays belong: install it again")
