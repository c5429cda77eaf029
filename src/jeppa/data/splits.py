"""Which images of a source are trained on and which are held out, and what their labels are.

Folders say it by their names where there are some for training and some for held-out images; else a hash of each name
does. `builtin:photos` is split by scene.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from jeppa.data.listing import HELDOUT_SCENES, ImageRef, is_builtin
from jeppa.errors import DataError

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


@dataclass(frozen=True)
class Candidates:
    """The images to check: those of the split, or all images if the split is by hash.

    A split by hash comes after the check: before it, one bad file among few held-out ones would exceed
    `max_unreadable`.
    """

    refs: tuple[ImageRef, ...]
    still_to_split: bool
    notes: tuple[str, ...] = ()


def choose_candidates(spec: str | Path, refs: tuple[ImageRef, ...], split: Split) -> Candidates:
    """The images of a split with their labels, as far as the names of folders say them.

    Args:
        spec: the source, for messages.
        refs: all images of it.
        split: which part.

    Raises:
        DataError: to be trained on is a source that has a folder of held-out images, and none for training.
    """
    if is_builtin(spec):
        heldout = split == "heldout"
        kept = tuple(ref for ref in refs if split == "all" or (ref.label in HELDOUT_SCENES) == heldout)
        return Candidates(kept, still_to_split=False)
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
    return Candidates(kept, still_to_split=False, notes=notes)


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


def _without_split(spec: str | Path, folders: dict[ImageRef, Folders], split: Split) -> Candidates:
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
        return Candidates(tuple(labelled.values()), still_to_split=split != "all")
    kept = tuple(labelled[ref] for ref, parts in folders.items() if _first(parts) in inside)
    return Candidates(kept, still_to_split=False)


def _first(parts: Folders) -> str | None:
    return parts[0] if parts else None


def split_by_hash(refs: tuple[ImageRef, ...], split: Split) -> tuple[ImageRef, ...]:
    """One part of a split that depends on each name alone, so that a new image moves hardly any other one."""
    if split == "all":
        return refs
    ranks = [_rank(ref) for ref in refs]
    count = sum(rank < HELDOUT_FRACTION for rank in ranks)
    by_rank = sorted(range(len(refs)), key=ranks.__getitem__)
    heldout = set(by_rank[: min(max(count, 1), len(refs) - 1)])
    return tuple(ref for index, ref in enumerate(refs) if (index in heldout) == (split == "heldout"))


def _rank(ref: ImageRef) -> float:
    """A number from 0 to 1 that depends on nothing but the name."""
    digest = hashlib.sha256(ref.name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


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
