"""Packs of SA-1B: tar files with a photograph and a JSON file for each image, read without being unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from masktree.coco.file import CocoImage, open_sa1b
from masktree.errors import FormatError
from masktree.io.files import is_relative_path

SUFFIX = ".tar"


def find_packs(path: Path) -> list[Path]:
    """The tar file at a path, or those directly in a folder, sorted."""
    if path.is_file():
        return [path] if path.suffix == SUFFIX else []
    return sorted(path.glob(f"*{SUFFIX}"))


def read_pack(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, CocoImage]]:
    """The images of a pack with their names, in its order: NAME/sa_1.jpg of NAME.tar, as ``find_stored`` has them.

    Members of an uncompressed tar file are ranges of its bytes, so that annotations are read from where they stand.

    Args:
        path: the tar file.
        is_wanted: whether an image of that name is read; its file is not looked at otherwise.

    Raises:
        FormatError: no tar file, a compressed one, or a damaged member.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if _is_annotation(member)]
    except tarfile.TarError as error:
        raise FormatError(
            f"{path}: expected a pack of SA-1B, a tar file that is not compressed; got another ({error}); download it "
            "again"
        ) from error
    for member in members:
        inner = PurePosixPath(path.name.removesuffix(SUFFIX)) / PurePosixPath(member.name)
        if not is_wanted(inner.with_suffix(".jpg").as_posix()):
            continue
        try:
            image = open_sa1b(path, member.offset_data, member.size)
        except FormatError as error:
            raise FormatError(f"{member.name} in {error}") from error
        yield (inner.parent / image.file_name).as_posix(), image


def _is_annotation(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    is_json = path.suffix == ".json" and not path.name.startswith(".")
    return is_json and member.isfile() and is_relative_path(member.name)
