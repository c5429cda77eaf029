"""Checkpoints: tensors as safetensors, the rest as JSON, written so that a kill at any moment loses nothing.

A checkpoint is the folder `checkpoints/step-NNN/`. It is written as `step-NNN.tmp/`, every file is flushed to the
disk, `manifest.json` with each file's SHA-256 comes last, then the folder is renamed. A folder without the right
hashes does not count as a checkpoint. No code is ever stored or run (no pickle).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from jeppa.errors import CheckpointError
from jeppa.strict_json import read_json
from jeppa.tensors import read_tensors

FORMAT = 1
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk: every file's hash was right when it was opened."""

    folder: Path
    step: int

    def tensors(self, name: str, expected: Tensors | None = None, prefix: str = "") -> dict[str, Tensor]:
        """Tensors of `name`.safetensors, on the CPU; arguments and errors as `jeppa.tensors.read_tensors`."""
        return read_tensors(self.folder / f"{name}.safetensors", expected, prefix)

    def state(self) -> dict[str, Any]:
        """The content of state.json."""
        return read_json(self.folder / "state.json")


def save_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keep: int
) -> Checkpoint:
    """Write `run/checkpoints/step-NNN` atomically, point `run/latest` at it, then drop old ones.

    Args:
        run: the run folder.
        step: steps taken so far.
        tensors: file name without suffix -> named tensors, for example model, ema, optimizer.
        state: plain JSON values.
        keep: how many of the newest checkpoints to keep.

    Raises:
        CheckpointError: the disk refused; checkpoints written before are untouched.
    """
    target = run / "checkpoints" / f"step-{step:09d}"
    temporary = target.with_suffix(".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, named in tensors.items():
            contiguous = {key: value.detach().cpu().contiguous() for key, value in named.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
        _write_manifest(temporary, step)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
        _flush(target.parent)
        write_text_atomically(run / "latest", target.name + "\n")
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target}: could not be written ({error}); make room or choose another --out, then use --resume"
        ) from None
    for old in _candidates(run)[keep:]:
        shutil.rmtree(old)
    return Checkpoint(target, step)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of `run` whose hashes are right, and a line for each newer one that was passed over."""
    passed_over: list[str] = []
    for folder in _candidates(run):
        problem = verify(folder)
        if problem is None:
            return Checkpoint(folder, _step(folder)), passed_over
        passed_over.append(f"{folder}: {problem}")
    return None, passed_over


def verify(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, or None when every file has its recorded hash."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != FORMAT or manifest["step"] != _step(folder):
            return "written in another format or for another step"
        for name, expected in files.items():
            if Path(name).name != name or _sha256(folder / name) != expected["sha256"]:
                return f"{name} does not have its recorded hash"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest or a file is missing or damaged ({' '.join(str(error).split())[:120]})"
    return None


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    _flush(temporary)
    os.replace(temporary, path)


def _write_manifest(folder: Path, step: int) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        _flush(path)
        files[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    manifest = {"format": FORMAT, "step": step, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _flush(folder / "manifest.json")
    _flush(folder)


def _candidates(run: Path) -> list[Path]:
    """Checkpoint folders, the highest step first; unfinished ones (.tmp) and strangers are left out."""
    return sorted(_step_folders(run), key=_step, reverse=True)


def _step_folders(run: Path) -> Iterator[Path]:
    folder = run / "checkpoints"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name.startswith("step-") and path.name[5:].isdigit():
            yield path


def _step(folder: Path) -> int:
    return int(folder.name[5:])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
