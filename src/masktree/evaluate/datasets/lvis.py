"""LVIS v1, and COCO together with LVIS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masktree.coco.file import CocoImage
from masktree.errors import FormatError
from masktree.evaluate.datasets.coco import read_file, read_ground_truth_of, read_images
from masktree.evaluate.datasets.dataset import Counts, DatasetReading, ImageNames, inside, is_selected, locate
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle

DUPLICATE_IOU = 0.5  # (our choice) above it, one prediction can pass for both masks at the loosest threshold of AR


def read_lvis(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """``lvis_v1_{split}.json``, every annotation alike. Names have COCO's folders (``val2017/000000000139.jpg``),
    since LVIS's val split has images of COCO's train2017 and val2017.

    LVIS is not exhaustive: classes that were not looked for in an image are not annotated there. CutLER's and HASSOD's
    public configurations evaluate a variant reduced to the classes of COCO ("cocofied"); UnSAM's takes this file.

    Raises:
        InputError: no such file.
        FormatError: it is damaged.
    """
    return read_images(read_file(_lvis_file(path, split)), only, name=_name)


def read_lvis_cocofied(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """``lvis_v1_{split}_cocofied.json``: LVIS reduced to the classes of COCO by the script of Detectron2, which
    CutLER's and HASSOD's public configurations evaluate. As ``read_lvis`` otherwise.

    Raises:
        InputError, FormatError: as ``read_lvis``.
    """
    return read_images(read_file(_lvis_file(path, f"{split}_cocofied")), only, name=_name)


def read_coco_lvis(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """COCO's images with COCO's annotations and those of LVIS that are not there yet (HASSOD, arXiv 2402.03311).

    HASSOD's text says that duplicates were removed, about 20 annotations an image being left, and not how. Here an LVIS
    mask is dropped if its IoU with a mask of COCO, crowds apart, is above ``DUPLICATE_IOU``. Both data sets number the
    same images alike. Images that LVIS's val split lacks keep COCO's annotations. Names are COCO's.

    Raises:
        InputError: a file is missing.
        FormatError: one is damaged, or the two state different sizes for an image.
    """
    name = f"instances_{split}.json"
    coco = read_file(inside(path, name, f"annotations/{name}"))
    lvis = read_file(_lvis_file(path, split.removesuffix("2017")))
    lvis_images = {image.id: image for image in lvis.images}
    images = []
    for image in coco.images:
        if not is_selected(image.file_name, only):
            continue
        ground_truth = read_ground_truth_of(image, image.file_name, coco.has_masks)
        if image.id in lvis_images:
            other = read_ground_truth_of(lvis_images[image.id], image.file_name, lvis.has_masks)
            ground_truth = _merge(ground_truth, other, lvis.path)
        images.append(ground_truth)
    return DatasetReading(images, Counts(len(coco.images), None))


def _lvis_file(path: Path, split: str) -> Path:
    name = f"lvis_v1_{split}.json"
    return locate(path, name, f"annotations/{name}", f"lvis/{name}")


def _name(image: CocoImage) -> str:
    url = image.record.get("coco_url")
    if not isinstance(url, str) or url.count("/") < 2:
        raise FormatError(
            f"{image.path}, image {image.id}: expected a coco_url, from which LVIS names its images; got {url!r}; "
            "get lvis_v1_*.json from lvisdataset.org"
        )
    return "/".join(url.split("/")[-2:])


def _merge(coco: ImageGroundTruth, lvis: ImageGroundTruth, path: Path) -> ImageGroundTruth:
    if coco.size != lvis.size:
        raise FormatError(
            f"{path}, image {lvis.id} ({lvis.name}): expected the size {coco.size} (height, width) of COCO; "
            f"got {lvis.size}; use files of one release"
        )
    single = [mask for mask, crowd in zip(coco.masks(), coco.crowd, strict=True) if not crowd]
    new = np.asarray(~(rle.iou(lvis.masks(), single, coco.size) > DUPLICATE_IOU).any(1))
    return ImageGroundTruth.from_masks(
        coco.id,
        coco.name,
        coco.size,
        [*coco.masks(), *(mask for mask, keep in zip(lvis.masks(), new, strict=True) if keep)],
        boxes=np.concatenate([coco.boxes, lvis.boxes[new]]),
        areas=np.concatenate([coco.areas, lvis.areas[new]]),
        crowd=np.concatenate([coco.crowd, lvis.crowd[new]]),
    )
