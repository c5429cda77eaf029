"""Which source files a command enters: python tests/house/trace_files.py

A file of `src/jeppa` is entered where a function or method that is defined in it is called while the command runs.
Importing it, which runs the body of the module alone, does not count.
"""

import inspect
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from PIL import Image

import jeppa
import jeppa.outputs  # Beforehand: the calls of decorators while modules are imported are no part of a command.
from jeppa.cli import run

ROOT = Path(jeppa.__file__).parent
RECONSTRUCT_LIMIT = 22
GENERATE_LIMIT = 28
SIDE = 64
STEPS = 2


def entered(work: Callable[[], object]) -> list[str]:
    """Files below `src/jeppa`, sorted, in which a function is called while `work` runs, in any thread."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    paths = {Path(code.co_filename) for code in seen if code.co_flags & inspect.CO_OPTIMIZED}  # no module, no class
    return sorted(str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT))


def reconstruct(folder: Path) -> list[str]:
    """Files that `jeppa reconstruct` enters with a picture and the shipped VAE."""
    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(picture)
    out = folder / "reconstructed"
    return entered(lambda: _run("reconstruct", "--model", "small", "--input", picture, "--out", out))


def generate(folder: Path) -> list[str]:
    """Files that `jeppa generate --variance learned` enters with a shipped denoiser."""
    flags = ("-n", 1, "--steps", STEPS, "--variance", "learned")
    return entered(lambda: _run("generate", "--model", "emoji", *flags, "--out", folder / "generated"))


def _run(*arguments: object) -> None:
    code = run([*map(str, arguments), "--precision", "exact"])
    if code:
        raise RuntimeError(f"jeppa {arguments[0]} ended with code {code}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for command, limit in ((reconstruct, RECONSTRUCT_LIMIT), (generate, GENERATE_LIMIT)):
            files = command(Path(folder))
            print(f"{command.__name__}: {len(files)} files, at most {limit}")
            print(*(f"  {name}" for name in files), sep="\n")


if __name__ == "__main__":
    main()
