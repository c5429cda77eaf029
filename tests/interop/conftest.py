"""The marks of diffusers' own tests, which are no marks of ours."""

import re

import pytest
from suites import checkout


def pytest_configure(config: pytest.Config) -> None:
    root = checkout()
    marks = root / "tests" / "testing_utils.py" if root is not None else None
    if marks is not None and marks.is_file():
        for name in sorted(set(re.findall(r"pytest\.mark\.(\w+)\(test_case\)", marks.read_text(encoding="utf-8")))):
            config.addinivalue_line("markers", f"{name}: of diffusers")
