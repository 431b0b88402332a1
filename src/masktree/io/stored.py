"""Photographs that are no files of their own: members of tar files, rows of Parquet files, objects at addresses.

They are found without reading their pixels, and read one at a time into a temporary file.
"""

from __future__ import annotations

import glob
import itertools
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from masktree.errors import ImageError, InputError, MasktreeError
from masktree.io.files import is_relative_path
from masktree.io.photos import IMAGE_SUFFIXES, RESERVED_NAMES, Photo

_IMAGE_COLUMNS = ("image", "bytes", "jpg", "png")  # of Parquet files: as of Hugging Face data sets, of WebDataset


@dataclass(frozen=True)
class StoredPhoto(Photo):
    """A photograph within a container.

    Attributes:
        path: stands for it below the folder of the containers: NAME/MEMBER of NAME.tar. There is no such file.
        name: of its outputs.
        container: path or address of the tar file, the Parquet file or the object itself.
        member: its name or row within the container; "" where it is the container.
        start: of a tar member the position of its first byte; of a Parquet file the row.
        num_bytes: of a tar member, else None.
    """

    container: str
    member: str = ""
    start: int = 0
    num_bytes: int | None = None

    @property
    def location(self) -> str:
        return f"{self.container}/{self.member}" if self.member else self.container

    @contextmanager
    def local(self) -> Iterator[Path]:
        data = self._read()
        with tempfile.TemporaryDirectory(prefix="masktree-") as folder:
            file = Path(folder) / f"photo{self.path.suffix}"
            file.write_bytes(data)
            yield file

    def _read(self) -> bytes:
        if self.container.endswith(".parquet"):
            with _as_os_error(self.container):
                return _read_row(self.container, self.start)
        return read_binary(self.container, self.start, self.num_bytes)


def is_stored(source: str) -> bool:
    """Whether photographs of a source are found by ``find_stored``: an address, a tar or Parquet file, a list."""
    return "://" in source or source.endswith((".tar", ".parquet", ".txt"))


def find_stored(source: str) -> tuple[str, list[Photo], list[dict[str, str]]]:
    """The photographs of a source in sorted order, with what ``find_photos`` returns of failures.

    Args:
        source: a tar file (as of WebDataset) or Parquet file, a glob of those, a list (``*.txt``: a path or an address
            in each line, relative to the list), or an address of fsspec (``s3://``, ``gs://``, ``https://``, ...) of
            one of those, of an image, or of a folder of images.

    Returns:
        (folder or address that the photographs are below, photographs, failures).

    Raises:
        InputError: nothing there, no image, or a package that is missing for it.
    """
    containers = _expand(source)
    found: list[tuple[str, Photo]] = []
    failures: list[dict[str, str]] = []
    root = _root(source, containers)
    for container in containers:
        try:
            with _as_os_error(container):
                found += [(photo.location, photo) for photo in _members(container, root)]
        except (OSError, tarfile.TarError) as error:
            failures.append({"path": container, "error": f"cannot read it: {error}"})
    photos = list({photo.path: photo for _, photo in sorted(found, key=lambda pair: pair[0])}.values())
    if not photos and not failures:
        raise InputError(f"expected images in {source}; got none; see the formats that are read")
    return root, photos, failures


def check_names(photos: Sequence[Photo]) -> None:
    """Raise InputError if two photographs would write to one name, or one to that of a record."""
    by_name: dict[str, Photo] = {}
    for photo in photos:
        other = by_name.setdefault(photo.name, photo)
        if other is not photo or photo.name.lower() in RESERVED_NAMES:
            raise InputError(
                f"expected one output name per image; {other.location} and {photo.location} would both write "
                f"{photo.name}.json, or it is that of a record; rename one, or give them in two runs"
            )


def open_binary(location: str) -> IO[bytes]:
    """Open a path, or an address by fsspec, for reading.

    Raises:
        InputError: fsspec or its package for the kind of address is not installed.
        OSError: it cannot be read.
    """
    if "://" not in location:
        return open(location, "rb")
    system, path = _file_system(location)
    with _as_os_error(location):
        return system.open(path, "rb")


def read_binary(location: str, start: int = 0, num_bytes: int | None = None) -> bytes:
    """A part of a file at a path or an address, or all of it.

    Raises:
        InputError, OSError: as ``open_binary``.
        ImageError: the part is not in it.
    """
    if "://" not in location:
        with open(location, "rb") as handle:
            handle.seek(start)
            data = handle.read(-1 if num_bytes is None else num_bytes)
    else:
        system, path = _file_system(location)
        part = {} if num_bytes is None else {"start": start, "end": start + num_bytes}
        with _as_os_error(location):
            data = system.cat_file(path, **part)  # ``open`` would read megabytes ahead
    if num_bytes is not None and len(data) > num_bytes:
        raise OSError(
            f"expected {num_bytes} bytes from {location}; got {len(data)}, as its server sends whole files only; "
            "download it and give the file"
        )
    if num_bytes is not None and len(data) < num_bytes:
        raise ImageError(f"expected {num_bytes} bytes; got {len(data)}; the tar file is cut off")
    return data


def _file_system(location: str) -> tuple[Any, str]:
    kind = location.partition("://")[0]
    try:
        import fsspec

        return fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise InputError(
            f"expected the package that reads {kind}:// addresses; got none ({error}); install it: pip install "
            f"{'fsspec' if error.name == 'fsspec' else _package(kind)}"
        ) from error
    except ValueError as error:
        raise InputError(f"expected an address that fsspec knows, such as s3:// or https://; got {location}") from error


