"""Folders, archives and the built-in photographs list the same way everywhere and refuse what is unusable."""

import io
import os
import pickle
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jeppa.config import DataConfig
from jeppa.data import ImageSource, open_source, open_splits, sources
from jeppa.errors import ConfigError, DataError


def png(seed: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def fill(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def names(source: ImageSource) -> list[str]:
    return [ref.name for ref in source.refs]


def refusal(spec: str | Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_source(spec, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_first_folder_is_the_label_and_names_are_sorted(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "dog/b.png", "cat/deep/c.png", "z.png", "cat/a.png", "Z.png"))
    assert names(source) == ["Z.png", "cat/a.png", "cat/deep/c.png", "dog/b.png", "z.png"]
    assert [ref.label for ref in source.refs] == [None, "cat", "cat", "dog", None]
    assert source.labels == ("cat", "dog")
    assert source.refs[1].read_pixels().shape == (8, 8, 3)


def test_other_files_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", ".hidden.png", ".git/b.png")
    for name in ("notes.txt", "labels.csv", "meta.json", "LICENSE", "README.pdf"):
        (tmp_path / name).write_text("P6 is no picture")
    source = open_source(tmp_path)
    assert names(source) == ["a.png"]
    assert source.skipped == ()


def test_images_are_found_by_content_without_a_suffix(tmp_path: Path) -> None:
    assert names(open_source(fill(tmp_path, "a.png", "no_suffix"))) == ["a.png", "no_suffix"]


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"text", "none of"), (png(0)[:60], "damaged"), (b"<svg/>", "SVG")],
)
def test_unreadable_images_are_skipped_and_counted_up_to_the_limit(tmp_path: Path, content: bytes, word: str) -> None:
    fill(tmp_path, *(f"{index}.png" for index in range(9)))
    (tmp_path / "bad.png").write_bytes(content)
    message = refusal(tmp_path)
    assert "1 of 10 images" in message
    assert "'bad.png'" in message
    assert word in message
    source = open_source(tmp_path, max_unreadable=0.1)
    assert len(source) == 9
    assert [one.name for one in source.skipped] == ["bad.png"]
    assert word in source.skipped[0].reason


