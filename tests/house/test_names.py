"""Every class and function of the package has a name of its own, so that one search finds it."""

import ast
from collections import defaultdict
from pathlib import Path

import jeppa

ROOT = Path(jeppa.__file__).parent
TWICE: set[str] = set()
"""Still to be renamed; a name that no longer stands twice has to leave this set."""


def defined_twice(root: Path) -> dict[str, list[str]]:
    """Files by name, for each class or function, public or private, that two modules define at their top level."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                places[node.name].append(str(path.relative_to(root)))
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_name_is_defined_twice():
    """Red when a second class or function takes a name, or a renamed one stays in `TWICE`."""
    assert set(defined_twice(ROOT)) == TWICE, defined_twice(ROOT)


def test_a_second_definition_is_found(tmp_path: Path):
    """Red when private names, classes or files in folders are passed over, or methods count."""
    (tmp_path / "room").mkdir()
    (tmp_path / "a.py").write_text("def _f(): ...\nclass C:\n    def g(self): ...\ndef g(): ...\n")
    (tmp_path / "room/b.py").write_text("def _f(): ...\nclass C: ...\n")
    assert defined_twice(tmp_path) == {"_f": ["a.py", "room/b.py"], "C": ["a.py", "room/b.py"]}
