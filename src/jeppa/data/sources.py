"""Sources of images: a folder, a zip archive, shards (`jeppa.data.shards`), or `builtin:photos`.

Opening a source checks its images. If there are at most `FULL_CHECK_FILES` of at most `FULL_CHECK_BYTES` together,
every image is decoded, and its whole content enters the fingerprint. Larger sources would take too long: there only the
headers are parsed and the first and last bytes of each file are hashed. If such a file is damaged after its header, the
first attempt to decode it raises a `DataError` that names it. What a process has checked once it does not check again
while the name, size and times of the file stay.
"""

import hashlib
import io
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

from jeppa.config import DataConfig
from jeppa.data.decode import FORMATS, open_header, read_pixels
from jeppa.data.listing import HELDOUT_SCENES, ImageRef, Listing, Skipped, list_builtin, list_folder, list_zip
from jeppa.data.shards import find_shards, list_shards
from jeppa.errors import ConfigError, DataError

Split = Literal["train", "heldout", "all"]
Role = Literal["train", "heldout"]

HELDOUT_FRACTION = 0.05
FOLDER_ROLES: dict[str, Role] = {
    "train": "train", "training": "train", "trainval": "train", "trn": "train", "imagestr": "train",
    "val": "heldout", "vals": "heldout", "vali": "heldout", "vld": "heldout", "valid": "heldout",
    "validate": "heldout", "validation": "heldout", "minival": "heldout", "crossval": "heldout",
    "dev": "heldout", "devel": "heldout", "development": "heldout", "eval": "heldout", "evaluation": "heldout",
    "test": "heldout", "tests": "heldout", "testing": "heldout", "testdev": "heldout", "tst": "heldout",
    "imagests": "heldout", "heldout": "heldout", "holdout": "heldout", "unseen": "heldout",
    "обучение": "train", "обучающая": "train", "тест": "heldout", "тестовая": "heldout", "валидация": "heldout",
    "проверка": "heldout", "контроль": "heldout", "отложенные": "heldout",
}  # fmt: skip
"""What a folder of this name holds, whatever its case and with or without `_FILLERS` and digits around it."""
_FILLERS = frozenset({
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "split",
})  # fmt: skip
_WORD = re.compile(r"[A-ZА-ЯЁ]?[^\W\d_A-ZА-ЯЁ]+|[A-ZА-ЯЁ]+(?![^\W\d_A-ZА-ЯЁ])")
FULL_CHECK_BYTES = 256 * 2**20
FULL_CHECK_FILES = 5_000
SAMPLE_BYTES = 64 * 2**10
SETTLED_SECONDS = 2.0
"""A file changed less long ago may change again without another time, so that it is checked anew."""


@dataclass(frozen=True)
class ImageSource:
    """The readable images of one split, in order of name.

    Args:
        refs: the images.
        labels: the classes of these images, sorted, each once; empty where nothing is labelled.
        fingerprint: SHA-256, in hexadecimal, over name, size and content hash of each image.
        skipped: what was found but is not used: unreadable images, links, refused archive members.
        notes: what else a person should know, a line each.
    """

    refs: tuple[ImageRef, ...]
    labels: tuple[str, ...]
    fingerprint: str
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.refs)


@dataclass(frozen=True)
class _Candidates:
    """The images to check: those of the split, or all images if the split is by hash.

    A split by hash comes after the check: before it, one bad file among few held-out ones would exceed
    `max_unreadable`.
    """

    refs: tuple[ImageRef, ...]
    still_to_split: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _CheckedImages:
    hashes: dict[ImageRef, str]
    unreadable: tuple[Skipped, ...]


