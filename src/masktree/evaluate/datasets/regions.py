"""Data sets whose masks are the regions of label maps: COCO panoptic, ADE20K, BSDS500."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from masktree.coco.file import Annotation, CocoFile, CocoImage, read_integer
from masktree.errors import FormatError, ImageError, InputError
from masktree.evaluate.bsds import read_human_segmentations
from masktree.evaluate.datasets.dataset import Counts, DatasetReading, ImageNames, inside, is_selected
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.images import read_numbers, read_size
from masktree.trees import rle


def masks_of(labels: np.ndarray) -> dict[int, bytes]:
    """Run-length string of each region of a (H, W) map of any whole numbers, by number. One pass over the pixels."""
    flat = labels.ravel(order="F")
    if not flat.size:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values, owners = np.unique(flat[starts], return_inverse=True)
    order = np.argsort(owners, kind="stable")
    runs = np.split(order, np.cumsum(np.bincount(owners))[:-1])
    size = (int(labels.shape[0]), int(labels.shape[1]))
    return {int(value): rle.encode_runs(starts[own], ends[own], size) for value, own in zip(values, runs, strict=True)}


def read_panoptic(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """COCO panoptic: ``panoptic_{split}.json`` and the PNG files of folder ``panoptic_{split}``, in which a pixel's
    segment has the number R + 256 G + 256^2 B, 0 for none (cocodataset.org/#format-data). All segments, things and
    stuff, are masks; boxes and areas are those of the masks.

    Raises:
        InputError: a file is missing.
        FormatError: one is damaged, or the segments of file and picture differ.
    """
    json_path = inside(path, f"panoptic_{split}.json", f"annotations/panoptic_{split}.json")
    folder = inside(json_path.parent, f"panoptic_{split}")
    file = CocoFile.open(json_path)
    if any(len(image) != 1 for image in file.images):
        raise FormatError(
            f"{json_path}: expected one annotation for each of {len(file.images)} images; got none or several for "
            "some; get the file again"
        )
    images = []
    for image in file.images:
        if is_selected(image.file_name, only):
            images.append(_segments(image, image.annotations()[0], folder))
    return DatasetReading(images, Counts(len(file.images), None))


def read_ade20k(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """ADE20K's instances of 100 classes of things: ``annotations_instance/{split}/*.png`` of the scene parsing and
    Places challenges, in which R is the class and G the number of the instance, 0 for none
    (github.com/CSAILVision/placeschallenge, instancesegmentation).

    This is what HASSOD's public configuration evaluates (``ADEChallengeData2016/ade20k_instance_val``, through
    Mask2Former's conversion); SOHES and UnSAM do not publish theirs. Stuff and parts are therefore not in it.

    Raises:
        InputError: a folder is missing or empty.
        FormatError: a picture is damaged, or an instance has two classes.
    """
    folder = inside(path, f"annotations_instance/{split}", split)
    files = sorted(folder.glob("*.png"))
    if not files:
        raise InputError(f"{folder}: expected pictures *.png; got none; check the path")
    images = []
    for file in files:
        name = f"{file.stem}.jpg"
        if is_selected(name, only):
            rgb = _picture(file)
            masks = masks_of(rgb[..., 0] + 256 * rgb[..., 1])
            instances = {number: mask for number, mask in masks.items() if number >= 256}
            if len({number // 256 for number in instances}) != len(instances):
                raise FormatError(f"{file}: expected one class for each instance; got two; get the file again")
            size = (rgb.shape[0], rgb.shape[1])
            images.append(ImageGroundTruth.from_masks(_number(file), name, size, instances.values()))
    return DatasetReading(images, Counts(len(files), None))


def read_bsds500(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """BSDS500: every region of every annotator is a mask, equal ones of an image once. For clicks and recall; the
    region benchmark itself compares partitions (``masktree.evaluate.bsds``).

    Raises:
        InputError: a folder or file is missing.
        FormatError: a file is damaged, or of another size than its image.
    """
    pictures = inside(path, f"images/{split}", f"data/images/{split}", f"BSDS500/data/images/{split}")
    folder = inside(pictures.parents[1], f"groundTruth/{split}")
    files = sorted(pictures.glob("*.jpg"))
    ground_truths = {file.stem: file for file in folder.glob("*.mat")}
    if {file.stem for file in files} != set(ground_truths):
        odd = min({file.stem for file in files} ^ set(ground_truths))
        raise InputError(
            f"{pictures}: expected an image for each file of {folder}; got {odd} in one of them only; "
            "unpack the data set again"
        )
    images = []
    for file in files:
        if is_selected(file.name, only):
            images.append(_annotated(file, ground_truths[file.stem]))
    return DatasetReading(images, Counts(len(files), None))


def _annotated(picture: Path, mat: Path) -> ImageGroundTruth:
    try:
        size = read_size(picture)
    except ImageError as error:
        raise FormatError(f"{picture}: {error}; get it again") from error
    maps = [segmentation.labels for segmentation in read_human_segmentations(mat)]
    for labels in maps:
        if labels.shape != size:
            raise FormatError(f"{mat}: expected label maps of its image's size {size}; got {labels.shape}")
    masks = dict.fromkeys(mask for labels in maps for mask in masks_of(labels).values())
    return ImageGroundTruth.from_masks(_number(picture), picture.name, size, masks)


def _segments(image: CocoImage, annotation: Annotation, folder: Path) -> ImageGroundTruth:
    where = str(image)
    segments, picture_name = annotation.get("segments_info"), annotation.get("file_name")
    if not isinstance(segments, list) or not isinstance(picture_name, str):
        raise FormatError(f"{where}: expected segments_info and the file_name of a picture; got none")
    rgb = _picture(folder / picture_name)
    size = image.size
    if rgb.shape[:2] != size:
        raise FormatError(f"{where}: expected a picture of size {size} (height, width); got {rgb.shape[:2]}")
    masks = masks_of(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2])
    crowd: dict[int, bool] = {}
    for segment in segments:
        number = read_integer(segment, "id", f"{where}, a segment")
        if number not in masks or number in crowd or number == 0 or segment.get("iscrowd", 0) not in (0, 1):
            raise FormatError(f"{where}, segment {number}: expected it once and in {picture_name}; got it otherwise")
        crowd[number] = bool(segment.get("iscrowd", 0))
    unknown = set(masks) - set(crowd) - {0}
    if unknown:
        raise FormatError(f"{where}: expected segments of the file in {picture_name}; got number {min(unknown)}")
    flags = np.array(list(crowd.values()), np.bool_)
    return ImageGroundTruth.from_masks(
        image.id, image.file_name, size, [masks[number] for number in crowd], crowd=flags
    )


def _picture(path: Path) -> np.ndarray:
    """(H, W, 3) int32 of an RGB PNG file."""
    if not path.exists():
        raise InputError(f"{path}: expected a PNG file; got none there; unpack the data set again")
    try:
        return read_numbers(path).astype(np.int32)
    except ImageError as error:
        raise FormatError(f"{path}: {error}; get the file again") from error


def _number(file: Path) -> int:
    """Id of an image: the number at the end of its name."""
    digits = re.search(r"\d+$", file.stem)
    if digits is None:
        raise InputError(f"{file}: expected a name that ends in a number; got another; keep the data set's names")
    return int(digits.group())