def test_images_of_formats_not_read_are_not_dropped_silently(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    assert "HEIC" in refusal(tmp_path)


def test_big_sources_are_checked_by_header_and_fail_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png").write_bytes(png(0, 64)[:2000])
    assert "damaged" in refusal(tmp_path)
    monkeypatch.setattr(sources, "FULL_CHECK_BYTES", 100)
    source = open_source(tmp_path)
    assert len(source) == 2
    with pytest.raises(DataError, match=r"'a\.png'.*damaged"):
        source.refs[0].read_pixels()
    (tmp_path / "c.png").write_text("text")
    assert "1 of 3 images" in refusal(tmp_path)


@pytest.mark.parametrize("full_check_bytes", [2**20, 0])
def test_fingerprint_changes_with_any_change_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_check_bytes: int
) -> None:
    monkeypatch.setattr(sources, "FULL_CHECK_BYTES", full_check_bytes)
    fill(tmp_path / "one", "a.png", "b.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    seen = [open_source(tmp_path / "one").fingerprint]
    assert open_source(tmp_path / "two").fingerprint == seen[0]
    for change in ("edit", "rename", "add", "remove"):
        two = tmp_path / "two"
        if change == "edit":
            (two / "a.png").write_bytes(png(99))
        if change == "rename":
            (two / "b.png").rename(two / "c.png")
        if change == "add":
            fill(two, "new.png")
        if change == "remove":
            (two / "a.png").unlink()
        seen.append(open_source(two).fingerprint)
    assert len(set(seen)) == 5
    assert all(len(one) == 64 for one in seen)


def test_hash_split_is_a_stable_partition(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{index:03}.png" for index in range(100)))
    train, heldout = open_source(tmp_path, "train"), open_source(tmp_path, "heldout")
    assert sorted(names(train) + names(heldout)) == names(open_source(tmp_path))
    assert 1 <= len(heldout) <= 12
    fill(tmp_path, *(f"more{index:03}.png" for index in range(50)))
    assert set(names(heldout)) <= set(names(open_source(tmp_path, "heldout")))
    assert train.fingerprint != heldout.fingerprint


@pytest.mark.parametrize(
    "layout", ["{index}.png", "cat/{index}.png", "{split}/cat/{index}.png", "cat/{split}/{index}.png"]
)
def test_a_run_lists_its_images_once(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when each split is opened for itself, and when what is shared changes a split."""
    fill(tmp_path, *(layout.format(index=index, split=("train", "val")[index % 2]) for index in range(12)))
    wanted = [open_source(tmp_path, "train"), open_source(tmp_path, "heldout")]
    listed = []
    own = sources.list_folder
    monkeypatch.setattr(sources, "list_folder", lambda root: listed.append(root) or own(root))
    found = open_splits(DataConfig(data=str(tmp_path)))
    assert [found.train, found.heldout] == wanted
    assert listed == [tmp_path]


@pytest.mark.parametrize("stem", range(8))
def test_two_images_give_one_to_each_split(tmp_path: Path, stem: int) -> None:
    fill(tmp_path, f"{stem}.png", f"{stem}x.png")
    assert len(open_source(tmp_path, "train")) == len(open_source(tmp_path, "heldout")) == 1


def test_one_image_has_no_held_out_part(tmp_path: Path) -> None:
    fill(tmp_path, "only.png")
    assert len(open_source(tmp_path, "train")) == 1
    assert "it has 1 image, so none can be held out" in refusal(tmp_path, split="heldout")


@pytest.mark.parametrize("heldout", ["val", "heldout", "test"])
def test_split_folders_take_precedence(tmp_path: Path, heldout: str) -> None:
    fill(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{heldout}/cat/c.png", "extra.png")
    train = open_source(tmp_path, "train")
    assert names(train) == ["train/cat/a.png", "train/dog/b.png"]
    assert train.labels == ("cat", "dog")
    assert names(open_source(tmp_path, "heldout")) == [f"{heldout}/cat/c.png"]
    assert len(open_source(tmp_path)) == 4


def test_links_are_followed_to_files_and_loops_end(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", "far.png")
    root = fill(tmp_path / "root", "a.png", "sub/b.png")
    (root / "sub" / "loop").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    (root / "escape").symlink_to(outside)
    (root / "escape.png").symlink_to(outside / "far.png")
    (root / "inside.png").symlink_to(root / "a.png")
    os.mkfifo(root / "pipe.png")
    source = open_source(root)
    assert names(source) == ["a.png", "escape.png", "inside.png", "sub/b.png"]
    assert [one.name for one in source.skipped] == ["escape", "self.png", "sub/loop"]
    assert source.notes == ("2 images are links, which are followed to their files; the first is 'escape.png'",)


def test_odd_names_are_read_and_reported_on_one_line(tmp_path: Path) -> None:
    fill(tmp_path, "new\nline.png", "ümlaut 🧀.png")
    (tmp_path / os.fsdecode(b"not-utf8-\xff.png")).write_bytes(png(3))
    assert len(open_source(tmp_path)) == 3
    (tmp_path / "bad\nname.png").write_text("text")
    refusal(tmp_path).encode()


def test_missing_empty_and_unknown_sources_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert "does not exist" in refusal(tmp_path / "absent")
    assert "holds no images" in refusal(tmp_path)
    assert "neither a folder nor a .zip" in refusal(tmp_path / "notes.txt")
    assert "builtin:photos" in refusal("builtin:fotos")
    assert "pass a folder" in refusal("x" * 5000)
    with pytest.raises(ConfigError, match="split is 'valid'"):
        open_source(tmp_path, "valid")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fraction"):
        open_source(tmp_path, max_unreadable=5)


def test_a_zipped_folder_is_the_same_source(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", "cat/a.png", "dog/b.png", "notes.txt")
    members = {f"photos/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.png")}
    packed = open_source(pack(tmp_path / "photos.zip", members, zipfile.ZIP_DEFLATED))
    (folder / "notes.txt").unlink()
    assert packed.refs == open_source(folder).refs
    assert packed.labels == ("cat", "dog")
    assert packed.fingerprint == open_source(folder).fingerprint
    thawed = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(thawed.refs[0].read_pixels(), open_source(folder).refs[0].read_pixels())


def test_hostile_zip_members_are_listed_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "work" / "mixed.zip"
    path.parent.mkdir()
    members = {"good.png": png(0), "../evil.png": png(1), "/abs.png": png(2), "a\\..\\..\\c.png": png(3)}
    pack(path, {**members, "model.pkl": b"\x80\x04canary", "b.png": png(4)})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(path)
    assert names(source) == ["b.png", "good.png"]
    assert {one.name for one in source.skipped} == {"../evil.png", "/abs.png", "a\\..\\..\\c.png", "link.png"}
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_zip_bombs_encrypted_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    bomb = pack(tmp_path / "bomb.zip", {"a.bmp": b"BM" + b"\0" * 5_000_000}, zipfile.ZIP_DEFLATED)
    assert "expands more than" in refusal(bomb)
    locked = pack(tmp_path / "locked.zip", {"a.png": png(0)})
    data = bytearray(locked.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    locked.write_bytes(data)
    assert "pack it without a password" in refusal(locked)
    (tmp_path / "text.zip").write_text("no archive")
    assert "zip" in refusal(tmp_path / "text.zip")
    flipped = pack(tmp_path / "flipped.zip", {"a.png": png(0)})
    flipped.write_bytes(flipped.read_bytes().replace(b"IDAT", b"IDAX"))
    assert "CRC" in refusal(flipped)


def test_overlapping_zip_members_are_refused(tmp_path: Path) -> None:
    data = png(0)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), 5, 0)
    body = local + b"a.png" + data
    sizes = (zlib.crc32(data), len(data), len(data), 5, 0, 0, 0, 0, 0, 0)
    central = [
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes) + f"{index:05}".encode()
        for index in range(50)
    ]
    directory = b"".join(central)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 50, 50, len(directory), len(body), 0)
    (tmp_path / "overlap.zip").write_bytes(body + directory + end)
    assert "as in a zip bomb; pack it again" in refusal(tmp_path / "overlap.zip")


def test_builtin_photos_are_split_by_scene() -> None:
    train, heldout = open_source("builtin:photos", "train"), open_source("builtin:photos", "heldout")
    assert heldout.labels == ("camera", "cat", "coffee", "gravel", "rocket")
    assert set(train.labels).isdisjoint(heldout.labels)
    assert len(train) + len(heldout) == 19
    assert [ref.name for ref in train.refs if ref.label == "motorcycle"] == [
        "motorcycle_left.png",
        "motorcycle_right.png",
    ]
    assert train.fingerprint == open_source("builtin:photos", "train").fingerprint


def test_incomplete_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.list_builtin.__globals__["_SCIKIT_LEARN"], "gone.jpg", "gone")
    assert "scikit-learn" in refusal("builtin:photos")