def open_source(
    spec: str | Path, split: Split = "all", max_unreadable: float = 0.01, names_encoding: str | None = None
) -> ImageSource:
    """List and check the images of a source.

    Labels are the names of the first-level folders; images directly in the root have none. `heldout` is 5 %
    of the images by a hash of the name (at least one of two), `train` the rest; but where there are folders for
    training and held-out ones, such as `Train` and `validation`, those are the splits, and images elsewhere are only
    in `all`. They may stand in the root, in the one folder that encloses everything, or below each label; they are
    never labels themselves. `builtin:photos` is split by scene.

    Args:
        spec: a folder, a zip file, webdataset tars, parquet files, what `datasets` saved, or `builtin:photos`.
        split: which part.
        max_unreadable: largest fraction of images (0 to 1) that may be unreadable and is skipped. It is
            strict with few files: one bad image of ten is 10 %.
        names_encoding: code page of the names in a zip that does not say it, such as cp866.

    Raises:
        DataError: if there is no such source, no image in it, none in the split, or too many are unreadable.
        ConfigError: if `split`, `max_unreadable` or `names_encoding` is out of range.
    """
    if split not in ("train", "heldout", "all"):
        raise ConfigError(f"split is {split!r}, but must be 'train', 'heldout' or 'all'")
    if not 0.0 <= max_unreadable <= 1.0:
        raise ConfigError(f"max_unreadable is {max_unreadable}, but must be a fraction from 0 to 1")
    listing = _list_images(spec, names_encoding)
    if not listing.refs:
        raise _explain_no_images(spec, listing.skipped)
    candidates = _choose_candidates(spec, listing.refs, split)
    checked = _check_images(candidates.refs)
    _refuse_unreadable(spec, len(candidates.refs), checked.unreadable, max_unreadable)
    if checked.unreadable and not checked.hashes:
        first = checked.unreadable[0]
        count = f"none of {len(candidates.refs)} images can be read"
        raise DataError(f"{str(spec)!r}: {count}; first {first.name!r}: {first.reason}")
    good = tuple(checked.hashes)
    if candidates.still_to_split:
        good = _split_by_hash(good, split)
    if not good:
        raise _explain_empty_split(spec, len(checked.hashes), split)
    labels = tuple(sorted({ref.label for ref in good if ref.label is not None}))
    fingerprint = _fingerprint((ref, checked.hashes[ref]) for ref in good)
    notes = listing.notes + candidates.notes + _note_similar_labels(labels)
    return ImageSource(good, labels, fingerprint, listing.skipped + checked.unreadable, notes)


def open_data(config: DataConfig, split: Split) -> ImageSource:
    """The source that the settings of a run name; if none is held out, each split is all. Errors as `open_source`."""
    if config.heldout == "auto":
        return open_source(config.data, split, config.max_unreadable, config.names_encoding)
    source = open_source(config.data, "all", config.max_unreadable, config.names_encoding)
    note = f"nothing is held out: all {len(source)} images are trained on, and sample sheets show some of them"
    return replace(source, notes=(*source.notes, note))


@dataclass(frozen=True)
class _SplitName:
    """What the name of a folder says that it holds, and its other words: `a` of `trainA`, `div`, `k`, `hr` of DIV2K."""

    role: Role
    others: tuple[str, ...]


def folder_role(folder: str) -> Role | None:
    """What a name says by itself, as `Train`, `VALID`, `held-out`, `val2017`, `TestData` and `test_set` do."""
    found = _read_split_name(folder)
    return found.role if found is not None and not found.others else None


def _read_split_name(folder: str) -> _SplitName | None:
    words = [word.casefold() for word in _WORD.findall(folder)]
    whole = FOLDER_ROLES.get("".join(words).removesuffix("set"))
    if whole is not None:
        return _SplitName(whole, ())
    words = [word for word in words if word not in _FILLERS]
    roles = {word: role for word in words if (role := FOLDER_ROLES.get(word.removesuffix("set"))) is not None}
    if "".join(words) in FOLDER_ROLES:
        return _SplitName(FOLDER_ROLES["".join(words)], ())
    if len(set(roles.values())) != 1:
        return None
    return _SplitName(next(iter(roles.values())), tuple(word for word in words if word not in roles))


def _find_roles(folders: Iterable[str]) -> dict[str, Role]:
    """The folders that are splits: of both roles side by side, and either with the same other words or with none.

    `train_hr` stands beside `valid_hr` or `val`, but a label `test tube` not beside a label `bullet train`.
    """
    names = {folder: name for folder in folders if (name := _read_split_name(folder)) is not None}
    return {
        folder: name.role
        for folder, name in names.items()
        if any(other.role != name.role and _are_pair(name, other) for other in names.values())
    }


def _are_pair(name: _SplitName, other: _SplitName) -> bool:
    return name.others == other.others or not name.others or not other.others


def _is_builtin(spec: str | Path) -> bool:
    return str(spec).startswith("builtin:")


