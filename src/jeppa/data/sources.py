"""Sources of images: a folder, a zip archive, shards (`jeppa.data.shards`), or `builtin:photos`.

Opening a source checks its images. If there are at most `FULL_CHECK_FILES` of at most `FULL_CHECK_BYTES` together,
every image is decoded, and its whole content enters the fingerprint. Larger sources would take too long: there only the
headers are parsed and the first and last bytes of each file are hashed. If such a file is damaged after its header, the
first attempt to decode it raises a `DataError` that names it. What a process has checked once it does not check again
while the name, size and times of the file stay.
"""

import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jeppa.config import DataConfig
from jeppa.data.decode import FORMATS, open_header, read_pixels
from jeppa.data.listing import ImageRef, Listing, Skipped, is_builtin, list_builtin, list_folder, list_zip
from jeppa.data.shards import find_shards, list_shards
from jeppa.data.splits import Split, choose_candidates, split_by_hash
from jeppa.errors import ConfigError, DataError

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
class Splits:
    """The two sources of a run: what it is trained on, and what its sample sheets show."""

    train: ImageSource
    heldout: ImageSource


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
    return _open_split(spec, _list_images(spec, names_encoding), split, max_unreadable)


def _open_split(spec: str | Path, listing: Listing, split: Split, max_unreadable: float) -> ImageSource:
    if not listing.refs:
        raise _explain_no_images(spec, listing.skipped)
    candidates = choose_candidates(spec, listing.refs, split)
    checked = _check_images(candidates.refs)
    _refuse_unreadable(spec, len(candidates.refs), checked.unreadable, max_unreadable)
    if checked.unreadable and not checked.hashes:
        first = checked.unreadable[0]
        count = f"none of {len(candidates.refs)} images can be read"
        raise DataError(f"{str(spec)!r}: {count}; first {first.name!r}: {first.reason}")
    good = tuple(checked.hashes)
    if candidates.still_to_split:
        good = split_by_hash(good, split)
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


def open_splits(config: DataConfig) -> Splits:
    """Both splits that the settings of a run name, from one listing: that of many files takes seconds.

    Raises:
        DataError, ConfigError: as `open_source`, for the training images first.
    """
    if config.heldout != "auto":
        whole = open_data(config, "all")
        return Splits(whole, whole)
    listing = _list_images(config.data, config.names_encoding)
    train = _open_split(config.data, listing, "train", config.max_unreadable)
    return Splits(train, _open_split(config.data, listing, "heldout", config.max_unreadable))


def _list_images(spec: str | Path, names_encoding: str | None) -> Listing:
    if is_builtin(spec):
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
