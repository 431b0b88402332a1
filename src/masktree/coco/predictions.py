"""COCO files of predictions: a list of results, or a document with images and annotations.

A file of results has gigabytes for a few thousand images. Its entries are taken apart while it is parsed, into columns
per image: about 250 bytes for a mask instead of the 1,500 of Python's dictionaries.
"""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.detections import ImageDetections
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import LEVELS, MaskTree, ceil_float32

_ABSENT = math.nan
_TREE_VALUES = ("granularity", "stability")


class CocoImage:
    """What a COCO file predicts in one image, in columns, one entry per mask or box.

    Attributes:
        path: the file.
        name: image id, or file name where the file has them.
        size: (height, width) of the image as the file has it; None where it does not tell.
    """

    __slots__ = (
        *("name", "path", "size"),
        *("_boxes", "_ids", "_levels", "_linked", "_masks", "_parents", "_scores", "_values"),
    )

    def __init__(self, path: Path, name: str, size: tuple[int, int] | None = None) -> None:
        self.path = path
        self.name = name
        self.size = size
        self._masks: list[bytes | None] = []
        self._boxes = array("d")
        self._scores = array("d")
        self._ids: list[Any] = []
        self._parents: list[Any] = []
        self._linked = False  # whether entries have parent_id at all; null is a root
        self._values = array("d")
        self._levels = array("b")

    def __len__(self) -> int:
        return len(self._masks)

    def add(self, entry: dict[str, Any]) -> None:
        """Take one entry in.

        Raises:
            FormatError: no score, neither mask nor box, a mask of another size than the other masks of the image, ...
        """
        segmentation, box = entry.get("segmentation"), entry.get("bbox")
        score: Any = entry.get("score")
        if not _is_number(score):
            raise self._wrong("expected a score, a finite number", f"{score!r}", "ground truth has none: it is --gt")
        if segmentation is None and box is None:
            raise self._wrong("expected a segmentation or a bbox", "neither", "see the COCO results format")
        if box is not None and not (isinstance(box, list) and len(box) == 4 and all(_is_number(v) for v in box)):
            raise self._wrong("expected bbox as [x, y, width, height], finite", f"{box!r}", "")
        self._masks.append(None if segmentation is None else self._mask(segmentation))
        self._boxes.extend([_ABSENT] * 4 if box is None else box)
        self._scores.append(score)
        self._ids.append(entry.get("id"))
        self._parents.append(entry.get("parent_id"))
        self._linked |= "parent_id" in entry
        self._values.extend(float(entry.get(key, _ABSENT)) for key in _TREE_VALUES)
        level = entry.get("level")
        self._levels.append(LEVELS.index(level) if level in LEVELS else -1)

    def detections(self, size: tuple[int, int]) -> ImageDetections:
        """Scored masks, or boxes where no entry has a mask. Boxes are those of the file, else of the masks."""
        rles = self._rles()
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        absent = np.isnan(boxes).all(1)
        try:
            if rles is not None and absent.any():
                boxes[absent] = rle.boxes([rles[i] for i in np.flatnonzero(absent)], size)
            return ImageDetections(size, rles, boxes, np.array(self._scores, np.float64))
        except MasktreeError as error:
            raise InputError(f"{self._where()}: {error}") from error

    def tree(self, size: tuple[int, int], *, nested: bool = True) -> MaskTree:
        """The masks and their ``parent_id``; where no entry has that key: all roots, or an error if ``nested``."""
        rles = self._rles()
        if rles is None:
            raise self._wrong(
                "expected masks", "boxes only", "evaluate them with --protocol ar --kind boxes", whole=True
            )
        parents = self._parent_indices()
        if nested and len(rles) and not self._linked:
            raise self._wrong(
                "expected a hierarchy (parent_id)", "none in the file", "evaluate it with --protocol ar", whole=True
            )
        scores = np.array(self._scores, np.float64)
        if not np.all((scores >= 0) & (scores <= 1)):  # also refuses NaN
            raise self._wrong(
                "expected scores in [0, 1] for a tree", f"{scores.min()}..{scores.max()}", "rescale them", whole=True
            )
        values = np.array(self._values, np.float64).reshape(-1, len(_TREE_VALUES))
        try:
            if np.isnan(values).any():
                return MaskTree.from_rles(rles, size, parents, scores=scores)
            levels = np.array(self._levels, np.int8)
            return MaskTree(
                size=size,
                rles=rles,
                parents=parents,
                scores=scores.astype(np.float32),
                granularities=ceil_float32(values[:, 0]),
                stabilities=values[:, 1].astype(np.float32),
                levels=hierarchy.levels(parents) if (levels < 0).any() else levels,
            )
        except MasktreeError as error:
            raise InputError(f"{self._where()}: {error}") from error

    def contours(self, size: tuple[int, int]) -> MaskTree:
        """The masks, whose cuts are partitions."""
        return self.tree(size, nested=False)

    def _rles(self) -> tuple[bytes, ...] | None:
        masks = [mask for mask in self._masks if mask is not None]
        if masks and len(masks) < len(self._masks):
            raise self._wrong(
                "expected masks in all entries or in none", f"{len(masks)} of {len(self._masks)}", "", whole=True
            )
        return tuple(masks) if masks or not self._masks else None

    def _parent_indices(self) -> np.ndarray:
        position: dict[Any, int] = {number: index for index, number in enumerate(self._ids) if number is not None}
        if self._linked and len(position) < len(self._ids):
            raise self._wrong("expected one id per annotation", "one twice, or none", "number them", whole=True)
        position[None] = -1
        unknown = [parent for parent in self._parents if parent not in position]
        if unknown:
            raise self._wrong("expected parent_id as an id in the same image", f"{unknown[0]!r}", "", whole=True)
        return np.array([position[parent] for parent in self._parents], np.int32)

    def _mask(self, segmentation: Any) -> bytes:
        """Compressed string of compressed or uncompressed RLE; its size becomes the image's, or must be that."""
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
            got = "polygons" if isinstance(segmentation, list) else f"{str(segmentation)[:40]}"
            raise self._wrong(
                "expected the segmentation as run lengths {size, counts}",
                got,
                "convert it, for example with frPyObjects and merge of pycocotools.mask",
            )
        if self.size is None:
            self.size = (size[0], size[1])
        elif self.size != tuple(size):
            raise self._wrong(f"expected masks of one size, {self.size[0]} x {self.size[1]}", f"{size}", "")
        counts = segmentation.get("counts")
        if isinstance(counts, str) and counts.isascii():
            return counts.encode("ascii")
        if isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts):
            return self._compressed(counts)
        raise self._wrong("expected counts as text or a list of run lengths", f"{str(counts)[:40]!r}", "")

    def _compressed(self, counts: list[int]) -> bytes:
        assert self.size is not None
        ends = np.cumsum(np.array(counts, np.int64))
        pixels = self.size[0] * self.size[1]
        if (int(ends[-1]) if len(ends) else 0) != pixels:
            raise self._wrong(f"expected run lengths of {pixels} pixels", f"{int(ends[-1]) if len(ends) else 0}", "")
        starts, stops = ends[:-1:2], ends[1::2]
        kept = starts[: len(stops)] < stops
        return rle.encode_runs(starts[: len(stops)][kept], stops[kept], self.size)

    def _where(self) -> str:
        return f"{self.path}, image {self.name}"

    def _wrong(self, expected: str, got: str, remedy: str, *, whole: bool = False) -> FormatError:
        """An error of the entry that is being taken in, or of the ``whole`` image."""
        where = self._where() if whole else f"{self._where()}, entry {len(self)}"
        return FormatError(f"{where}: {expected}; got {got}" + f"; {remedy}" * bool(remedy))


