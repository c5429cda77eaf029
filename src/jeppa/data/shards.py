"""Lists the images of data sets that come in shards: webdataset tars, parquet files, and folders that `datasets` saved.

Nothing is unpacked. Of a tar the headers are read, once, and then each image by its place; of a parquet file the
column of labels is read, and then one group of rows at a time. A path may be any that fsspec opens, such as
`s3://...` or `https://...`, and may have `*` and `{000..099}` in it. A shard that cannot be read, or is cut off, is
left out and named.

Labels become folders of the names, so that splits and classes are those of a folder of images: the label of a tar is
its `cls` member, that of a table the column `label`. Tables called `train-...` and `test-...` are splits.

Images of remote shards and of tables are not opened before they are needed, so their damage shows only then.
"""

import io
import json
import re
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from jeppa.data.decode import MAX_FILE_BYTES, one_line
from jeppa.data.kinds import IMAGE_SUFFIXES, suffix_of
from jeppa.data.listing import ImageRef, Listing, Skipped, Stamp, is_hidden, leaves_archive
from jeppa.errors import ConfigError, DataError

TAR, PARQUET = ".tar", ".parquet"
SAVED_BY_DATASETS = "state.json"
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label")
SPLIT_NAMES = ("train", "validation", "val", "test")
KEPT_GROUPS = 4
"""Groups of rows that a process keeps in memory."""


def find_shards(spec: str) -> list[str]:
    """The shards that a path means, in order; empty where it means none.

    Raises:
        ConfigError: the path needs a package that is not installed.
    """
    if "://" in spec:
        _require_package("fsspec", spec)
        return [path for one in _expand(spec) for path in _glob_remote(one)] if _is_shard(spec) else []
    path = Path(spec)
    if path.is_dir():
        inside = sorted(str(one) for one in path.rglob("*") if _is_shard(one.name) and not is_hidden(one.name))
        saved = path / SAVED_BY_DATASETS
        return [str(path)] if saved.is_file() and (path / "dataset_info.json").is_file() else inside
    if not _is_shard(spec):
        return []
    return [str(found) for one in _expand(spec) for found in _glob_here(Path(one))]


def list_shards(spec: str, shards: list[str]) -> Listing:
    """List the images of shards, in order of name; what cannot be read is among the skipped.

    Raises:
        ConfigError: a package that reads them is not installed.
        DataError: a table has no column of images; or no shard can be read.
    """
    refs: list[ImageRef] = []
    skipped: list[Skipped] = []
    lost = 0
    for number, shard in enumerate(shards):
        try:
            listed = [replace(ref, shard=number) for ref in _list_shard(shard)]
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            skipped.append(Skipped(shard, f"the shard is cut off or damaged ({one_line(error)})"))
            lost += 1
            continue
        refs += [ref for ref in listed if not leaves_archive(ref.name)]
        skipped += [Skipped(ref.name, "its name leaves the archive") for ref in listed if leaves_archive(ref.name)]
    if skipped and not refs:
        raise DataError(f"{spec!r}: none of {len(shards)} shards can be read; first {shards[0]!r}: {skipped[0].reason}")
    notes = (f"{lost} of {len(shards)} shards are left out, listed below",) if lost else ()
    return Listing(tuple(sorted(_distinguish(refs, shards), key=lambda ref: ref.name)), tuple(skipped), notes)


def _list_shard(shard: str) -> Iterable[ImageRef]:
    if shard.endswith(TAR):
        return list(_list_tar(shard))
    return list(_list_parquet(shard) if shard.endswith(PARQUET) else _list_saved(shard))


def _distinguish(refs: list[ImageRef], shards: list[str]) -> Iterator[ImageRef]:
    """Put the name of the shard before that of an image which two shards have."""
    counts = Counter(ref.name for ref in refs)
    for ref in refs:
        folder, _, name = ref.name.rpartition("/")
        own = f"{Path(shards[ref.shard]).stem}-{name}"
        yield replace(ref, name=f"{folder}/{own}" if folder else own) if counts[ref.name] > 1 else ref


def _is_shard(name: str) -> bool:
    return name.endswith((TAR, PARQUET))


def _expand(spec: str) -> list[str]:
    """Every path that `{000..099}` and `{a,b}` stand for."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", spec)
    if found is None:
        return [spec]
    first, last, names = found.groups()
    inner = names.split(",") if names else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [path for one in inner for path in _expand(spec[: found.start()] + one + spec[found.end() :])]


def _glob_here(path: Path) -> list[Path]:
    return sorted(path.parent.glob(path.name)) if "*" in path.name else [path]


def _glob_remote(url: str) -> list[str]:
    import fsspec

    if "*" not in url:
        return [url]
    files, path = fsspec.core.url_to_fs(url)
    return sorted(files.unstrip_protocol(one) for one in files.glob(path))


def _open_path(path: str) -> IO[bytes]:
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    stream: IO[bytes] = fsspec.open(path, "rb").open()
    return stream


def _list_tar(shard: str) -> Iterator[ImageRef]:
    with _open_path(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        members = [member for member in tar if member.isfile() and not is_hidden(member.name)]
        stream.seek(tar.offset)  # tarfile takes a header that is cut off for the end
        if not members or stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end" if members else "it is empty")
        classes = {_shard_key(one.name): _read_class(stream, one) for one in members if suffix_of(one.name) == ".cls"}
    for member in members:
        if suffix_of(member.name) not in IMAGE_SUFFIXES or not 0 < member.size <= MAX_FILE_BYTES:
            continue
        label = classes.get(_shard_key(member.name))
        name = member.name if label is None else f"{label}/{member.name.rpartition('/')[2]}"
        stamp = None if "://" in shard else _stamp(shard, member.offset_data, member.size)
        opener = partial(_open_slice, shard, member.offset_data, member.size)
        yield ImageRef(name, None, member.size, opener, stamp, checked="://" in shard)


def _shard_key(name: str) -> str:
    """What the members of a sample have in common: all up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _read_class(stream: IO[bytes], member: tarfile.TarInfo) -> str:
    stream.seek(member.offset_data)
    return _as_folder(stream.read(min(member.size, 255)).decode("utf-8", "replace"))


