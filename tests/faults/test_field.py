"""What people's files, names, folders and machines really do: the rows from F40 on.

Each row is a kind of fault that was found in the field, tried on inputs that it was not found with.
"""

import json
import os
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import field
import images
import models
import numpy as np
import pytest
import runs
from PIL import Image

from jeppa import runtime
from jeppa.cli import run as command_line
from jeppa.data import open_source, read_pixels, sources
from jeppa.errors import ConfigError, DataError, JeppaError
from jeppa.lab.measure import Nets

Seen = Callable[[str], None]
FIELDS = ("lpips_alex", "lpips_vgg", "features")
DOCS = Path(__file__).parents[2] / "docs"


def refusal(work: Callable[[], object], kind: type[JeppaError] = DataError) -> str:
    """The one line that `work` is refused with."""
    with pytest.raises(kind) as caught:
        work()
    line = str(caught.value)
    assert "\n" not in line
    return line


def exit_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    assert command_line(arguments) == 2, capsys.readouterr()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def put(root: Path, *names: str) -> Path:
    """Small good pictures, all different, under these names."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(images.encoded(Image.fromarray(images.photo(8, seed))))
    return root


def pack(path: Path, *names: bytes, flag: int = 0) -> Path:
    """A zip of small pictures whose names are these bytes, which it says are UTF-8 if `flag` is 0x800."""
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(names):
            stand_in = f"{seed:06}".ljust(len(name), "x")
            archive.writestr(stand_in, images.encoded(Image.fromarray(images.photo(8, seed))))
    content = path.read_bytes()
    for seed, name in enumerate(names):
        content = content.replace(f"{seed:06}".ljust(len(name), "x").encode(), name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("train", "heldout"),
    [
        ("Train", "Validation"), ("TRAIN", "VALID"), ("training", "dev"), ("train2017", "val2017"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"), ("trainA", "testA"), ("imagesTr", "imagesTs"), ("Обучение", "ТЕСТ"),
        ("train", "public_test"), ("fold1_train", "fold1_val"), ("TrainData", "tests"), ("train", "test-dev"),
        ("Training_Set", "Test Set"), ("train", "held-out"), ("trainval", "TEST"), ("train_images", "Eval"),
    ],
)  # fmt: skip
def test_F40_split_folders(train: str, heldout: str, tmp_path: Path, seen: Seen) -> None:
    """Folders for training and held-out images are known whatever their case, and are never classes.

    Red when the names are compared as they are. They stand in the root, in an enclosing folder, or below the labels.
    """
    for place, layout in enumerate(("{split}/{label}", "set/{split}/{label}", "{label}/{split}")):
        root = tmp_path / str(place)
        for split in (train, heldout):
            for label in ("bus", "tram"):
                folder = layout.format(split=split, label=label)
                put(root, f"{folder}/{split}-a.png", f"{folder}/{split}-b.png")
        for part, own in (("train", train), ("heldout", heldout)):
            source = open_source(root, part)
            assert source.labels == ("bus", "tram"), (layout, part)
            assert len(source) == 4
            assert all(f"{own}-" in ref.name for ref in source.refs)
    seen(f"{train} and {heldout}: 3 layouts, labels bus and tram")


def test_F40_held_out_folders_alone_are_refused(tmp_path: Path, seen: Seen) -> None:
    """A held-out folder with none for training beside it is refused for training; a label named train is one.

    Red when the folder becomes a class.
    """
    for name in ("Validation", "TEST", "dev"):
        root = put(tmp_path / name, "cat/a.png", "cat/b.png", f"{name}/c.png")
        line = refusal(lambda root=root: open_source(root, "train"))
        assert repr(name) in line
        assert "'train'" in line
        assert [ref.name for ref in open_source(root, "heldout").refs] == [f"{name}/c.png"]
    odd = put(
        tmp_path / "odd", *(f"{label}/{i}.png" for label in ("bullet train", "test tube", "trial") for i in range(4))
    )
    assert open_source(odd, "train").labels == ("bullet train", "test tube", "trial")
    vehicles = put(tmp_path / "vehicles", *(f"{label}/{i}.png" for label in ("bus", "train") for i in range(4)))
    assert open_source(vehicles, "train").labels == ("bus", "train")
    inside = put(tmp_path / "inside", "Train/bus/a.png", "Train/tram/b.png")
    assert open_source(inside).labels == ("bus", "tram")
    elsewhere = put(tmp_path / "elsewhere", "train/bus/a.png", "VAL/bus/b.png", "spare/c.png")
    assert "'spare/c.png'" in open_source(elsewhere, "train").notes[0]
    seen(line)


def test_F41_camera_raw(tmp_path: Path, seen: Seen) -> None:
    """Camera raw is refused as what it is, whatever its maker and order of bytes; a plain or layered TIFF is read.

    Red when the first picture of a TIFF is taken for the picture.
    """
    lines = []
    for name, content, word in field.raws():
        line = refusal(lambda content=content, name=name: read_pixels(content, name))
        assert word in line, name
        assert "develop it first" in line
        lines.append(line)
    grey = np.zeros((300, 400), np.uint8)
    pages = images.encoded(Image.fromarray(grey), "TIFF", save_all=True, append_images=[Image.fromarray(grey[:75])])
    smaller = {254: 1, 256: 4, 257: 3, 258: 8, 259: 1, 262: 1, 273: 0, 279: 0}
    pyramid = field.tiff(16, 16, (8,), 1, bytes(256), sub=smaller)
    assert read_pixels(pages).shape == (300, 400, 3)
    assert read_pixels(pyramid).shape == (16, 16, 3)
    seen(f"{len(lines)} refused, such as: {lines[0]}; pages and a pyramid are read")


@pytest.mark.parametrize("language", ["", ".ru"])
def test_F42_depth_polarity_transparency(language: str, seen: Seen) -> None:
    """Each mode of TIFF, BMP, PNG and PGM becomes what the table in the docs says, within a level.

    Red, each for its own file, without the scale of 12 bits, without the turn of "white is 0", without the look at an
    unused alpha, and with Pillow's own keys of transparency.
    """
    text = (DOCS / f"files{language}.md").read_text(encoding="utf-8")
    worst, made, listed = 0.0, set(), 0
    for name, content, expected in field.modes():
        pixels = read_pixels(content, name)
        difference = np.abs(pixels - np.asarray(expected, float)).max()
        assert difference <= (4.0 if name == "TIFF: Lab" else 1.0), (name, difference)
        worst, made = max(worst, difference), made | {name}
    for name, content, word in field.refused_modes():
        assert word in refusal(lambda content=content, name=name: read_pixels(content, name)), name
        made.add(name)
    rows = [line for line in text.splitlines() if line.startswith(("| TIFF", "| BMP", "| PNG", "| P"))]
    listed = len(rows)
    assert listed == len(made), (listed, sorted(made))
    if not language:
        assert {": ".join(cell.strip() for cell in row.split("|")[1:3]) for row in rows} == made
    seen(f"{len(made)} rows of the table, at most {worst:.1f} levels off")


def test_F43_kinds_that_are_not_read(tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of kinds that are not read are counted, listed and in the 1 % rule.

    Red when a file is a picture only if its suffix is among those that are read.
    """
    kinds = list(field.foreign())
    for name, content in kinds:
        root = put(tmp_path / f"with-{name}" / "photos", "a.png", "b.png", "c.png")
        (root / name).write_bytes(content)
        line = refusal(lambda root=root: open_source(root))
        assert "1 of 4 images" in line, name
        assert repr(name) in line
        assert "not read" in line, line
        source = open_source(root, max_unreadable=0.3)
        assert [one.name for one in source.skipped] == [name]
    run = ["train", "vae", "--preset", "tiny", "--steps", "1", "--batch-size", "1", "--resolution", "8", "--out"]
    data = ["--data", str(root)]
    assert "--max-unreadable" in exit_line([*run, str(tmp_path / "strict"), *data], capsys)
    assert command_line([*run, str(tmp_path / "lenient"), *data, "--max-unreadable", "0.3"]) == 0
    (tmp_path / "texts").mkdir()
    put(tmp_path / "texts", "a.png")
    for name, content in (("notes.txt", b"words"), ("film.mp4", b"\0\0\0\x18ftypisom"), ("paper.pdf", images.PDF)):
        (tmp_path / "texts" / name).write_bytes(content)
    texts = open_source(tmp_path / "texts")
    assert len(texts) == 1
    assert "3 files are not taken for images: 1 '." in texts.notes[0]
    for content, word in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404", "a web page"), (b"<Error><Code>AccessDenied</Code>", "an error message"),
        (b"/9j/4AAQSkZJRgABAQ", "base64"),
    ):  # fmt: skip
        assert word in refusal(lambda content=content: read_pixels(content, "a.jpg"))
    seen(f"{len(kinds)} kinds, such as: {line}")


