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