def _as_folder(label: object) -> str:
    return re.sub(r"[/\\\0]", "-", str(label)).strip() or "-"


def _stamp(shard: str, offset: int, size: int) -> Stamp:
    status = Path(shard).stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return Stamp(f"{Path(shard).absolute()}\0{offset}", size, status.st_mtime_ns, changed)


def _open_slice(shard: str, offset: int, size: int) -> IO[bytes]:
    with _open_path(shard) as stream:
        stream.seek(offset)
        data = stream.read(size)
    if len(data) != size:
        raise OSError(f"the shard {shard} is cut off")
    return io.BytesIO(data)


def _list_parquet(shard: str) -> Iterator[ImageRef]:
    _require_package("pyarrow", shard)
    from pyarrow import ArrowException, parquet

    try:
        with _open_path(shard) as stream:
            file = parquet.ParquetFile(stream)
            image, label = _find_columns(shard, file.schema_arrow)
            names = _class_names(file.schema_arrow.metadata, label)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            labels = [None] * sum(counts) if label is None else file.read([label])[label].to_pylist()
    except ArrowException as error:
        raise ValueError(one_line(error)) from error
    places = ((group, row) for group, count in enumerate(counts) for row in range(count))
    for index, (group, row) in enumerate(places):
        opener = partial(_open_cell, shard, image, group, row)
        yield _table_ref(shard, index, labels[index], names, opener)


def _list_saved(folder: str) -> Iterator[ImageRef]:
    _require_package("datasets", folder)
    import datasets

    table = datasets.load_from_disk(folder)
    image, label = _find_columns(folder, table.data.schema)
    names = getattr(table.features.get(label), "names", None) if label else None
    labels = [None] * len(table) if label is None else table[label]
    for index, value in enumerate(labels):
        yield _table_ref(folder, index, value, names, partial(_open_saved, folder, image, index))


def _table_ref(
    shard: str, index: int, label: Any, names: list[str] | None, opener: Callable[[], IO[bytes]]
) -> ImageRef:
    stem = Path(shard).stem
    role = next((name for name in SPLIT_NAMES if re.match(rf"{name}(?![a-z])", stem.casefold())), None)
    known = names[label] if names is not None and isinstance(label, int) and 0 <= label < len(names) else label
    parts = [role, None if known is None else _as_folder(known), f"{stem}-{index:09d}"]
    return ImageRef("/".join(part for part in parts if part), None, MAX_FILE_BYTES, opener, None, checked=True)


def _find_columns(shard: str, schema: Any) -> tuple[str, str | None]:
    """The column of images, binary or with `bytes` in it, and that of labels."""
    from pyarrow import types

    def holds_images(field: Any) -> bool:
        kind = field.type
        if types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = [field.name for field in schema if holds_images(field)]
    if not found:
        columns = ", ".join(schema.names[:8])
        raise DataError(
            f"{shard!r}: has no column of images, only {columns}; give the bytes of each in a column 'image'"
        )
    image = next((name for name in IMAGE_COLUMNS if name in found), found[0])
    return image, next((name for name in LABEL_COLUMNS if name in schema.names), None)


def _class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    """The names of numbered classes, where `datasets` wrote them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label].get("names")
        return [str(name) for name in names] if names else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


_groups: OrderedDict[tuple[str, str, int], list[Any]] = OrderedDict()


def _open_cell(shard: str, column: str, group: int, row: int) -> IO[bytes]:
    key = (shard, column, group)
    if key not in _groups:
        from pyarrow import parquet

        with _open_path(shard) as stream:
            _groups[key] = parquet.ParquetFile(stream).read_row_group(group, [column])[column]
        while len(_groups) > KEPT_GROUPS:
            _groups.popitem(last=False)
    return _as_stream(_groups[key][row].as_py())


def _open_saved(folder: str, column: str, index: int) -> IO[bytes]:
    key = (folder, column, -1)
    if key not in _groups:
        import datasets

        _groups[key] = datasets.load_from_disk(folder).data[column]
    return _as_stream(_groups[key][index].as_py())


def _as_stream(value: Any) -> IO[bytes]:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        return open(value["path"], "rb")
    if not isinstance(data, bytes):
        raise OSError("the row has no image")
    return io.BytesIO(data)


def _require_package(name: str, path: str) -> None:
    if find_spec(name) is None:
        raise ConfigError(f"{path}: needs {name}: pip install 'jeppa[scale]'")