def _list_images(spec: str | Path, names_encoding: str | None) -> Listing:
    if _is_builtin(spec):
        return Listing(list_builtin(str(spec).removeprefix("builtin:")), ())
    if not str(spec).strip():
        raise DataError(
            "the data is an empty name; pass a folder, a .zip, .tar or .parquet, or builtin:photos "
            "('.' is the current folder)"
        )
    path = Path(spec)
    try:
        listing = list_folder(path) if path.is_dir() else None
        if listing is not None and listing.refs:
            return listing
        shards = find_shards(str(spec))
        if shards:
            return list_shards(str(spec), shards)
        if listing is not None:
            return listing
        if path.is_file() and path.suffix.lower() == ".zip":
            return list_zip(path, names_encoding)
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name too long, a NUL, a folder without rights
        raise DataError(
            f"{str(spec)!r}: cannot be opened; pass a folder, a .zip, .tar or .parquet, or builtin:photos"
        ) from error
    problem = "is neither a folder nor a .zip, .tar or .parquet" if exists else "does not exist"
    raise DataError(f"{str(spec)!r}: {problem}; pass a folder, .zip, .tar or .parquet of images, or builtin:photos")


def _choose_candidates(spec: str | Path, refs: tuple[ImageRef, ...], split: Split) -> _Candidates:
    if _is_builtin(spec):
        heldout = split == "heldout"
        kept = tuple(ref for ref in refs if split == "all" or (ref.label in HELDOUT_SCENES) == heldout)
        return _Candidates(kept, still_to_split=False)
    folders = {ref: tuple(ref.name.split("/")[:-1]) for ref in refs}
    depth = _find_split_depth(set(folders.values()))
    if depth is None:
        return _without_split(spec, folders, split)
    enclosing = _count_enclosing(folders.values())
    known = _find_roles({parts[depth] for parts in folders.values() if len(parts) > depth})
    roles = {ref: known.get(parts[depth]) if len(parts) > depth else None for ref, parts in folders.items()}
    # `cat/train/a.png` has its label above, `train/cat/a.png` below.
    labels = {ref: _first((*parts[enclosing:depth], *parts[depth + 1 :])) for ref, parts in folders.items()}
    labels |= {ref: _first(parts) for ref, parts in folders.items() if roles[ref] is None}
    kept = tuple(ref.labelled(labels[ref]) for ref in refs if split in ("all", roles[ref]))
    elsewhere = [ref.name for ref in refs if roles[ref] is None]
    note = f"{len(elsewhere)} images lie in none of the folders for training and held-out images, and are not used"
    notes = (f"{note}: the first is {elsewhere[0]!r}",) if elsewhere and split != "all" else ()
    return _Candidates(kept, still_to_split=False, notes=notes)


Folders = tuple[str, ...]


def _count_enclosing(folders: Iterable[Folders]) -> int:
    """How many folders all images lie in."""
    known = set(folders)
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*known, strict=False)))


def _find_split_depth(folders: set[Folders]) -> int | None:
    """Where folders for training and held-out ones stand side by side: first in what encloses all, or one below."""
    enclosing = _count_enclosing(folders)
    for depth in (enclosing, enclosing + 1):
        if _find_roles({parts[depth] for parts in folders if len(parts) > depth}):
            return depth
    return None


def _without_split(spec: str | Path, folders: dict[ImageRef, Folders], split: Split) -> _Candidates:
    """The images of a source without folders of both roles, to be split by hash.

    One folder for training that holds everything stands for its content. A held-out folder without one for training
    is no label, and is not trained on.
    """
    tops = {parts[0] for parts in folders.values() if parts}
    heldout = sorted(top for top in tops if folder_role(top) == "heldout")
    if heldout and split == "train":
        raise DataError(
            f"{str(spec)!r}: {heldout[0]!r} is the name of a folder of held-out images, but no folder 'train' is "
            "beside it; put the training images in a folder 'train', or rename it if it is a label"
        )
    inside = set(heldout) if heldout else {top for top in tops if len(tops) == 1 and folder_role(top) == "train"}
    labelled = {
        ref: ref.labelled(_first(parts[1:]) if _first(parts) in inside else _first(parts))
        for ref, parts in folders.items()
    }
    if not heldout or split == "all":
        return _Candidates(tuple(labelled.values()), still_to_split=split != "all")
    kept = tuple(labelled[ref] for ref, parts in folders.items() if _first(parts) in inside)
    return _Candidates(kept, still_to_split=False)


def _first(parts: Folders) -> str | None:
    return parts[0] if parts else None


