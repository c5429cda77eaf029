"""diffusers' own tests, which its packages leave out: read from the checkout that the environment names.

    DIFFUSERS_TESTS=PATH python -m pytest tests/interop

PATH is a checkout of diffusers, or its `tests`.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

VARIABLE = "DIFFUSERS_TESTS"
PACKAGE = "tests_of_diffusers"


def checkout() -> Path | None:
    """The folder that holds `tests`, from the environment; None where that says nothing."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    base = Path(given).resolve()
    return base.parent if base.name == "tests" else base


def suite(folder: str, name: str) -> ModuleType:
    """The module `tests/FOLDER/NAME.py` of diffusers.

    Skips the tests of the calling module where there is no path, no such file below it, or a package is missing that
    the suite imports.
    """
    root = checkout()
    if root is None:
        pytest.skip(f"{VARIABLE} is not set: give it the path of a checkout of diffusers", allow_module_level=True)
    if not (root / "tests" / folder / f"{name}.py").is_file():
        pytest.skip(f"{VARIABLE} is {root}, which has no tests/{folder}/{name}.py", allow_module_level=True)
    # Imported as parts of a package, as they import from their neighbours; its name must not be that of our own tests.
    package = sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE))
    package.__path__ = [str(root / "tests")]
    try:
        return importlib.import_module(".".join([PACKAGE, *Path(folder).parts, name]))
    except ModuleNotFoundError as error:
        pytest.skip(f"the suite needs the package {error.name}", allow_module_level=True)
