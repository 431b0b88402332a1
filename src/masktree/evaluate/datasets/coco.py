"""COCO's instance format: one JSON file with ``images`` and ``annotations``.

Format: cocodataset.org/#format-data. A mask is a list of polygons, a run-length dict with a list of ``counts``, or one
with a string; see ``masktree.coco.masks``. Masks are kept as compressed strings only, and polygons are drawn one image
at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from masktree.coco.masks import REMEDY, pack_polygons, read_mask
from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.datasets.dataset import Counts, Only, Reading, locate, wanted
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle

Record = dict[str, Any]
_LARGEST = 1e15  # (our choice) of any area or coordinate; NaN and infinity are not below it


@dataclass(frozen=True)
class CocoFile:
    """The records of a file, checked as far as ids, sizes and references go.

    Attributes:
        path: the file.
        images: image records in the file's order; ids are unique, width and height positive.
        annotations: annotation records by image id; annotation ids are unique in the file.
        has_masks: False where the annotations are boxes only, none with a segmentation.
    """

    path: Path
    images: list[Record]
    annotations: dict[int, list[Record]]
    has_masks: bool

    @property
    def counts(self) -> Counts:
        return Counts(len(self.images), sum(map(len, self.annotations.values())))


def read_json_file(path: Path, split: str = "", only: Only = None) -> Reading:
    """Any COCO-style file; ``parent_id`` of an annotation, if there is one, is the id of its parent.

    Raises:
        InputError: no such file.
        FormatError: it is damaged (file, image and annotation are named).
    """
    return read_images(read_file(locate(path, "annotations.json")), only)


def read_instances(path: Path, split: str, only: Only = None) -> Reading:
    """COCO's ``instances_{split}.json``; see ``read_json_file`` for errors."""
    name = f"instances_{split}.json"
    return read_images(read_file(locate(path, name, f"annotations/{name}")), only)


def read_entityseg(path: Path, split: str, only: Only = None) -> Reading:
    """EntitySeg's low-resolution annotations (sides of at most 800 and 1333 pixels), the ones that HASSOD's public
    configuration evaluates; see ``read_json_file`` for errors."""
    names = (
        f"entityseg_{split}_lr.json",  # of the official release
        f"annotations/entityseg_{split}_lr.json",
        f"annotations/entity_segmentation/entityv2_010203_entity_{split}_lr.json",  # of the authors' code
    )
    return read_images(read_file(locate(path, *names)), only)


def read_objects365(path: Path, split: str, only: Only = None) -> Reading:
    """Objects365 v2: boxes only. Objects in pictures and mirrors (``isfake``, ``isreflected``) count like others (our
    choice: they are things that one sees, and whoever counts boxes counts them); ``iscrowd`` marks groups. See
    ``read_json_file`` for errors."""
    name = f"zhiyuan_objv2_{split}.json"
    return read_images(read_file(locate(path, name, f"annotations/{name}", f"{split}/{name}")), only)


def read_images(
    file: CocoFile, only: Only, *, name: Callable[[CocoFile, Record], str] | None = None, parent_key: str = "parent_id"
) -> Reading:
    """The wanted images of a file; ``name`` tells an image's name (its ``file_name`` if not given).

    Raises FormatError on a damaged record.
    """
    images = []
    for record in file.images:
        image_name = (name or file_name)(file, record)
        if wanted(image_name, only):
            images.append(image_ground_truth(file, record, image_name, parent_key=parent_key))
    return Reading(images, file.counts)


def read_file(path: Path) -> CocoFile:
    """Read and index a file; masks are not looked at yet.

    Raises:
        InputError: no such file.
        FormatError: no JSON, a record lacks what it must have, ids twice, or an annotation of an unknown image.
    """
    document = load(path)
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list) or not all(isinstance(item, dict) for item in document[key]):
            raise FormatError(f"{path}: expected a list of records {key!r} as COCO has it; got none; {REMEDY}")
    return index(path, document["images"], document["annotations"])


def index(path: Path, images: list[Record], annotations: list[Record]) -> CocoFile:
    """Check ids, sizes and references of records, and group the annotations by image; see ``read_file`` for errors."""
    groups: dict[int, list[Record]] = {}
    for image in images:
        where = f"{path}, image {image.get('id')} ({image.get('file_name')})"
        image_id = integer(image, "id", where)
        if image_id in groups:
            raise FormatError(f"{where}: expected each image id once; got it twice; {REMEDY}")
        height, width = integer(image, "height", where), integer(image, "width", where)
        if height < 1 or width < 1 or height * width >= 2**31:  # the reach of run lengths
            raise FormatError(
                f"{where}: expected a size of at least 1 x 1 and fewer than 2^31 pixels; "
                f"got {height} x {width} (height, width); {REMEDY}"
            )
        groups[image_id] = []
    seen: set[int] = set()
    has_masks = False
    for annotation in annotations:
        where = f"{path}, image {annotation.get('image_id')}, annotation {annotation.get('id')}"
        annotation_id, image_id = integer(annotation, "id", where), integer(annotation, "image_id", where)
        if annotation_id in seen:
            raise FormatError(f"{where}: expected each annotation id once; got it twice; {REMEDY}")
        if image_id not in groups:
            raise FormatError(f"{where}: expected an image of the file; got an unknown image id; {REMEDY}")
        seen.add(annotation_id)
        groups[image_id].append(annotation)
        has_masks = has_masks or bool(annotation.get("segmentation"))
    return CocoFile(path, images, groups, has_masks or not annotations)


