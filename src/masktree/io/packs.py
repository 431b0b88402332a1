"""Collections that are packed: folders of tar files, and photographs at paths that a tar file stands for."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from masktree.errors import InputError
from masktree.io.photos import Photo, find_photos
from masktree.io.stored import check_names, find_stored


def find_in_folder(folder: Path) -> tuple[list[Photo], list[dict[str, str]]]:
    """The photographs of a folder and failures, as ``find_photos``; where it has none, those in the tar files directly
    in it, each named as if its tar file were unpacked there (``find_stored``).

    Raises:
        InputError: as ``find_photos`` and ``find_stored``; also where there is neither.
    """
    has_packs = next(folder.glob("*.tar"), None) is not None
    try:
        photos, failures = find_photos([folder])
    except InputError:
        if not has_packs:
            raise
        photos, failures = [], []
    if photos or not has_packs:
        return photos, failures
    _, packed, unread = find_stored(f"{glob.escape(str(folder))}/*.tar")
    check_names(packed)
    return packed, failures + unread


@contextmanager
def local_photo(path: Path) -> Iterator[Path]:
    """A file with the photograph at a path, or with that of the tar file which stands for one of its folders:
    a/b.jpg of a.tar. There is none if neither is there."""
    packed = None if path.exists() else _find_packed(path)
    if packed is None:
        yield path
        return
    with packed.local() as file:
        yield file


def _find_packed(path: Path) -> Photo | None:
    for folder in path.parents:
        if folder.name and (pack := folder.with_name(f"{folder.name}.tar")).is_file():
            return _photos_by_path(str(pack)).get(path)
    return None


@cache
def _photos_by_path(pack: str) -> dict[Path, Photo]:
    """Where the members of a tar file are; its headers are read once in each process."""
    return {photo.path: photo for photo in find_stored(pack)[1]}
