"""Files of other tools, of the trees with their edits."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.export.formats import FORMATS
from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.serve.folder import Entry
from masktree.stages.export import numbered, suffix_of
from masktree.stages.export_sources import SavedMasks

_TUPLES = ("levels", "granularity_range", "granularities")


def formats() -> list[dict[str, str]]:
    """The formats, as the list of images tells them."""
    return [
        {"name": name, "help": entry.summary, "extension": entry.suffix if entry.scope == "image" else ".zip"}
        for name, entry in FORMATS.items()
    ]


def saved_masks(entries: Sequence[Entry], to: str) -> list[SavedMasks]:
    """Images as the export stage takes them.

    Raises:
        InputError: unknown format.
    """
    if to not in FORMATS:
        raise InputError(f"expected a format of {', '.join(FORMATS)}; got {to[:40]!r}")
    saved = [
        SavedMasks(entry.tree, entry.name, entry.label, entry.photo, number)
        for number, entry in enumerate(entries, start=1)
    ]
    return numbered(saved) if FORMATS[to].is_numbered else saved


def read_options(given: Mapping[str, Any]) -> ExportOptions:
    """Options of a request.

    Raises:
        InputError: unknown names, or values out of range.
    """
    known = ExportOptions().record()
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise InputError(f"expected options of {', '.join(known)}; got {str(unknown[0])[:40]}; leave it out")
    for name, value in given.items():
        if isinstance(value, bool) != isinstance(known[name], bool) or (
            not isinstance(value, (int, float)) and not isinstance(value, type(known[name]))
        ):
            raise InputError(f"expected {name} as {type(known[name]).__name__}; got {str(value)[:40]}")
    values: dict[str, Any] = {name: tuple(value) if name in _TUPLES else value for name, value in given.items()}
    if len(values.get("granularity_range", (0, 1))) != 2:
        raise InputError("expected granularity_range as two numbers; got another count; mend the request")
    try:
        return ExportOptions(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("expected options of export; got values of another type; mend the request") from error


def write(images: Iterator[LabelledImage], to: str, options: ExportOptions, folder: Path) -> Path:
    """Write images in a format below ``folder``; returns the file, a zip archive if there are several.

    Raises:
        InputError: an image that the format cannot hold.
    """
    entry, content = FORMATS[to], folder / "content"
    content.mkdir()
    suffix = suffix_of(to, options)
    selected = (options.select(image) if entry.cuts is None else image for image in images)
    if entry.scope == "image":
        for image in selected:
            path = content / f"{image.name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            entry.write(image, path, options)
    else:
        target = content / f"masks{suffix}" if entry.scope == "file" else content
        entry.write(_prepared(selected, to, options), target, options)
    files = sorted(path for path in content.rglob("*") if path.is_file())
    return files[0] if len(files) == 1 else _zipped(files, content, folder / f"{to}.zip")


def _prepared(images: Iterator[LabelledImage], to: str, options: ExportOptions) -> Iterator[Any]:
    for image in images:
        yield FORMATS[to].prepare(image, options)


def _zipped(files: Sequence[Path], root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as handle:
        for path in files:
            handle.write(path, path.relative_to(root).as_posix())
    return archive
