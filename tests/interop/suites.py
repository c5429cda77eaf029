"""diffusers' own tests, which its packages leave out: read from the checkout that the environment names.

    DIFFUSERS_TESTS=PATH python -m pytest tests/interop

PATH is a checkout of diffusers, its `tests`, or a folder with the files of one suite.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

VARIABLE = "DIFFUSERS_TESTS"


def suite(folder: str, name: str) -> ModuleType:
    """The module `tests/FOLDER/NAME.py` of diffusers.

    Skips the tests of the calling module where there is no path, or no such file below it.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"{VARIABLE} is not set: give it the path of a checkout of diffusers", allow_module_level=True)
    base = Path(given).resolve()
    places = [base / "tests" / folder, base / folder, base]
    found = next((place for place in places if (place / f"{name}.py").is_file()), None)
    if found is None:
        pytest.skip(f"{VARIABLE} is {given}, which has no {folder}/{name}.py: give it another", allow_module_level=True)
    # Imported as a part of its packages, as the suites import from their neighbours.
    sys.path.insert(0, str(found.parent.parent))
    try:
        return importlib.import_module(f"{found.parent.name}.{found.name}.{name}")
    finally:
        sys.path.pop(0)