def read_coco(path: Path) -> tuple[dict[str, CocoImage], bool]:
    """The predictions of a COCO file by image, and whether they are named by file names (else by image ids).

    Raises:
        FormatError: damaged JSON, something else, or an entry that is no prediction; names the file and the image.
    """
    groups: dict[int, CocoImage] = {}

    def take(value: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" not in value:
            return value
        number = value["image_id"]
        if not isinstance(number, int):
            raise FormatError(f"{path}: expected image_id as a whole number; got {number!r}")
        if number not in groups:
            groups[number] = CocoImage(path, str(number))
        groups[number].add(value)
        return None

    try:
        document = json.loads(path.read_bytes(), object_hook=take)
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{path}: expected COCO predictions; got a damaged file: {error}") from error
    if isinstance(document, list):
        if any(entry is not None for entry in document):
            raise FormatError(f"{path}: expected a list of COCO results; got an entry without image_id")
        return {image.name: image for image in groups.values()}, False
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise FormatError(f"{path}: expected COCO results (a list), or a document with images; got something else")
    return _by_name(path, document["images"], groups), True


def _by_name(path: Path, records: list[Any], groups: dict[int, CocoImage]) -> dict[str, CocoImage]:
    """The images of a document under their file names, images without annotations included."""
    images: dict[str, CocoImage] = {}
    known = set()
    for record in records:
        try:
            number, name, size = record["id"], record["file_name"], (int(record["height"]), int(record["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: expected images with id, file_name, height and width; got {error!r}") from error
        image = groups.get(number) or CocoImage(path, name, size)
        image.name = name
        if image.size not in (None, size):
            raise FormatError(f"{path}, image {name}: expected masks of {size[0]} x {size[1]} pixels; got {image.size}")
        if name in images or number in known:
            raise FormatError(f"{path}: expected each image once; got {name} (id {number}) twice")
        image.size = size
        images[name] = image
        known.add(number)
    strangers = sorted(groups.keys() - known)
    if strangers:
        raise FormatError(f"{path}: expected annotations of its own images; got image_id {strangers[0]}, which is none")
    return images


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
