"""Data sets in COCO's instance format: ``images`` and ``annotations`` in one JSON file (see ``masktree.coco.file``)."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from masktree.coco.annotations import parent_id, read_crowd, read_parents
from masktree.coco.file import Annotation, CocoFile, CocoImage, read_integer
from masktree.coco.masks import REMEDY, has_segmentation, read_mask
from masktree.errors import FormatError, MasktreeError
from masktree.evaluate.datasets.dataset import Counts, DatasetReading, ImageNames, is_selected, locate
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.files import is_number
from masktree.trees import rle

ParentOf = Callable[[Annotation], Any]  # gives the id of an annotation's parent


def read_json_file(path: Path, split: str = "", only: ImageNames = None) -> DatasetReading:
    """Any COCO file; ``parent_id`` of an annotation, where there is one, is the id of its parent.

    Raises:
        InputError: no such file.
        FormatError: damaged; the message names file, image and annotation.
    """
    return read_images(read_file(locate(path, "annotations.json")), only)


def read_instances(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """COCO's ``instances_{split}.json``; errors as ``read_json_file``."""
    name = f"instances_{split}.json"
    return read_images(read_file(locate(path, name, f"annotations/{name}")), only)


def read_entityseg(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """EntitySeg's low-resolution annotations (sides of at most 800 and 1333 pixels), which HASSOD's public
    configuration evaluates; errors as ``read_json_file``."""
    names = (
        f"entityseg_{split}_lr.json",  # of the official release
        f"annotations/entityseg_{split}_lr.json",
        f"annotations/entity_segmentation/entityv2_010203_entity_{split}_lr.json",  # of the authors' code
    )
    return read_images(read_file(locate(path, *names)), only)


def read_objects365(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """Objects365 v2: boxes only. Objects in pictures and mirrors (``isfake``, ``isreflected``) count like others (our
    choice: they are annotated objects); ``iscrowd`` marks groups. Errors as ``read_json_file``."""
    name = f"zhiyuan_objv2_{split}.json"
    return read_images(read_file(locate(path, name, f"annotations/{name}", f"{split}/{name}")), only)


def read_file(path: Path, check: Callable[[Annotation, str], None] | None = None) -> CocoFile:
    """Open a COCO file of annotations with unique ids; ``check`` as for ``CocoFile.open``.

    Raises:
        InputError: no such file.
        FormatError: damaged, or a file of results.
    """
    seen: set[int] = set()

    def check_id(annotation: Annotation, where: str) -> None:
        annotation_id = read_integer(annotation, "id", where)
        if annotation_id in seen:
            raise FormatError(f"{where}: expected each annotation id once; got it twice; {REMEDY}")
        seen.add(annotation_id)
        if check is not None:
            check(annotation, where)

    file = CocoFile.open(path, check_id)
    if file.is_results:
        raise FormatError(
            f"{path}: expected a list of records 'images' as COCO has it; got a list of results; {REMEDY}"
        )
    return file


def read_images(
    file: CocoFile,
    only: ImageNames,
    *,
    name: Callable[[CocoImage], str] = lambda image: image.file_name,
    parent_of: ParentOf = parent_id,
) -> DatasetReading:
    """The selected images of a file.

    Args:
        file: a COCO file.
        only: names of the images to read; None for all.
        name: gives the name of an image.
        parent_of: gives the id of an annotation's parent, None for roots.

    Raises:
        FormatError: a damaged annotation.
    """
    images = []
    for image in file.images:
        image_name = name(image)
        if is_selected(image_name, only):
            images.append(read_ground_truth_of(image, image_name, file.has_masks, parent_of=parent_of))
    return DatasetReading(images, Counts(len(file.images), file.num_annotations))


def read_ground_truth_of(
    image: CocoImage,
    name: str,
    has_masks: bool = True,
    *,
    parent_of: ParentOf = parent_id,
) -> ImageGroundTruth:
    """The ground truth of one image. Areas and boxes are as annotated, or else those of the mask.

    Args:
        image: of a COCO file.
        name: of the image.
        has_masks: whether segmentations are read, where annotations have them; boxes alone are read otherwise.
        parent_of: gives the id of an annotation's parent, None for roots.

    Raises:
        FormatError: a mask that cannot be read or belongs to another image size, or wrong values.
    """
    annotations, size = image.annotations(), image.size
    wheres = [f"{image}, annotation {annotation.get('id')}" for annotation in annotations]
    masks: list[bytes | None] = [
        read_mask(annotation, size, where) if has_masks and has_segmentation(annotation) else None
        for annotation, where in zip(annotations, wheres, strict=True)
    ]
    rles = tuple(mask for mask in masks if mask is not None)
    try:
        return ImageGroundTruth(
            id=image.id,
            name=name,
            size=size,
            rles=None if len(rles) < len(masks) or not has_masks else rles,
            boxes=_boxes(annotations, wheres, masks, size),
            areas=_areas(annotations, wheres, masks, size),
            crowd=np.array([read_crowd(*item) for item in zip(annotations, wheres, strict=True)], np.bool_),
            parents=read_parents(annotations, wheres, parent_of),
        )
    except FormatError:
        raise
    except MasktreeError as error:  # a cycle among the parents
        raise FormatError(f"{image}: {error}; {REMEDY}") from error


def _boxes(
    annotations: list[Annotation], wheres: list[str], masks: list[bytes | None], size: tuple[int, int]
) -> np.ndarray:
    """(n, 4) float64: as annotated, else of the mask."""
    result = np.zeros((len(annotations), 4))
    for i, (annotation, mask) in enumerate(zip(annotations, masks, strict=True)):
        box = annotation.get("bbox")  # some converters write null
        if box is None and mask is None:
            raise FormatError(f"{wheres[i]}: expected a segmentation or a bbox; got neither; {REMEDY}")
        if box is None and mask is not None:
            result[i] = rle.boxes([mask], size)[0]
        else:
            if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
                raise FormatError(
                    f"{wheres[i]}: expected bbox as [x, y, width, height], width and height not negative; "
                    f"got {reprlib.repr(box)}; {REMEDY}"
                )
            result[i] = box
    return result


def _areas(
    annotations: list[Annotation], wheres: list[str], masks: list[bytes | None], size: tuple[int, int]
) -> np.ndarray:
    """(n,) float64: as annotated, else of the mask, else of the box."""
    result = np.zeros(len(annotations))
    for i, (annotation, mask) in enumerate(zip(annotations, masks, strict=True)):
        if annotation.get("area") is not None:
            area = annotation["area"]
            if not is_number(area, 0):
                raise FormatError(f"{wheres[i]}: expected an area of at least 0; got {reprlib.repr(area)}; {REMEDY}")
            result[i] = area
        elif mask is None:
            result[i] = annotation["bbox"][2] * annotation["bbox"][3]
        else:
            result[i] = rle.areas([mask], size)[0]
    return result