def _package(kind: str) -> str:
    """What is installed beside fsspec to read a kind of address."""
    from fsspec.registry import known_implementations

    module: str = known_implementations[kind]["class"].partition(".")[0]
    return f"'fsspec[{kind.replace('https', 'http')}]'" if module == "fsspec" else module


@contextmanager
def _as_os_error(location: str) -> Iterator[None]:
    """Whatever the clients of stores raise for an address as an OSError: it says nothing of the image."""
    try:
        yield
    except (OSError, MasktreeError, tarfile.TarError):
        raise
    except Exception as error:
        if "://" not in location:
            raise
        raise OSError(f"cannot read {location}: {type(error).__name__}: {error}") from error


def _expand(source: str) -> list[str]:
    """The containers of a source, sorted: of a glob or a folder at an address all that there are."""
    if "://" not in source:
        found = sorted(glob.glob(source)) if glob.has_magic(source) else [source] * os.path.isfile(source)
    elif source.lower().endswith((".tar", ".parquet", ".txt", *IMAGE_SUFFIXES)) and not glob.has_magic(source):
        found = [source]
    else:
        system, path = _file_system(source)
        with _as_os_error(source):
            names = system.glob(path) if glob.has_magic(path) else system.find(path)
        found = sorted(system.unstrip_protocol(name) for name in names)
    if not found:
        raise InputError(f"expected images, or a tar, Parquet or list of them; got nothing at {source}")
    return found


def _root(source: str, containers: list[str]) -> str:
    """What the names of photographs are below: the folder of a file, the folders of a glob before its first wildcard,
    or the folder at an address."""
    if containers == [source]:
        return _parent(source)
    folder = source
    if "://" in source:
        system, path = _file_system(source)
        folder = str(system.unstrip_protocol(path))
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), folder.rstrip("/").split("/"))) or "."


def _members(container: str, root: str) -> Iterator[Photo]:
    if container.endswith(".tar"):
        yield from _tar_members(container, root)
    elif container.endswith(".parquet"):
        stem = _below(container, root).removesuffix(".parquet")
        for row in range(_parquet(container).metadata.num_rows):
            name = f"{stem}/{row:08d}"
            yield StoredPhoto(Path(root) / name, name, container, f"{row:08d}", row)
    elif container.endswith(".txt"):
        lines = read_binary(container).decode("utf-8", "surrogateescape").splitlines()
        for line in filter(None, map(str.strip, lines)):
            item = line if "://" in line or os.path.isabs(line) else f"{_parent(container)}/{line}"
            if is_stored(item) and not item.lower().endswith(tuple(IMAGE_SUFFIXES)):
                for inner in _expand(item):
                    yield from _members(inner, _parent(inner))
            else:
                yield _single(item, root)
    elif PurePosixPath(container).suffix.lower() in IMAGE_SUFFIXES:
        yield _single(container, root)


def _single(location: str, root: str) -> Photo:
    name = _below(location, root)
    stem = name.removesuffix(PurePosixPath(name).suffix)
    if "://" in location:
        return StoredPhoto(Path(root) / name, stem, location)
    return Photo(Path(location), stem)


def _tar_members(container: str, root: str) -> Iterator[StoredPhoto]:
    stem = _below(container, root).removesuffix(".tar")
    with open_binary(container) as handle, tarfile.open(fileobj=handle, mode="r:") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if is_relative_path(member.name):
                name = PurePosixPath(stem) / path
                place = (container, member.name, member.offset_data, member.size)
                yield StoredPhoto(Path(root) / name, os.fspath(name.with_suffix("")), *place)


def _parent(location: str) -> str:
    return location.rpartition("/")[0] or "."


def _below(location: str, root: str) -> str:
    """The path of a location below a root; of one elsewhere its own path, without what leads out of a folder."""
    inner = location.removeprefix(f"{root}/") if root != "." else location
    inner = inner.partition("://")[2] if "://" in inner else inner
    return "/".join(part for part in PurePosixPath(inner).parts if part not in ("/", ".."))


@lru_cache(maxsize=1)
def _parquet(container: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"expected pyarrow for Parquet; got none ({error}); install it: pip install '.[parquet]'"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(open_binary(container))
    except pyarrow.lib.ArrowInvalid as error:
        raise InputError(f"expected a Parquet file; got {container}, which is none ({error})") from error


@lru_cache(maxsize=1)
def _column(container: str, group: int) -> Any:
    """The images of a row group, which is read as a whole; rows that follow each other share it."""
    file = _parquet(container)
    names = [name for name in _IMAGE_COLUMNS if name in file.schema_arrow.names]
    if not names:
        raise InputError(
            f"expected a column {' or '.join(_IMAGE_COLUMNS)} in {container}; got {', '.join(file.schema_arrow.names)}"
        )
    return file.read_row_group(group, columns=names[:1]).column(0)


def _read_row(container: str, row: int) -> bytes:
    metadata, group = _parquet(container).metadata, 0
    while row >= metadata.row_group(group).num_rows:
        row -= metadata.row_group(group).num_rows
        group += 1
    value = _column(container, group)[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ImageError(f"expected the bytes of an image; got {type(value).__name__}")
    return value