def test_F44_names_in_a_code_page(tmp_path: Path, seen: Seen) -> None:
    """Zips with names in a code page: right with the encoding, told without it; UTF-8 without a mark is known.

    Red when `zipfile` decodes the names.
    """
    words = {
        "cp866": ("кошки", "собаки"),
        "cp932": ("ねこ表", "いぬ"),
        "gbk": ("照片", "风景"),
        "cp1252": ("été", "köln"),
    }
    lines = []
    for encoding, labels in words.items():
        path = pack(
            tmp_path / f"{encoding}.zip", *(f"{label}/{i}.png".encode(encoding) for label in labels for i in "ab")
        )
        source = open_source(path, names_encoding=encoding)
        assert source.labels == tuple(sorted(labels))
        assert all(ref.read_pixels().shape == (8, 8, 3) for ref in source.refs)
        assert source.notes == ()
        lines += open_source(path).notes
        assert "--names-encoding" in lines[-1]
    assert "cp866" in lines[0]
    assert "кошки" in lines[0]
    unmarked = pack(tmp_path / "mac.zip", *(f"{label}/{i}.png".encode() for label in ("ёлка", "дом") for i in "ab"))
    source = open_source(unmarked)
    assert source.labels == ("дом", "ёлка")
    assert source.notes == ()
    assert "not known" in refusal(lambda: open_source(unmarked, names_encoding="cp8666"), ConfigError)
    broken = pack(tmp_path / "broken.zip", b"\xe9t\xe9/a.png", b"b/b.png")
    assert "not in utf-8" in refusal(lambda: open_source(broken, names_encoding="utf-8"), ConfigError)
    seen(lines[0])


