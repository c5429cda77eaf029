"""Checkpoints: tensors as safetensors, the rest as JSON, written so that a kill at any moment loses nothing.

A checkpoint is the folder `checkpoints/step-NNN/`. It is written as `step-NNN.tmp/`, every file is flushed to the
disk, `manifest.json` with each file's SHA-256 comes last, then the folder is renamed. Where a folder of that name
stands already, it becomes `step-NNN.old/` until the new one is in its place. A folder without the right hashes does
not count as a checkpoint. Order is that of the step, never that of a clock. No code is ever stored or run (no pickle).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from jeppa.errors import CheckpointError
from jeppa.files import flush, read_json, write_text_atomically
from jeppa.tensors import read_tensors

FORMAT = 1
RUN_ID = "run_id"
STATE = "state.json"
MANIFEST = "manifest.json"
Tensors = Mapping[str, Tensor]
_NAME = re.compile(r"step-\d+(\.old)?")


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
        return read_json(self.folder / STATE)

    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json: `format`, `step`, `files`, and the `origin` given to `save_checkpoint`."""
        return read_json(self.folder / MANIFEST)


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    keep: int,
    origin: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write `run/checkpoints/step-NNN` atomically, point `run/latest` at it, then drop old ones.

    Args:
        run: the run folder.
        step: steps taken so far.
        tensors: file name without suffix -> named tensors, for example model, ema, optimizer.
        state: plain JSON values.
        keep: how many of the newest intact checkpoints up to this one to keep.
        origin: plain JSON values for the manifest; `run` in it is the id of the run that this folder belongs to.

    Raises:
        CheckpointError: the disk refused, or another run's checkpoint of this step is in the way; checkpoints
            written before are untouched.
    """
    target = run / "checkpoints" / f"step-{step:09d}"
    temporary = target.with_suffix(".tmp")
    if _is_foreign(target, run):
        raise CheckpointError(f"{target}: is of another run, so it is not replaced; move it away, then use --resume")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, named in tensors.items():
            contiguous = {key: value.detach().cpu().contiguous() for key, value in named.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        (temporary / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        _write_manifest(temporary, step, origin or {})
        _put_in_place(temporary, target)
        write_text_atomically(run / "latest", target.name + "\n")
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{target}: could not be written ({error}); make room, then use --resume") from None
    _prune(run, step, keep)
    return Checkpoint(target, step)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint of `run`, and a line for each newer one that was passed over."""
    passed_over: list[str] = []
    for folder in _checkpoint_folders(run):
        problem = verify(folder) or ("of another run" if _is_foreign(folder, run) else None)
        if problem is None:
            return Checkpoint(folder, _step(folder)), passed_over
        passed_over.append(f"{folder}: {problem}")
    return None, passed_over


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, and no other one.

    Raises:
        CheckpointError: it is damaged.
    """
    problem = verify(folder)
    if problem is not None:
        raise CheckpointError(f"{folder}: {problem}; give its run folder to use the newest intact checkpoint")
    return Checkpoint(folder, _step(folder))


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` has the name and place of a checkpoint, intact or not."""
    return folder.parent.name == "checkpoints" and _NAME.fullmatch(folder.name) is not None


def verify(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, or None when every file has its recorded size and hash."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = manifest["files"]
        if manifest["format"] != FORMAT or manifest["step"] != _step(folder):
            return "written in another format or for another step"
        if STATE not in files:
            return f"{MANIFEST} lists no {STATE}"
        for name, expected in files.items():
            path = folder / name
            if Path(name).name != name or path.stat().st_size != expected["bytes"]:
                return f"{name} does not have its recorded size"
            if sha256(path) != expected["sha256"]:
                return f"{name} does not have its recorded hash"
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest or a file is missing or damaged ({' '.join(str(error).split())[:120]})"
    return None


def run_id(run: Path) -> str | None:
    """The id that distinguishes checkpoints of `run` from those of other runs; None for a folder without one."""
    path = run / RUN_ID
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def sweep(run: Path) -> None:
    """Remove what a killed process left half-written; only for the one process that may write to `run`."""
    for leftover in [*run.glob("*.tmp"), *run.glob("*/*.tmp")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _write_manifest(folder: Path, step: int, origin: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        flush(path)
        files[path.name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    manifest = {"format": FORMAT, "step": step, "files": files, **origin}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    flush(folder / MANIFEST)
    flush(folder)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename; a folder of that name is removed only when the new one is on the disk in its place."""
    aside = target.with_suffix(".old")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
    os.replace(temporary, target)
    flush(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _prune(run: Path, step: int, keep: int) -> None:
    """Drop what is older than the `keep` newest intact checkpoints, the one of `step`, just written, being the first.

    A damaged checkpoint does not count, whatever its step, so it never pushes the last intact one out.
    """
    intact = 1
    for folder in _checkpoint_folders(run):
        if _step(folder) >= step or _is_foreign(folder, run):
            continue
        if intact < keep:
            intact += verify(folder) is None
        else:
            shutil.rmtree(folder)


def _is_foreign(folder: Path, run: Path) -> bool:
    """Whether another run wrote this checkpoint; one without an id counts as our own."""
    own = run_id(run)
    try:
        theirs = read_json(folder / MANIFEST).get("run")
    except CheckpointError:
        return False
    return None not in (own, theirs) and own != theirs


def _checkpoint_folders(run: Path) -> list[Path]:
    """Checkpoint folders, the highest step first; unfinished ones (.tmp) and folders of other names are left out."""
    folders = [path for path in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: (_step(path), path.suffix != ".old"), reverse=True)


def _step(folder: Path) -> int:
    return int(folder.stem[len("step-") :])


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
