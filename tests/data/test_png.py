"""Pictures carry their settings, and writing one is all or nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jeppa.data import read_pixels, read_settings, write_png
from jeppa.errors import DataError


def test_settings_and_pixels_round_trip(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    settings = {"seed": "7", "label": "Käse 🧀\nline"}
    write_png(pixels, tmp_path / "a.png", settings)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), pixels)
    assert read_settings(tmp_path / "a.png") == settings
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_x_is_written_as_its_pixels(tmp_path: Path) -> None:
    write_png(torch.ones(3, 2, 4), tmp_path / "white.png")
    assert np.array_equal(read_pixels(tmp_path / "white.png"), np.full((2, 4, 3), 255, np.uint8))


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_png(torch.ones(3, 8, 8), path)
    old = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_png(torch.zeros(3, 8, 8), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check the folder") as caught:
        write_png(torch.ones(3, 8, 8), tmp_path / "absent" / "a.png")
    assert "\n" not in str(caught.value)


def test_foreign_png_and_other_files_have_no_settings(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "text.png", "absent.png"):
        with pytest.raises(DataError, match="pass a PNG that jeppa wrote"):
            read_settings(tmp_path / name)
