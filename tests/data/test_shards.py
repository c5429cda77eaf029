"""Shards are sources like folders: same pictures, same labels; what is broken is left out and named."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jeppa.cli import run
from jeppa.data import CropDataset, open_source
from jeppa.data.crops import SHUFFLE_BUFFER, shuffle_shards
from jeppa.errors import ConfigError, DataError

SHARDS, EACH = 3, 4


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars of four pictures of the classes `cat` and `dog`, as webdataset writes them."""
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(SHARDS):
        with webdataset.TarWriter(str(folder / f"set-{shard:03d}.tar"), encoder=False) as writer:
            for index in range(shard * EACH, (shard + 1) * EACH):
                writer.write({"__key__": f"{index:06d}", "png": png(index), "cls": b"dog" if index % 2 else b"cat"})
    return folder


def pixels(spec: str | Path) -> dict[str, np.ndarray]:
    return {ref.name: ref.read_pixels() for ref in open_source(str(spec)).refs}


def test_tars_hold_the_pictures_and_labels_of_a_folder(tars: Path, tmp_path: Path):
    """Red when a place is off, a class is lost, or braces, stars and folders mean other shards."""
    for index in range(SHARDS * EACH):
        file = tmp_path / "folder" / ("dog" if index % 2 else "cat") / f"{index:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(index))
    wanted = open_source(tmp_path / "folder")
    for spec in (
        str(tars),
        f"{tars}/set-{{000..002}}.tar",
        f"{tars}/set-*.tar",
        f"file://{tars}/set-{{000,001,002}}.tar",
    ):
        found = open_source(spec)
        assert found.labels == wanted.labels == ("cat", "dog")
        assert [(ref.name, ref.label) for ref in found.refs] == [(ref.name, ref.label) for ref in wanted.refs]
        if "://" not in spec:
            assert found.fingerprint == wanted.fingerprint
    assert all(np.array_equal(pixels(tars)[name], value) for name, value in pixels(tmp_path / "folder").items())


@pytest.mark.parametrize("kept", [700, 1536, 3000])
def test_a_shard_that_is_cut_off_is_left_out_and_named(tars: Path, kept: int):
    """Cut in a picture, behind one and in a header. Red when what is left of a shard is used in silence."""
    broken = tars / "set-001.tar"
    broken.write_bytes(broken.read_bytes()[:kept])
    source = open_source(tars)
    assert len(source) == (SHARDS - 1) * EACH
    assert [skipped.name for skipped in source.skipped] == [str(broken)]
    assert "cut off or damaged" in source.skipped[0].reason
    assert "1 of 3 shards" in source.notes[0]
    for path in tars.iterdir():
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="none of 3 shards can be read"):
        open_source(tars)


def write_parquet(path: Path, **columns: list) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_parquet_files_are_splits_with_labels(tmp_path: Path):
    """Red when rows and groups are mixed up, or files named after splits are not them."""
    images = [{"bytes": png(index), "path": f"{index}.png"} for index in range(5)]
    write_parquet(
        tmp_path / "set/train-00000-of-00001.parquet", image=images, label=["cat", "dog", "cat", "dog", "cat"]
    )
    write_parquet(tmp_path / "set/test-00000-of-00001.parquet", image=images[:2], label=["cat", "dog"])
    source = open_source(tmp_path / "set", "train")
    assert len(source) == 5
    assert source.labels == ("cat", "dog")
    by_row = sorted(source.refs, key=lambda ref: ref.name.rpartition("-")[2])
    assert [ref.label for ref in by_row] == ["cat", "dog", "cat", "dog", "cat"]
    for index, ref in enumerate(by_row):
        assert ref.read_bytes() == png(index)
    assert len(open_source(tmp_path / "set", "heldout")) == 2


def test_what_datasets_saved_is_read_with_the_names_of_its_classes(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(index), "path": None} for index in range(4)], "label": [0, 1, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "all.parquet"))
    for spec in (tmp_path / "saved", tmp_path / "all.parquet"):
        source = open_source(spec)
        by_row = sorted(source.refs, key=lambda ref: ref.name.rpartition("-")[2])
        assert [ref.label for ref in by_row] == ["cat", "dog", "dog", "cat"]
        assert [ref.read_bytes() for ref in by_row] == [png(index) for index in range(4)]


def test_a_table_without_a_column_of_images_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = write_parquet(tmp_path / "text.parquet", text=["a", "b"], label=[0, 1])
    out = tmp_path / "run"
    assert run(["train", "vae", "--data", str(path), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no column of images, only text, label" in line
    assert not out.exists()


def test_a_table_that_is_cut_off_is_one_line(tmp_path: Path):
    path = write_parquet(tmp_path / "cut.parquet", image=[png(0), png(1)])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="none of 1 shards can be read"):
        open_source(path)


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_parquet(tmp_path / "a.parquet", image=[png(0)])
    monkeypatch.setattr("jeppa.data.shards.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'jeppa\[scale\]'"):
        open_source(path)


def test_an_order_through_a_buffer_takes_each_picture_once_and_shards_in_turn():
    """Red when a picture is lost or repeated, the seed is not used, or the order runs over all shards at once."""
    each = SHUFFLE_BUFFER
    shards = [index // each for index in range(10 * each)]
    first, again, other = (shuffle_shards(shards, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), np.arange(len(shards)))
    early = {shards[index] for index in first[:each]}
    assert len(early) == 2
    assert not np.array_equal(first[:each], np.sort(first[:each]))


def test_crops_of_shards_visit_every_picture_in_an_epoch(tars: Path):
    crops = CropDataset(open_source(tars), 8, 0)
    assert sorted(crops.picture(n) for n in range(len(crops))) == list(range(SHARDS * EACH))
    assert [crops.picture(n) for n in range(12)] != [crops.picture(n) for n in range(12, 24)]


def test_a_member_that_leaves_nothing_is_no_image(tmp_path: Path):
    """A tar of text alone holds no images. Red when any member counts."""
    with tarfile.open(tmp_path / "text.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "text.tar")