def test_F45_backslashes_forms_and_case_of_names(tmp_path: Path, seen: Seen) -> None:
    """Backslashes are slashes, NFD is NFC, and labels that differ in case alone are told.

    Red when names are taken as they lie in the archive or on the disk.
    """
    back = open_source(pack(tmp_path / "back.zip", rb"root\bus\a.png", rb"root\tram\b.png", rb"root\bus\deep\c.png"))
    assert [ref.name for ref in back.refs] == ["bus/a.png", "bus/deep/c.png", "tram/b.png"]
    assert back.labels == ("bus", "tram")
    folders = [open_source(put(tmp_path / form, *(unicodedata.normalize(form, name) for name in (
        "йогурт/ёж.png", "café/ñandú.png", "각/가.png"
    )))) for form in ("NFC", "NFD")]  # fmt: skip
    assert folders[0].labels == folders[1].labels
    assert folders[0].fingerprint == folders[1].fingerprint
    assert all(ref.read_pixels().shape == (8, 8, 3) for ref in folders[1].refs)
    for number, pair in enumerate((("Cat", "cat"), ("STRASSE", "straße"), ("Ёж", "ёж"))):
        source = open_source(put(tmp_path / f"case{number}", *(f"{label}/{label}.png" for label in pair)))
        assert "differ in case alone" in source.notes[0]
        assert len(source.labels) == 2
    seen(source.notes[0])


def test_F46_odd_headers_say_what_they_are(seen: Seen) -> None:
    """12-bit and lossless JPEG, and stray bytes before a header, are named.

    Red when all of them are "damaged or none of".
    """
    good = images.encoded(Image.fromarray(images.photo(32)), "JPEG")
    start = good.index(b"\xff\xc0")
    deep = good[: start + 4] + b"\x0c" + good[start + 5 :]
    late = good[:2] + b"\xff\xed\x40\x00" + bytes(0x3FFE) + deep[2:]
    extended = deep.replace(b"\xff\xc0", b"\xff\xc1", 1)
    lossless = good.replace(b"\xff\xc0", b"\xff\xc3", 1)
    lines = [refusal(lambda content=content: read_pixels(content)) for content in (deep, late, extended, lossless)]
    assert all("12-bit JPEG" in line and "convert it" in line for line in lines[:3])
    assert "lossless JPEG" in lines[3]
    for stray, kind in (
        (b"\r\n", "PNG"),
        (b"\xef\xbb\xbf", "GIF"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "JPEG"),
        (b"\0", "WEBP"),
    ):
        content = stray + images.encoded(Image.fromarray(images.photo()), kind)
        lines.append(refusal(lambda content=content: read_pixels(content)))
        assert f"a {kind} behind {len(stray)} stray bytes" in lines[-1]
    seen(f"{lines[0]}; {lines[-1]}")


