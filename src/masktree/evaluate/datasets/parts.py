"""Data sets of objects with their parts: PartImageNet and PACO-LVIS. Objects and parts are scored alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masktree.coco.file import Annotation
from masktree.errors import FormatError
from masktree.evaluate.datasets.coco import read_file, read_ground_truth_of, read_images
from masktree.evaluate.datasets.dataset import Counts, DatasetReading, ImageNames, inside, is_selected, locate
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle


def read_paco(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """``paco_lvis_v1_{split}.json``. Each annotation names its object in ``obj_ann_id``: an object itself, a part the
    object that it belongs to, which is its parent here.

    HASSOD's public configuration names a file of parts alone (``paco_lvis_v1_val_part_cls_agnostic.json``), UnSAM's
    does not say. Objects and parts are both read (our choice: all levels compete).

    Raises:
        InputError: no such file.
        FormatError: it is damaged, or an annotation has no ``obj_ann_id``.
    """
    name = f"paco_lvis_v1_{split}.json"
    file = read_file(locate(path, name, f"annotations/{name}"), _check_object_id)
    return read_images(file, only, parent_of=_object_id)


def _object_id(annotation: Annotation) -> int | None:
    """Id of the object that a part belongs to."""
    return None if annotation["obj_ann_id"] == annotation["id"] else annotation["obj_ann_id"]


def _check_object_id(annotation: Annotation, where: str) -> None:
    if annotation.get("obj_ann_id") is None:
        raise FormatError(
            f"{where}: expected an obj_ann_id as PACO has it; got none; get paco_lvis_v1.zip again, or read the file "
            "as json"
        )


def read_partimagenet(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """Parts from ``annotations/{split}/{split}.json``, whole objects from ``annotations/{split}_whole/{split}.json``.

    The files do not link the two; a part's parent is the object that has most of it, if that is more than half (our
    choice). A part that is its object to the pixel counts once, as the object: one prediction can match only one.
    The images of the two files are matched by name, and ids are those of the file of parts.

    Raises:
        InputError: a file is missing.
        FormatError: one is damaged, or the two are of different images or sizes.
    """
    parts = read_file(inside(path, f"annotations/{split}/{split}.json", f"{split}/{split}.json"))
    wholes = read_file(inside(path, f"annotations/{split}_whole/{split}.json", f"{split}_whole/{split}.json"))
    objects = {image.file_name: image for image in wholes.images}
    names = [image.file_name for image in parts.images]
    if set(names) != set(objects):
        odd = min(set(names) ^ set(objects))
        raise FormatError(f"{wholes.path}: expected the images of {parts.path}; got {odd} in one of them only")
    images = []
    for image, name in zip(parts.images, names, strict=True):
        if is_selected(name, only):
            part = read_ground_truth_of(image, name, parts.has_masks)
            whole = read_ground_truth_of(objects[name], name, wholes.has_masks)
            if part.size != whole.size:
                raise FormatError(
                    f"{wholes.path}, image {name}: expected the size {part.size} (height, width) that the parts have; "
                    f"got {whole.size}; use files of one release"
                )
            images.append(_join(whole, part))
    return DatasetReading(images, Counts(len(names), None))


def _join(whole: ImageGroundTruth, part: ImageGroundTruth) -> ImageGroundTruth:
    """Objects first, then those parts that are none of the objects."""
    known = set(whole.masks())
    new = np.array([mask not in known for mask in part.masks()], np.bool_)
    masks = [mask for mask, keep in zip(part.masks(), new, strict=True) if keep]
    parents = np.full(len(masks), -1, np.int32)
    if masks and len(whole):
        shared = rle.cross_intersections(masks, whole.masks(), whole.size)
        most = 2 * shared.max(1) > rle.areas(masks, whole.size)
        parents[most] = shared.argmax(1)[most]
    return ImageGroundTruth.from_masks(
        part.id,
        part.name,
        part.size,
        [*whole.masks(), *masks],
        boxes=np.concatenate([whole.boxes, part.boxes[new]]),
        areas=np.concatenate([whole.areas, part.areas[new]]),
        crowd=np.concatenate([whole.crowd, part.crowd[new]]),
        parents=np.concatenate([whole.parents, parents]),
    )
