"""COCO's panoptic format: a PNG per image whose colours are numbers of segments, and one JSON file
(cocodataset.org/#format-data, "Panoptic Segmentation")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masktree.export.coco import Categories
from masktree.export.image import CLASS, SOFTWARE, LabelledImage
from masktree.export.options import ExportOptions, cut_tree
from masktree.io.files import write_atomically, write_json_lists
from masktree.trees.masktree import CATEGORY

DEFAULT_GRANULARITY = 0.5  # (our choice)


def write_panoptic(images: Iterable[LabelledImage], folder: Path, options: ExportOptions) -> None:
    """``panoptic.json`` and ``panoptic/NAME.png``, in which red + 256 green + 65536 blue is the id of a segment.

    Segments are the regions of one cut, which cover every pixel; hierarchy is lost.
    """
    categories = Categories()
    records: list[dict[str, Any]] = []
    granularity = options.granularities[0] if options.granularities else DEFAULT_GRANULARITY

    def annotations() -> Iterator[dict[str, Any]]:
        for image in images:
            cut = replace(image, tree=cut_tree(image.tree, granularity), classes=None, extras={})
            height, width = cut.tree.size
            picture = f"{image.name}.png"
            _write_ids(folder / "panoptic" / picture, cut.tree.paint(np.arange(len(cut.tree))) + 1)
            records.append({"id": image.number, "file_name": image.file_name, "width": width, "height": height})
            segments = [
                {
                    "id": index + 1,
                    "category_id": categories.id_of(CLASS),
                    "area": int(cut.tree.areas[index]),
                    "bbox": cut.tree.boxes[index].tolist(),
                    "iscrowd": 0,
                }
                for index in range(len(cut.tree))
            ]
            yield {"image_id": image.number, "file_name": picture, "segments_info": segments}

    def late_categories() -> Iterator[dict[str, Any]]:
        yield from ({**category, "isthing": 1} for category in categories.records() or [dict(CATEGORY)])

    lists: dict[str, Iterable[Any]] = {"annotations": annotations(), "images": records}
    head = {"info": {"description": f"{SOFTWARE}, cut at granularity {granularity:g}"}}
    write_json_lists(folder / "panoptic.json", head, lists | {"categories": late_categories()})


def _write_ids(path: Path, ids: np.ndarray) -> None:
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    picture = Image.fromarray(colors)
    write_atomically(path, lambda handle: picture.save(handle, format="PNG"))
