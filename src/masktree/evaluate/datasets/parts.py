"""Data sets of objects with their parts: PartImageNet and PACO-LVIS. Objects and parts are scored alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masktree.errors import FormatError
from masktree.evaluate.datasets.coco import Record, file_name, image_ground_truth, read_file, read_images
from masktree.evaluate.datasets.dataset import Counts, Only, Reading, inside, locate, wanted
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle


def read_paco(path: Path, split: str, only: Only = None) -> Reading:
    """``paco_lvis_v1_{split}.json``. Each annotation names its object in ``obj_ann_id``: an object itself, a part the
    object that it belongs to, which is its parent here.

    HASSOD's public configuration names a file of parts alone (``paco_lvis_v1_val_part_cls_agnostic.json``), UnSAM's
    does not say. Objects and parts are both read (our choice: all levels compete).

    Raises:
        InputError: no such file.
        FormatError: it is damaged, or an annotation has no ``obj_ann_id``.
    """
    name = f"paco_lvis_v1_{split}.json"
    file = read_file(locate(path, name, f"annotations/{name}"))
    for records in file.annotations.values():
        for record in records:
            if record.get("obj_ann_id") is None:
                raise FormatError(
                    f"{file.path}, image {record['image_id']}, annotation {record['id']}: expected an obj_ann_id as "
                    "PACO has it; got none; get paco_lvis_v1.zip again, or read the file as json"
                )
            record["parent_id"] = None if record["obj_ann_id"] == record["id"] else record["obj_ann_id"]
    return read_images(file, only)


def read_partimagenet(path: Path, split: str, only: Only = None) -> Reading:
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
    objects: dict[str, Record] = {file_name(wholes, image): image for image in wholes.images}
    names = [file_name(parts, image) for image in parts.images]
    if set(names) != set(objects):
        odd = min(set(names) ^ set(objects))
        raise FormatError(f"{wholes.path}: expected the images of {parts.path}; got {odd} in one of them only")
    images = []
    for image, name in zip(parts.images, names, strict=True):
        if wanted(name, only):
            part, whole = image_ground_truth(parts, image, name), image_ground_truth(wholes, objects[name], name)
            if part.size != whole.size:
                raise FormatError(
                    f"{wholes.path}, image {name}: expected the size {part.size} (height, width) that the parts have; "
                    f"got {whole.size}; use files of one release"
                )
            images.append(_joined(whole, part))
    return Reading(images, Counts(len(names), None))


def _joined(whole: ImageGroundTruth, part: ImageGroundTruth) -> ImageGroundTruth:
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