def test_F47_a_second_opening_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    """What was checked is not decoded again in the same process, unless its name, size or time changed.

    Red when every opening decodes everything, and when a file that was edited is taken for known.
    """
    decoded: list[str] = []
    own = sources.read_pixels
    monkeypatch.setattr(sources, "read_pixels", lambda data, name: decoded.append(name) or own(data, name))
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0.0)
    root = put(tmp_path / "photos", *(f"{index}.png" for index in range(20)))
    first = open_source(root)
    assert len(decoded) == 20
    parts = [open_source(root, part) for part in ("train", "heldout", "all")]
    assert len(decoded) == 20
    assert parts[2].fingerprint == first.fingerprint
    (root / "3.png").write_bytes(images.encoded(Image.fromarray(images.photo(8, 99))))
    os.utime(root / "3.png", ns=(1, 1))
    assert open_source(root).fingerprint != first.fingerprint
    assert decoded[20:] == ["3.png"]
    seen(f"{len(decoded)} pictures decoded in 5 openings of 20, one of them edited")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny VAE of random weights; not to be written to."""
    folder = models.exported(tmp_path_factory.mktemp("exported") / "model")
    return folder / "vae" if (folder / "vae" / "model.json").exists() else folder


def test_F48_refused_at_once(tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    """Fractions for whole numbers, empty values, and an --out inside what is read: exit 2, one line, nothing written.

    Red when cyclopts rounds, when an empty path is the current folder, and when nobody compares the two folders.
    """
    root = put(tmp_path / "photos", "bus/a.png", "bus/b.png", "tram/c.png")
    before = sorted(tmp_path.rglob("*"))
    train = ["train", "vae", "--preset", "tiny", "--data", str(root), "--out", str(tmp_path / "run")]
    generate = ["generate", "--model", "emoji", "--out", str(tmp_path / "out")]
    lines = []
    for arguments in (
        [*generate, "-n", "1.9"], [*generate, "--seed", "0.5"], [*generate, "--steps", "2.5"],
        [*train, "--batch-size", "8.7"], [*train, "--steps", "1e1"], [*train, "--workers", "0.4"],
        ["interpolate", "--model", "small", "--a", "a", "--b", "b", "--out", str(tmp_path / "out"), "--frames", "2.2"],
    ):  # fmt: skip
        lines.append(exit_line(arguments, capsys))
        assert "not a whole number" in lines[-1]
    for flag in ("--data", "--out", "--model", "--input", "--config", "--a"):
        assert flag in exit_line(["train", "vae", flag, ""], capsys)
        assert flag in exit_line(["train", "vae", f"{flag}="], capsys)
    inside = ["evaluate", "--model", "small", "--data", "  ", "--out", str(tmp_path / "m.json")]
    assert "--data is empty" in exit_line(inside, capsys)
    for out in (root, root / "run", root / "bus" / ".." / "new" / "run"):
        for command in (
            ["train", "vae", "--preset", "tiny", "--data", str(root)],
            ["train", "diffusion", "--vae", "small", "--data", str(root)],
            ["reconstruct", "--model", "small", "--input", str(root)],
            ["compare", "--data", str(root)],
        ):
            lines.append(exit_line([*command, "--out", str(out)], capsys))
            assert "lies in" in lines[-1]
    assert sorted(tmp_path.rglob("*")) == before
    assert "empty" in refusal(lambda: open_source(""))
    seen(f"{lines[0]}; {lines[-1]}")


def test_F49_every_out_is_checked_first(
    tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder for a file, a file for a folder, a name too long: exit 2 before a model is loaded or an image opened.

    So are a pipe, which a file would replace, and /proc, whose bits promise rights that it does not give. Red when the
    work is done first.
    """
    for name in ("jeppa.pipeline.load_model", "jeppa.data.open_source", "jeppa.lab.bench.run_benches"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("work began"))
    root = put(tmp_path / "photos", "a.png", "b.png")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    below, long = str(tmp_path / "file" / "new"), str(tmp_path / ("n" * 300))
    read = ["--data", str(root)]
    files = (["evaluate", "--model", "small", *read], ["bench"])
    folders = (
        ["reconstruct", "--model", "small", "--input", str(root)], ["generate", "--model", "emoji"], ["demo"],
        ["interpolate", "--model", "small", "--a", "a", "--b", "b"],
        ["mix", "--model", "small", "--a", "a", "--b", "b"],
        ["calibrate", "--model", "small", *read], ["compare", *read], ["train", "vae", "--preset", "tiny", *read],
        ["train", "diffusion", "--vae", "small", *read], ["train", "texture", "--vae", "small", *read],
    )  # fmt: skip
    lines = []
    for command in files:
        for out in (str(tmp_path / "folder"), below, long, str(tmp_path / "pipe"), "/proc/new.json"):
            lines.append(exit_line([*command, "--out", out], capsys))
    for command in folders:
        for out in (str(tmp_path / "file"), below, long, "/proc/new"):
            lines.append(exit_line([*command, "--out", out], capsys))
    assert all("--out" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "photos", "pipe"]
    seen(f"{len(lines)} refused, such as: {lines[0]}")


