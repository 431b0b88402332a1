"""COCO's instance format: one file for all images (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from masktree.export.image import CLASS, SOFTWARE, LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.files import write_json_lists
from masktree.trees.masktree import CATEGORY


class Categories:
    """COCO's categories of the class names that have come up, numbered from 1 in that order."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def expect(self, names: Iterable[str]) -> None:
        """Number the classes of a user's list in its order, before masks of them come up."""
        for name in names:
            self.id_of(name)

    def id_of(self, name: str) -> int:
        return self._ids.setdefault(name, len(self._ids) + 1)

    def records(self) -> list[dict[str, Any]]:
        return [{"id": number, "name": name, "supercategory": "entity"} for name, number in self._ids.items()]


def write_coco(images: Iterable[LabelledImage], path: Path, options: ExportOptions) -> None:
    """Annotations with compressed run lengths and masktree's keys: parent_id, level, depth, kind, granularity,
    score, stability. ``attributes`` has parent_id, level and kind again, where datumaro and CVAT look for further
    values.

    Categories are the user's classes in their order, those of the masks, and ``entity`` for masks without one. Names
    and decisions of people are the keys name and status. Images stand after the annotations, so that one image is in
    memory at a time.
    """
    categories = Categories()
    records: list[dict[str, Any]] = []

    def annotations() -> Iterator[dict[str, Any]]:
        first_id = 1
        for image in images:
            height, width = image.tree.size
            records.append({"id": image.number, "file_name": image.file_name, "width": width, "height": height})
            categories.expect(image.class_list)
            names = image.class_names(default=CLASS)
            for index, annotation in enumerate(image.tree.coco_annotations(image.number, first_id)):
                annotation["category_id"] = categories.id_of(names[index])
                annotation["attributes"] = {key: annotation[key] for key in ("parent_id", "level", "kind")}
                yield annotation | {key: values[index] for key, values in image.extras.items()}
            first_id += len(image.tree)

    lists: dict[str, Iterable[Any]] = {"annotations": annotations(), "images": records}
    write_json_lists(path, {"info": {"description": SOFTWARE}}, lists | {"categories": _late(categories)})


def _late(categories: Categories) -> Iterator[dict[str, Any]]:
    """The categories at the time when they are written."""
    yield from categories.records() or [dict(CATEGORY)]
