"""Reading a COCO file: its images, and the annotations of each image when they are asked for."""

from __future__ import annotations

import reprlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from masktree.coco.json_entries import JsonEntry, read_entries
from masktree.coco.masks import REMEDY, has_segmentation
from masktree.errors import FormatError
from masktree.io.files import is_relative_path, parse_json

Annotation = dict[str, Any]
AnnotationCheck = Callable[[Annotation, str], None]  # (annotation, where); raises FormatError


@dataclass(frozen=True, eq=False)
class CocoImage:
    """An image of a COCO file, and where in the file its annotations stand. Picklable, so that workers can read them.

    Attributes:
        path: the file.
        id: image id.
        record: its entry of ``images``; empty in a file of results, which has none.
        spans: (n, 2) int64 first byte and the one after the last of each annotation, in the file's order.
    """

    path: Path
    id: int
    record: dict[str, Any]
    spans: np.ndarray

    def __len__(self) -> int:
        """Number of annotations."""
        return len(self.spans)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.record["height"], self.record["width"]

    @property
    def file_name(self) -> str:
        """The image's file as a POSIX path; paths of Windows have slashes for their backslashes.

        Raises:
            FormatError: there is none, or it climbs out of its folder.
        """
        value = self.record.get("file_name")
        if isinstance(value, str) and "/" not in value:
            value = value.replace("\\", "/")
        if not isinstance(value, str) or not is_relative_path(value.lstrip("/")):
            raise FormatError(
                f"{self.path}, image {self.id}: expected a file_name below some folder; got {reprlib.repr(value)}; "
                f"{REMEDY}"
            )
        return PurePosixPath(value).as_posix()

    def __str__(self) -> str:
        """File and image, for messages."""
        name = self.record.get("file_name")
        return f"{self.path}, image {self.id}" + (f" ({name})" if name else "")

    def annotations(self) -> list[Annotation]:
        """The annotations, in the file's order.

        Raises:
            FormatError: the file was changed after it was opened.
        """
        annotations = []
        with self.path.open("rb") as handle:
            for start, end in self.spans.tolist():
                annotation = _read_object(handle, start, end, self.path)
                if annotation.get("image_id", self.id) != self.id:
                    raise FormatError(f"{self.path}: expected an unchanged file; got another since; run it again")
                annotations.append(annotation)
        return annotations


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A COCO file, checked as far as ids, sizes and references of its entries go; masks are read later.

    Attributes:
        path: the file.
        images: in the file's order; ids are unique, width and height positive. In a file of results: those that
            have results.
        is_results: whether the file is a list of results, without records of images.
        has_masks: whether an annotation has a segmentation, or there is no annotation.
    """

    path: Path
    images: list[CocoImage]
    is_results: bool
    has_masks: bool

    @property
    def num_annotations(self) -> int:
        return sum(map(len, self.images))

    @classmethod
    def open(cls, path: Path, check: AnnotationCheck | None = None) -> CocoFile:
        """Index a file, in one pass and 24 bytes an annotation.

        Args:
            path: a file with ``images`` and ``annotations``, or a list of results.
            check: called with each annotation and where it stands.

        Raises:
            InputError: no such file.
            FormatError: damaged JSON, an entry lacks what it must have, an image twice, an annotation of an unknown
                image.
        """
        image_spans: list[tuple[int, int]] = []
        columns = (array("q"), array("q"), array("q"))
        lists: set[str] = set()
        has_masks = False
        for entry in read_entries(path):
            if entry.key not in ("", "images", "annotations"):
                continue
            lists.add(entry.key)
            if not _is_record(entry, path):
                continue
            if entry.key == "images":
                image_spans.append((entry.start, entry.end))
                continue
            annotation: Annotation = entry.value
            number = f"annotation {annotation['id']}" if "id" in annotation else f"entry {entry.position}"
            where = f"{path}, image {annotation.get('image_id')}, {number}"
            image_id = read_integer(annotation, "image_id", where)
            if check is not None:
                check(annotation, where)
            for column, value in zip(columns, (image_id, entry.start, entry.end), strict=True):
                column.append(value)
            has_masks = has_masks or has_segmentation(annotation)
        with path.open("rb") as handle:
            records = [_read_object(handle, start, end, path) for start, end in image_spans]
        for record in records:
            check_image(record, path)
        is_results = "" in lists
        for key in ("images", "annotations"):
            if not is_results and key not in lists:
                raise FormatError(f"{path}: expected a list of records {key!r} as COCO has it; got none; {REMEDY}")
        images = _group(path, records, columns, is_results)
        return cls(path, images, is_results, has_masks or not columns[0])


def open_sa1b(path: Path, start: int = 0, size: int | None = None) -> CocoImage:
    """The image of an SA-1B file, which has ``image`` (with ``image_id``) and ``annotations``
    (github.com/facebookresearch/segment-anything, "Dataset").

    Args:
        path, start, size: the file, or the bytes of another one that hold it, see ``read_entries``.

    Raises:
        InputError: no such file.
        FormatError: damaged, or another kind of file.
    """
    record: dict[str, Any] | None = None
    spans: list[tuple[int, int]] = []
    has_annotations = False
    for entry in read_entries(path, start, size):
        if entry.key == "image" and isinstance(entry.value, dict):
            with path.open("rb") as handle:
                record = _read_object(handle, entry.start, entry.end, path)
        elif entry.key == "annotations":
            has_annotations = True
            if _is_record(entry, path):
                spans.append((entry.start, entry.end))
    if record is None or not has_annotations:
        raise FormatError(f"{path}: expected image and annotations as SA-1B has them; got others; {REMEDY}")
    check_image(record, path, id_key="image_id")
    return CocoImage(path, record["image_id"], record, np.array(spans, np.int64).reshape(-1, 2))


def check_image(record: dict[str, Any], path: Path, id_key: str = "id") -> None:
    """Raise FormatError unless an image has an id and a size that run lengths can have."""
    where = f"{path}, image {record.get(id_key)} ({record.get('file_name')})"
    read_integer(record, id_key, where)
    height, width = read_integer(record, "height", where), read_integer(record, "width", where)
    if height < 1 or width < 1 or height * width >= 2**31:
        raise FormatError(
            f"{where}: expected a size of at least 1 x 1 and fewer than 2^31 pixels; "
            f"got {height} x {width} (height, width); {REMEDY}"
        )


def read_integer(record: dict[str, Any], key: str, where: str) -> int:
    """A whole number of a record. Raises FormatError that begins with ``where``."""
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**62:
        got = reprlib.repr(value) if key in record else "none"
        raise FormatError(f"{where}: expected a whole number {key!r}; got {got}; {REMEDY}")
    return value


def _group(
    path: Path, records: list[dict[str, Any]], columns: tuple[array[int], ...], is_results: bool
) -> list[CocoImage]:
    """Sort the annotations by image."""
    ids, starts, ends = (np.frombuffer(column, np.int64) if column else np.zeros(0, np.int64) for column in columns)
    known = [record["id"] for record in records]
    if len(set(known)) < len(known):
        twice = next(number for index, number in enumerate(known) if number in known[:index])
        raise FormatError(f"{path}, image {twice}: expected each image id once; got it twice; {REMEDY}")
    if is_results:
        known = ids[np.sort(np.unique(ids, return_index=True)[1])].tolist()
        records = [{}] * len(known)
    strangers = np.flatnonzero(~np.isin(ids, np.array(known, np.int64)))
    if len(strangers):
        first = strangers[0]
        with path.open("rb") as handle:
            annotation = _read_object(handle, int(starts[first]), int(ends[first]), path)
        raise FormatError(
            f"{path}, image {ids[first]}, annotation {annotation.get('id')}: expected an image of the file; "
            f"got an unknown image id; {REMEDY}"
        )
    order = np.argsort(ids, kind="stable")
    ids, spans = ids[order], np.stack([starts[order], ends[order]], 1)
    first, last = np.searchsorted(ids, known), np.searchsorted(ids, known, side="right")
    return [
        CocoImage(path, number, record, spans[a:b])
        for number, record, a, b in zip(known, records, first, last, strict=True)
    ]


def _is_record(entry: JsonEntry, path: Path) -> bool:
    """False for an empty list; raises FormatError where neither a record nor an empty list stands."""
    if entry.position is None and entry.value == []:
        return False
    if entry.position is None or not isinstance(entry.value, dict):
        what = f"a list of records {entry.key!r}" if entry.key else "a list of results"
        raise FormatError(f"{path}: expected {what} as COCO has it; got {reprlib.repr(entry.value)}; {REMEDY}")
    return True


def _read_object(handle: BinaryIO, start: int, end: int, path: Path) -> dict[str, Any]:
    handle.seek(start)
    value = parse_json(handle.read(end - start), path, strict=False)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected an unchanged file; got another since; run it again")
    return value
