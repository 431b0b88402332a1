"""Predictions in COCO files: results, a document with images and annotations, or the shards of a label set."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masktree.coco.annotations import tree_from_annotations
from masktree.coco.file import Annotation, CocoFile, CocoImage
from masktree.coco.masks import encode_segmentation
from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.files import is_number, is_whole
from masktree.labels import LabelSet
from masktree.trees import rle
from masktree.trees.masktree import MaskTree


@dataclass(frozen=True, eq=False)
class CocoImagePrediction:
    """The predictions of one image; read from the file when they are asked for. See ``ImagePrediction``."""

    image: CocoImage

    def detections(self, size: tuple[int, int]) -> ImageDetections:
        """Scored masks, or boxes where no annotation has a mask. Boxes are those of the file, or else of the masks."""
        annotations = self.image.annotations()
        rles = self._rles(annotations, size)
        try:
            if rles is None:
                boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
            else:
                boxes = rle.boxes(rles, size)
                for index, annotation in enumerate(annotations):
                    if annotation.get("bbox") is not None:
                        boxes[index] = annotation["bbox"]
            scores = np.array([annotation["score"] for annotation in annotations], np.float64)
            return ImageDetections(size, rles, boxes.reshape(-1, 4), scores)
        except MasktreeError as error:
            raise InputError(f"{self.image}: {error}") from error

    def tree(self, size: tuple[int, int], *, nested: bool = True) -> MaskTree:
        """The masks and their ``parent_id``; where no annotation has that key: all roots, or an error if ``nested``."""
        annotations = self.image.annotations()
        if self._rles(annotations, size) is None:
            raise FormatError(
                f"{self.image}: expected masks; got boxes only; evaluate them with --protocol ar --iou-type boxes"
            )
        if nested and annotations and not any("parent_id" in annotation for annotation in annotations):
            raise FormatError(
                f"{self.image}: expected a hierarchy (parent_id); got none in the file; evaluate it with --protocol ar"
            )
        scores = [annotation["score"] for annotation in annotations]
        if not all(0 <= score <= 1 for score in scores):
            raise FormatError(
                f"{self.image}: expected scores in [0, 1] for a tree; got {min(scores)}..{max(scores)}; rescale them"
            )
        try:
            return tree_from_annotations(annotations, size, str(self.image))
        except FormatError:
            raise
        except MasktreeError as error:
            raise InputError(f"{self.image}: {error}") from error

    def contours(self, size: tuple[int, int]) -> MaskTree:
        """The masks, whose cuts are partitions."""
        return self.tree(size, nested=False)

    def _rles(self, annotations: Sequence[Annotation], size: tuple[int, int]) -> tuple[bytes, ...] | None:
        """Run-length strings; None where all predictions are boxes."""
        masked = [annotation for annotation in annotations if annotation.get("segmentation") is not None]
        if masked and len(masked) < len(annotations):
            raise FormatError(
                f"{self.image}: expected masks in all entries or in none; got {len(masked)} of {len(annotations)}"
            )
        if annotations and not masked:
            return None
        return tuple(encode_segmentation(annotation, size, str(self.image)) for annotation in masked)


@dataclass(frozen=True, eq=False)
class CocoPredictions:
    """COCO results, whose names are image ids, or a COCO document or label set, whose names are file names. See
    ``Predictions``."""

    path: Path
    images: dict[str, CocoImage]
    sizes: dict[str, tuple[int, int] | None]
    by_id: bool
    origin: dict[str, Any]
    kind: str

    @classmethod
    def open(cls, path: Path) -> CocoPredictions:
        """Index a file and check its entries; masks are read later.

        Raises:
            FormatError: damaged, or another kind of file.
            InputError: no prediction in it.
        """
        images, sizes, by_id = _open([path])
        if not any(map(len, images.values())):
            raise InputError(f"{path}: expected predictions; got none for any image")
        return cls(path, images, sizes, by_id, {}, "COCO results" if by_id else "COCO document")

    @classmethod
    def open_labels(cls, path: Path) -> CocoPredictions:
        """All shards of a label set.

        Raises:
            FormatError: the set is unfinished or damaged.
        """
        index = LabelSet.open(path).index
        images, sizes, _ = _open([path / shard["file"] for shard in index["shards"]])
        origin: dict[str, Any] = {key: index[key] for key in ("config", "weights") if key in index}
        return cls(path, images, sizes, False, origin, "label set")

    def names(self) -> Sequence[str]:
        return list(self.images)

    def find(self, ground_truth: ImageGroundTruth) -> str | None:
        if self.by_id:
            return str(ground_truth.id)  # a list of results cannot tell an image without detections from a missing one
        return ground_truth.name if ground_truth.name in self.images else None

    def size(self, name: str) -> tuple[int, int] | None:
        return self.sizes.get(name)

    def is_empty(self, name: str) -> bool:
        return name not in self.images or len(self.images[name]) == 0

    def image(self, name: str) -> CocoImagePrediction:
        if name not in self.images:
            return CocoImagePrediction(CocoImage(self.path, int(name), {}, np.zeros((0, 2), np.int64)))
        return CocoImagePrediction(self.images[name])


def _open(paths: Sequence[Path]) -> tuple[dict[str, CocoImage], dict[str, tuple[int, int] | None], bool]:
    """Images and (height, width) by name, and whether the names are image ids."""
    images: dict[str, CocoImage] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    by_id = False
    for path in paths:
        mask_sizes: dict[int, tuple[int, int]] = {}

        def check(annotation: Annotation, where: str, mask_sizes: dict[int, tuple[int, int]] = mask_sizes) -> None:
            _check_prediction(annotation, where, mask_sizes)

        file = CocoFile.open(path, check)
        by_id = file.is_results
        for image in file.images:
            name = str(image.id) if by_id else image.file_name
            mask_size = mask_sizes.get(image.id)
            size = mask_size if by_id else image.size
            if size is not None and mask_size not in (None, size):
                raise FormatError(f"{image}: expected masks of {size[0]} x {size[1]} pixels; got {mask_size}")
            if name in images:
                raise FormatError(f"{path}: expected each image once; got {name} twice")
            images[name], sizes[name] = image, size
    return images, sizes, by_id


def _check_prediction(annotation: Annotation, where: str, sizes: dict[int, tuple[int, int]]) -> None:
    """Check a prediction but for the content of its mask, and note the size of the masks of its image.

    Raises:
        FormatError: no score, neither mask nor box, a mask of another size than the other masks of the image.
    """
    segmentation, box, score = (annotation.get(key) for key in ("segmentation", "bbox", "score"))
    if not is_number(score):
        raise FormatError(
            f"{where}: expected a score, a finite number; got {reprlib.repr(score)}; ground truth has none: it is --gt"
        )
    if segmentation is None and box is None:
        raise FormatError(f"{where}: expected a segmentation or a bbox; got neither; see the COCO results format")
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise FormatError(f"{where}: expected bbox as [x, y, width, height], finite; got {reprlib.repr(box)}")
    if segmentation is None:
        return
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(is_whole(side, 1) for side in size):
        got = "polygons" if isinstance(segmentation, list) else reprlib.repr(segmentation)
        raise FormatError(
            f"{where}: expected the segmentation as run lengths {{size, counts}}; got {got}; convert it, for example "
            "with frPyObjects and merge of pycocotools.mask"
        )
    known = sizes.setdefault(annotation["image_id"], (size[0], size[1]))
    if known != tuple(size):
        raise FormatError(f"{where}: expected masks of one size, {known[0]} x {known[1]}; got {size}")
    if not isinstance(segmentation.get("counts"), str):
        encode_segmentation(annotation, known, where)
