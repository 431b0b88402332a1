"""What lies at a path, in words for messages: people give a folder of photographs where a label set is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from masktree.errors import InputError
from masktree.io.photos import IMAGE_SUFFIXES

_HEAD = 512  # bytes of a JSON file that hold its format (our choice)
_MAX_ENTRIES = 1000  # of a folder that are looked at, so that a message takes no minutes (our choice)
_IMAGE = "an image"
_FORMAT = re.compile(rb'"format":\s*"(masktree[a-z-]*)"')
_NAMES = {
    "masktree": "trees of masktree segment",
    "masktree-labels": "a label set",
    "masktree-model": "a trained model of masktree train",
}


def describe_contents(path: Path) -> str:
    """What is at a path, for "expected ...; got ...": nothing, an image, an empty folder, a label set, a trained model,
    trees, images, or another file or folder. Reads the beginnings of at most ``_MAX_ENTRIES`` files."""
    if not path.exists():
        return f"nothing at {path}"
    if path.is_file():
        return f"{_describe_file(path)} at {path}"
    files = [entry for entry in islice(path.rglob("*"), _MAX_ENTRIES) if entry.is_file()]
    known = name_contents(path) or _most_telling(files)
    if known is None:
        known = "a folder of other files" if any(not file.name.startswith(".") for file in files) else "an empty folder"
    return f"{known} at {path}"


def name_contents(folder: Path) -> str | None:
    """What masktree has written directly into a folder, or "images"; None for neither, and where there is no folder."""
    return _most_telling(islice(folder.iterdir(), _MAX_ENTRIES)) if folder.is_dir() else None


def _most_telling(files: Iterable[Path]) -> str | None:
    kinds = {name_file(file) for file in files if file.is_file()}
    known = next((kind for kind in _NAMES.values() if kind in kinds), None)
    return known or ("images" if _IMAGE in kinds else None)


def check_photo_folder(folder: Path) -> None:
    """Raise InputError unless there is a folder at a path given as that of the photographs."""
    if not folder.is_dir():
        raise InputError(f"expected the folder of the photographs; got {describe_contents(folder)}; check the path")


def name_file(path: Path) -> str | None:
    """What masktree's file at a path belongs to, or "an image"; None for another file. Reads its beginning."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _IMAGE
    if suffix != ".json":
        return None
    with path.open("rb") as handle:
        found = _FORMAT.search(handle.read(_HEAD))
    return _NAMES.get(found[1].decode()) if found else None


def _describe_file(path: Path) -> str:
    name = name_file(path)
    if name is None:
        return "a JSON file" if path.suffix.lower() == ".json" else "a file"
    return name if name == _IMAGE else f"the file of {name}"
