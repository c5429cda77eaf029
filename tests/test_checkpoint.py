import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from jeppa.checkpoint import newest_checkpoint, save_checkpoint, verify
from jeppa.errors import CheckpointError


def save(run: Path, step: int, keep: int = 3) -> None:
    save_checkpoint(run, step, {"model": {"weight": torch.full((4,), float(step))}}, {"step": step}, keep)


def test_the_newest_checkpoint_gives_back_tensors_and_state(tmp_path: Path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    checkpoint, passed_over = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, passed_over) == (10, [])
    assert torch.equal(checkpoint.tensors("model")["weight"], torch.full((4,), 10.0))
    assert checkpoint.state() == {"step": 10}
    assert (tmp_path / "latest").read_text().strip() == checkpoint.folder.name


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, damage: str):
    """Red when `verify` does not compare hashes."""
    save(tmp_path, 5)
    save(tmp_path, 10)
    victim = tmp_path / "checkpoints" / "step-000000010" / name
    content = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    else:
        victim.unlink()
    checkpoint, passed_over = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 5
    assert len(passed_over) == 1


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path):
    save(tmp_path, 5)
    (tmp_path / "checkpoints" / "step-000000010.tmp").mkdir()
    checkpoint, passed_over = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, passed_over) == (5, [])


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (1, 2, 10, 20):
        save(tmp_path, step, keep=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000010", "step-000000020"]


def test_damaged_checkpoints_never_push_the_last_intact_one_out(tmp_path: Path):
    """Red when the highest steps are kept whatever their state."""
    save(tmp_path, 5)
    for step in (20, 30):
        (tmp_path / "checkpoints" / f"step-0000000{step}").mkdir()
    save(tmp_path, 10, keep=2)
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert verify(tmp_path / "checkpoints" / "step-000000005") is None


@pytest.mark.parametrize("operation", ["rename", "replace", "fsync"])
def test_saving_a_step_again_never_leaves_without_it(tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever rename or flush fails. Red when the old folder is removed before the new one stands in its place."""
    save(tmp_path, 5)
    original, left = getattr(os, operation), [0]

    def fail(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        original(*arguments)

    monkeypatch.setattr(os, operation, fail)
    for count in range(10):
        left[0] = count
        with suppress(CheckpointError):
            save(tmp_path, 5)
        checkpoint, _ = newest_checkpoint(tmp_path)
        assert checkpoint is not None
        assert torch.equal(checkpoint.tensors("model")["weight"], torch.full((4,), 5.0))


def test_everything_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files, then the manifest, then their folder, then the rename, then its folder, then `latest`.

    Red when one of the flushes is left out or comes after the rename.
    """
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def note_flush(descriptor: int) -> None:
        done.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append(("rename", target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "replace", note_rename)
    save(tmp_path, 5)
    assert done == [
        ("flush", "model.safetensors"),
        ("flush", "state.json"),
        ("flush", "manifest.json"),
        ("flush", "step-000000005.tmp"),
        ("rename", "step-000000005"),
        ("flush", "checkpoints"),
        ("flush", "latest.tmp"),
        ("rename", "latest"),
        ("flush", tmp_path.name),
    ]


def test_a_file_outside_the_checkpoint_is_never_read(tmp_path: Path):
    save(tmp_path, 5)
    manifest = tmp_path / "checkpoints" / "step-000000005" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("state.json", "../../latest"))
    assert verify(manifest.parent) is not None


def test_a_full_disk_says_so_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 5)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jeppa.checkpoint.save_file", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path, 10)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000005"]