def test_F50_one_bad_file_stops_nothing(
    vae: Path, tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of many pictures the good ones are reconstructed and the bad ones listed; exit 2 only if none could be made.

    Red when the first bad one ends the command. Bad are the content, the kind, the length of a name, and a file where
    the folder of a picture should be written.
    """
    root = put(tmp_path / "photos", "a.png", "b.png", "sub/c.png", f"{'n' * 251}.png", f"{'m' * 230}.png")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:50])
    (root / "layers.psd").write_bytes(b"8BPS\0\1" + bytes(50))
    (root / os.fsdecode(b"not-utf8-\xff.png")).write_bytes((root / "a.png").read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_text("in the way")
    command = ["reconstruct", "--model", str(vae), "--out", str(out), "--precision", "exact", "--input"]
    capsys.readouterr()
    assert command_line([*command, str(root)]) == 0
    said = capsys.readouterr()
    bad = [line for line in said.out.splitlines() if line.startswith("not made: ")]
    assert len(bad) == 4, said.out
    for word in ("cut.png", "layers.psd", "nnnn", "sub"):
        assert any(word in line for line in bad), word
    assert "made 4 of 8" in said.out
    assert (out / f"{'m' * 230}.recon.png").exists()
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / name).write_text("words")
    assert "none of 2" in exit_line([*command, str(tmp_path / "bad")], capsys)
    seen(said.out.splitlines()[-1])


def test_F51_unknown_data_is_measured_whole(
    photos: Path, tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate` measures all of a folder that the model was not trained on, and the held-out part of its own.

    Red when the held-out part is the default of all. The count and a table of the figures are printed.
    """
    monkeypatch.setattr("jeppa.lab.evaluate.load_nets", lambda _: (Nets(), dict.fromkeys(FIELDS, "left out")))
    run = tmp_path / "run"
    runs.finish(runs.settings(photos, optim={"steps": 1}), run)
    shutil.copytree(photos, tmp_path / "moved")
    strangers = put(tmp_path / "strangers", *(f"{index}.png" for index in range(12)))
    counts = {}
    for name, data in (("own", photos), ("moved", tmp_path / "moved"), ("strangers", strangers)):
        command = ["evaluate", "--model", str(run), "--data", str(data), "--out", str(tmp_path / f"{name}.json")]
        capsys.readouterr()
        assert command_line(command) == 0, capsys.readouterr()
        said = capsys.readouterr().out
        counts[name] = json.loads((tmp_path / f"{name}.json").read_text())["n_images"]
        assert f"measured {counts[name]} images" in said
        assert re.search(r"^psnr +[0-9.]+", said, re.M)
    assert counts == {"own": 1, "moved": 1, "strangers": 12}
    seen(str(counts))


def test_F52_no_home_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    """Without HOME and an entry in passwd, with an empty or unusable XDG_CACHE_HOME: no cache, and no failure.

    Red when `Path.home` is asked where it is not needed, or where it fails.
    """

    def nobody(_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    (tmp_path / "file").write_text("x")
    for value in (None, "", str(tmp_path / "file"), "/proc/none", str(tmp_path / "good")):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        runtime._remember("key", runtime.EXACT)
        remembered = runtime._recall("key")
        assert remembered == (runtime.EXACT if value == str(tmp_path / "good") else None)
    seen("5 values of XDG_CACHE_HOME, the good one remembers")
