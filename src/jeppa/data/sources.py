"""Sources of images: a folder, a zip archive, or `builtin:photos`.

Opening a source checks its images. If the files have at most `FULL_CHECK_BYTES` together, every image is decoded, and
its whole content enters the fingerprint. Larger sources would take too long: there only the headers are parsed and the
first and last bytes of each file are hashed. If such a file is damaged after its header, the first attempt to decode it
raises a `DataError` that names it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jeppa.data.decode import open_header, read_pixels
from jeppa.data.listing import HELDOUT_SCENES, ImageRef, Listing, Skipped, list_builtin, list_folder, list_zip
from jeppa.errors import ConfigError, DataError

Split = Literal["train", "heldout", "all"]

HELDOUT_FRACTION = 0.05
HELDOUT_FOLDERS = frozenset({"val", "heldout", "test"})
FULL_CHECK_BYTES = 256 * 2**20
SAMPLE_BYTES = 64 * 2**10


@dataclass(frozen=True)
class ImageSource:
    """The readable images of one split, in order of name.

    Args:
        refs: the images.
        labels: the classes of these images, sorted, each once; empty where nothing is labelled.
        fingerprint: SHA-256, in hexadecimal, over name, size and content hash of each image.
        skipped: what was found but is not used: unreadable images, links, refused archive members.
    """

    refs: tuple[ImageRef, ...]
    labels: tuple[str, ...]
    fingerprint: str
    skipped: tuple[Skipped, ...]

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


@dataclass(frozen=True)
class _CheckedImages:
    hashes: dict[ImageRef, str]
    unreadable: tuple[Skipped, ...]


def open_source(spec: str | Path, split: Split = "all", max_unreadable: float = 0.01) -> ImageSource:
    """List and check the images of a source.

    Labels are the names of the first-level folders; images directly in the root have none. `heldout` is 5 %
    of the images by a hash of the name (at least one of two), `train` the rest; but where the root has
    folders `train` and one of `val`, `heldout`, `test`, those are the splits, the labels are the folders
    inside them, and images elsewhere are only in `all`. `builtin:photos` is split by scene.

    Args:
        spec: a folder, a zip file, or `builtin:photos`.
        split: which part.
        max_unreadable: largest fraction of images (0 to 1) that may be unreadable and is skipped. It is
            strict with few files: one bad image of ten is 10 %.

    Raises:
        DataError: if there is no such source, no image in it, or too many are unreadable.
        ConfigError: if `split` or `max_unreadable` is out of range.
    """
    if split not in ("train", "heldout", "all"):
        raise ConfigError(f"split is {split!r}, but must be 'train', 'heldout' or 'all'")
    if not 0.0 <= max_unreadable <= 1.0:
        raise ConfigError(f"max_unreadable is {max_unreadable}, but must be a fraction from 0 to 1")
    listing = _list_images(spec)
    if not listing.refs:
        raise _explain_no_images(spec, listing.skipped)
    candidates = _choose_candidates(spec, listing.refs, split)
    checked = _check_images(candidates.refs)
    _refuse_unreadable(spec, len(candidates.refs), checked.unreadable, max_unreadable)
    good = tuple(checked.hashes)
    if candidates.still_to_split:
        good = _split_by_hash(good, split)
    if not good:
        raise DataError(f"{str(spec)!r}: the {split} split has no image; add images or use all of them")
    labels = tuple(sorted({ref.label for ref in good if ref.label is not None}))
    fingerprint = _fingerprint((ref, checked.hashes[ref]) for ref in good)
    return ImageSource(good, labels, fingerprint, listing.skipped + checked.unreadable)


def _is_builtin(spec: str | Path) -> bool:
    return str(spec).startswith("builtin:")


def _list_images(spec: str | Path) -> Listing:
    if _is_builtin(spec):
        return Listing(list_builtin(str(spec).removeprefix("builtin:")), ())
    path = Path(spec)
    try:
        if path.is_dir():
            return list_folder(path)
        if path.is_file() and path.suffix.lower() == ".zip":
            return list_zip(path)
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name too long, a NUL, a folder without rights
        raise DataError(f"{str(spec)!r}: cannot be opened; pass a folder, a .zip or builtin:photos") from error
    problem = "is neither a folder nor a .zip" if exists else "does not exist"
    raise DataError(f"{str(spec)!r}: {problem}; pass a folder of images, a .zip of images, or builtin:photos")


def _choose_candidates(spec: str | Path, refs: tuple[ImageRef, ...], split: Split) -> _Candidates:
    if _is_builtin(spec):
        heldout = split == "heldout"
        kept = tuple(ref for ref in refs if split == "all" or (ref.label in HELDOUT_SCENES) == heldout)
        return _Candidates(kept, still_to_split=False)
    tops = {ref.name.split("/")[0] for ref in refs if "/" in ref.name}
    has_folders = "train" in tops and not tops.isdisjoint(HELDOUT_FOLDERS)
    labelled = tuple(replace(ref, label=_choose_label(ref.name.split("/"), has_folders)) for ref in refs)
    if split == "all" or not has_folders:
        return _Candidates(labelled, still_to_split=split != "all")
    folders = HELDOUT_FOLDERS if split == "heldout" else frozenset({"train"})
    kept = tuple(ref for ref in labelled if "/" in ref.name and ref.name.split("/")[0] in folders)
    return _Candidates(kept, still_to_split=False)


def _choose_label(parts: list[str], has_folder_split: bool) -> str | None:
    depth = 1 if has_folder_split and parts[0] in HELDOUT_FOLDERS | {"train"} else 0
    return parts[depth] if len(parts) > depth + 1 else None


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


def _check_images(refs: tuple[ImageRef, ...]) -> _CheckedImages:
    is_full = sum(ref.size for ref in refs) <= FULL_CHECK_BYTES
    hashes: dict[ImageRef, str] = {}
    unreadable: list[Skipped] = []
    for ref in refs:
        try:
            hashes[ref] = _hash_whole(ref) if is_full else _hash_sample(ref)
        except DataError as error:
            unreadable.append(Skipped(ref.name, str(error).removeprefix(f"{ref.name!r}: ")))
    return _CheckedImages(hashes, tuple(unreadable))


def _hash_whole(ref: ImageRef) -> str:
    data = ref.read_bytes()
    read_pixels(data, ref.name)
    return hashlib.sha256(data).hexdigest()


def _hash_sample(ref: ImageRef) -> str:
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
    remedy = "or raise max_unreadable to go on without them"
    raise DataError(f"{str(spec)!r}: {share}; first {first.name!r}: {first.reason}, {remedy}")


def _explain_no_images(spec: str | Path, skipped: tuple[Skipped, ...]) -> DataError:
    remedy = "pass a folder or .zip of images, or builtin:photos"
    if skipped:
        first = skipped[0]
        remedy = f"{len(skipped)} refused, first {first.name!r}: {first.reason}"
    return DataError(f"{str(spec)!r}: holds no images (PNG, JPEG, WEBP, BMP, TIFF, GIF, PPM); {remedy}")
