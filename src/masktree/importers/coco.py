"""COCO files and files of SA-1B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masktree.coco.annotations import read_crowd
from masktree.coco.file import CocoFile, CocoImage, open_sa1b
from masktree.coco.json_entries import read_entries
from masktree.coco.masks import has_segmentation, read_mask
from masktree.errors import FormatError
from masktree.importers.image import ForeignImage, ForeignMask, checked_score, foreign, warn_of_others


def read_coco(path: Path) -> Iterator[ForeignImage]:
    """The images of a COCO file. Crowds and annotations with a box only are left out; ``parent_id`` makes the tree.

    Raises:
        FormatError: damaged, or a file of results.
    """
    file = CocoFile.open(path)
    if file.is_results:
        raise FormatError(f"{path}: expected a COCO file with images and annotations; got a list of results")
    names: dict[Any, str] = {}
    for entry in read_entries(path):
        if entry.key == "categories" and isinstance(entry.value, dict) and isinstance(entry.value.get("name"), str):
            category = entry.value.get("id")
            names[category] = entry.value["name"].encode("latin-1", "replace").decode("utf-8", "replace")
    for image in file.images:
        yield _image(image, path, names)


def read_sa1b(path: Path) -> Iterator[ForeignImage]:
    """The image of a file of SA-1B; errors as ``read_coco``."""
    yield _image(open_sa1b(path), path, {})


def _image(image: CocoImage, path: Path, names: dict[Any, str]) -> ForeignImage:
    def read(_: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        masks = []
        annotations = image.annotations()
        for annotation in annotations:
            where = f"{image}, annotation {annotation.get('id')}"
            if read_crowd(annotation, where) or not has_segmentation(annotation):
                continue
            mask = read_mask(annotation, image.size, where)
            with foreign(f"annotations as COCO has them in {where}"):
                score = annotation.get("score", annotation.get("predicted_iou"))
                score = None if score is None else min(float(score), 1.0)  # SA-1B's estimates may exceed 1
                name = annotation.get("class", names.get(annotation.get("category_id")))
                masks.append(
                    ForeignMask(mask, annotation.get("id"), annotation.get("parent_id"), name, checked_score(score))
                )
        warn_of_others(len(annotations) - len(masks), "crowds and boxes")
        return image.size, masks

    return ForeignImage(image.file_name, read, path)
