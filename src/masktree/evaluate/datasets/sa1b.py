"""SA-1B: one JSON file beside each image.

Format (github.com/facebookresearch/segment-anything, "Dataset"): ``image`` with image_id, width, height, file_name, and
``annotations`` with id, segmentation (compressed run lengths), bbox, area.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from masktree.errors import FormatError, InputError
from masktree.evaluate.datasets.coco import file_name, image_ground_truth, index, load
from masktree.evaluate.datasets.dataset import Counts, Only, Reading
from masktree.evaluate.ground_truth import ImageGroundTruth


def read_sa1b(path: Path, split: str, only: Only = None) -> Reading:
    """A folder of ``sa_*.json``, by ascending number; of a list only its own files are opened.

    SA-1B has no validation split, and the papers' held-out images differ (HASSOD: the first pack, ``sa_000000``), so
    that a result says little without the list of images, which belongs to it.

    Raises:
        InputError: no such folder, no files in it, or a listed image without one.
        FormatError: a file is damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder with files sa_*.json; got none; unpack a pack of SA-1B there")
    if only is None:
        files = list(path.glob("sa_*.json"))
        if not files:
            raise InputError(f"{path}: expected files sa_*.json; got none; unpack a pack of SA-1B there")
    else:
        files = [path / PurePosixPath(name).with_suffix(".json") for name in only]
        missing = sorted(str(file) for file in files if not file.is_file())
        if missing:
            raise InputError(
                f"{path}: expected a file for each of {len(files)} listed images; got none for {missing[0]} and "
                f"{len(missing) - 1} more; unpack the packs that have them"
            )
    images = [_image(file) for file in sorted(files, key=_order)]
    return Reading(images, Counts(len(images), sum(map(len, images))))


def _image(path: Path) -> ImageGroundTruth:
    document = load(path)
    image, annotations = document.get("image"), document.get("annotations")
    if not isinstance(image, dict) or not isinstance(annotations, list):
        raise FormatError(f"{path}: expected image and annotations as SA-1B has them; got others; get the file again")
    image["id"] = image.get("image_id")
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise FormatError(f"{path}: expected records as annotations; got {annotation!r}; get the file again")
        annotation["image_id"] = image["id"]
    file = index(path, [image], annotations)
    return image_ground_truth(file, image, file_name(file, image))


def _order(file: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", file.stem)
    return (int(digits.group()) if digits else -1, file.name)