def _note_similar_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels that differ in case alone: one class on some systems, two on others."""
    groups = defaultdict(list)
    for label in labels:
        groups[label.casefold()].append(label)
    return tuple(
        f"labels {' and '.join(map(repr, group))} differ in case alone and are {len(group)} classes; "
        "rename the folders if they are one"
        for group in groups.values()
        if len(group) > 1
    )


def _split_by_hash(refs: tuple[ImageRef, ...], split: Split) -> tuple[ImageRef, ...]:
    """One part of a split that depends on each name alone, so that a new image moves hardly any other one."""
    if split == "all":
        return refs
    ranked = sorted(refs, key=_rank)
    count = sum(_rank(ref) < HELDOUT_FRACTION for ref in refs)
    heldout = set(ranked[: min(max(count, 1), len(refs) - 1)])
    return tuple(ref for ref in refs if (ref in heldout) == (split == "heldout"))


def _rank(ref: ImageRef) -> float:
    """A number from 0 to 1 that depends on nothing but the name."""
    digest = hashlib.sha256(ref.name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


_checked: dict[object, str] = {}
"""Hash by stamp of the file and by how it was checked, of this process."""


def _check_images(refs: tuple[ImageRef, ...]) -> _CheckedImages:
    is_full = sum(ref.size for ref in refs) <= FULL_CHECK_BYTES and len(refs) <= FULL_CHECK_FILES
    hashes: dict[ImageRef, str] = {}
    unreadable: list[Skipped] = []
    settled = time.time_ns() - int(SETTLED_SECONDS * 1e9)
    for ref in refs:
        key = (ref.stamp, is_full, ref.size <= SAMPLE_BYTES)
        try:
            if ref.checked:
                hashes[ref] = "not read"
                continue
            known = _checked.get(key) if ref.stamp else None
            hashes[ref] = known or (_hash_whole(ref) if is_full else _hash_sample(ref))
        except DataError as error:
            unreadable.append(Skipped(ref.name, str(error).removeprefix(f"{ref.name!r}: ")))
            continue
        if ref.stamp and ref.stamp.changed_ns < settled:
            _checked[key] = hashes[ref]
    return _CheckedImages(hashes, tuple(unreadable))


def _hash_whole(ref: ImageRef) -> str:
    data = ref.read_bytes()
    read_pixels(data, ref.name)
    return hashlib.sha256(data).hexdigest()


def _hash_sample(ref: ImageRef) -> str:
    """Of the head and tail of a file; a small one is hashed whole, as if it had been decoded."""
    if ref.size <= SAMPLE_BYTES:
        data = ref.read_bytes()
        open_header(io.BytesIO(data), ref.name)
        return hashlib.sha256(data).hexdigest()
    with ref.stream() as stream:
        open_header(stream, ref.name)
        stream.seek(0)
        head = stream.read(SAMPLE_BYTES)
        stream.seek(max(0, ref.size - SAMPLE_BYTES))
        return hashlib.sha256(head + stream.read(SAMPLE_BYTES)).hexdigest()


def _fingerprint(hashes: Iterable[tuple[ImageRef, str]]) -> str:
    total = hashlib.sha256()
    for ref, content in sorted(hashes, key=lambda pair: pair[0].name):
        total.update(f"{ref.name}\0{ref.size}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _refuse_unreadable(spec: str | Path, count: int, unreadable: tuple[Skipped, ...], max_unreadable: float) -> None:
    if len(unreadable) <= max_unreadable * count:
        return
    first = unreadable[0]
    share = f"{len(unreadable)} of {count} images cannot be read, limit {100 * max_unreadable:.3g} %"
    remedy = "or raise --max-unreadable to go on without them"
    raise DataError(f"{str(spec)!r}: {share}; first {first.name!r}: {first.reason}, {remedy}")


def _explain_empty_split(spec: str | Path, count: int, split: Split) -> DataError:
    found = f"{str(spec)!r}: it has {count} image{'s' if count > 1 else ''}"
    if split == "heldout":
        return DataError(f"{found}, so none can be held out; add images, or train on all with --heldout none")
    return DataError(f"{found}, none of them in the {split} split; add images")


def _explain_no_images(spec: str | Path, skipped: tuple[Skipped, ...]) -> DataError:
    remedy = "pass a folder or .zip of images, or builtin:photos"
    if skipped:
        first = skipped[0]
        remedy = f"{len(skipped)} refused, first {first.name!r}: {first.reason}"
    return DataError(f"{str(spec)!r}: holds no images ({', '.join(FORMATS)}); {remedy}")