def load(path: Path) -> Record:
    """A JSON object from a file. Polygons are packed as doubles while it is read, a quarter of the memory of a list.

    Raises:
        InputError: no such file.
        FormatError: no JSON, or no object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_hook=pack_polygons)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: expected a JSON file; got none there; check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected JSON; got a damaged file ({error}); {REMEDY}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{path}: expected a JSON object; got {type(document).__name__}; {REMEDY}")
    return document


def file_name(file: CocoFile, image: Record) -> str:
    """Name of an image: its ``file_name`` as a POSIX path. Raises FormatError if there is none."""
    value = image.get("file_name")
    if not isinstance(value, str) or not value:
        raise FormatError(f"{file.path}, image {image['id']}: expected a file_name; got {value!r}; {REMEDY}")
    return PurePosixPath(value).as_posix()


def integer(record: Record, key: str, where: str) -> int:
    """A whole number of a record. Raises FormatError that begins with ``where``."""
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        got = repr(value) if key in record else "none"
        raise FormatError(f"{where}: expected a whole number {key!r}; got {got}; {REMEDY}")
    return value


def image_ground_truth(file: CocoFile, image: Record, name: str, *, parent_key: str = "parent_id") -> ImageGroundTruth:
    """The ground truth of one image. Areas and boxes are as annotated, or else those of the mask.

    Raises FormatError on a mask that cannot be read or belongs to another image size, and on wrong values.
    """
    records = file.annotations[image["id"]]
    size = (image["height"], image["width"])
    place = f"{file.path}, image {image['id']} ({name})"
    wheres = [f"{place}, annotation {record['id']}" for record in records]
    masks = None
    if file.has_masks:
        masks = [read_mask(record, size, where) for record, where in zip(records, wheres, strict=True)]
    try:
        return ImageGroundTruth(
            id=image["id"],
            name=name,
            size=size,
            rles=None if masks is None else tuple(masks),
            boxes=_boxes(records, wheres, masks, size),
            areas=_areas(records, wheres, masks, size),
            crowd=np.array([_crowd(*item) for item in zip(records, wheres, strict=True)], np.bool_),
            parents=_parents(records, wheres, parent_key),
        )
    except FormatError:
        raise
    except MasktreeError as error:  # a cycle among the parents
        raise FormatError(f"{place}: {error}; {REMEDY}") from error


def _boxes(records: list[Record], wheres: list[str], masks: list[bytes] | None, size: tuple[int, int]) -> np.ndarray:
    """(n, 4) float64: as annotated, else of the mask."""
    missing = [i for i, record in enumerate(records) if "bbox" not in record]
    if missing and masks is None:
        raise FormatError(f"{wheres[missing[0]]}: expected a segmentation or a bbox; got neither; {REMEDY}")
    result = np.zeros((len(records), 4))
    if missing and masks is not None:
        result = rle.boxes(masks, size)
    for i, record in enumerate(records):
        if "bbox" in record:
            box = record["bbox"]
            if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
                raise FormatError(
                    f"{wheres[i]}: expected bbox as [x, y, width, height], width and height not negative; "
                    f"got {box!r}; {REMEDY}"
                )
            result[i] = box
    return result


def _areas(records: list[Record], wheres: list[str], masks: list[bytes] | None, size: tuple[int, int]) -> np.ndarray:
    """(n,) float64: as annotated, else of the mask, else of the box."""
    own: np.ndarray | None = None
    result = np.zeros(len(records))
    for i, record in enumerate(records):
        if "area" in record:
            area = record["area"]
            if not _is_finite(area) or area < 0:
                raise FormatError(f"{wheres[i]}: expected an area of at least 0; got {area!r}; {REMEDY}")
            result[i] = area
        elif masks is None:
            result[i] = record["bbox"][2] * record["bbox"][3]
        else:
            own = rle.areas(masks, size) if own is None else own
            result[i] = own[i]
    return result


def _crowd(record: Record, where: str) -> bool:
    value = record.get("iscrowd", 0)
    if value not in (0, 1):
        raise FormatError(f"{where}: expected iscrowd 0 or 1; got {value!r}; {REMEDY}")
    return bool(value)


def _parents(records: list[Record], wheres: list[str], key: str) -> np.ndarray:
    position = {record["id"]: i for i, record in enumerate(records)}
    parents = np.full(len(records), -1, np.int32)
    for i, record in enumerate(records):
        parent = record.get(key)
        if parent is None:
            continue
        if isinstance(parent, bool) or not isinstance(parent, int) or parent not in position:
            raise FormatError(
                f"{wheres[i]}: expected {key} as the id of an annotation of the same image, or null; "
                f"got {parent!r}; {REMEDY}"
            )
        parents[i] = position[parent]
    return parents


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
