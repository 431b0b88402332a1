"""An auto-annotation function for CVAT: masks of every level, with their hierarchy as attributes.

    python examples/cvat_function.py > labels.json      # labels of the project: paste them into its tab Raw
    cvat-cli --server-host SERVER --auth USER task auto-annotate 123 --function-file examples/cvat_function.py
    cvat-cli ... --function-file examples/cvat_function.py -p levels=str:whole,part -p max_masks=int:100

It needs cvat-cli and runs on this machine: images are downloaded from the task, masks are uploaded. With
--conf-threshold, masks of lower scores are left out; with --conv-mask-to-poly, masks are outlines without holes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image
from cvat_sdk import models
from cvat_sdk.masks import encode_mask

import masktree
from masktree.trees.mask_selection import select_masks
from masktree.trees.masktree import LEVELS

ATTRIBUTES = ("id", "parent_id", "granularity", "score")  # of each mask; parent_id is empty for roots


class MasktreeFunction:
    """See the module; arguments as of ``create``."""

    def __init__(self, segmenter: Any, levels: tuple[str, ...], min_area: float, max_masks: int | None) -> None:
        self._segmenter, self._levels, self._min_area, self._max_masks = segmenter, levels, min_area, max_masks
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(
                    name,
                    LEVELS.index(name),
                    type="mask",
                    attributes=[cvataa.text_attribute_spec(key, number) for number, key in enumerate(ATTRIBUTES)],
                )
                for name in levels
            ]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """The masks of an image, wholes before their parts."""
        tree = self._segmenter(image)
        keep = select_masks(
            tree,
            levels=self._levels,
            min_area=self._min_area,
            min_score=context.conf_threshold or 0.0,
            max_masks=self._max_masks,
        )
        tree = replace(tree[keep], levels=tree.levels[keep])
        polygons = tree.polygons() if context.conv_mask_to_poly else []
        shapes = []
        for index in range(len(tree)):
            label, depth = int(tree.levels[index]), int(tree.depths[index])
            if context.conv_mask_to_poly:
                outlines = [piece.exterior.ravel().tolist() for piece in polygons[index]]
                made = [cvataa.polygon(label, outline, z_order=depth) for outline in outlines]
            else:
                x, y, width, height = tree.boxes[index].tolist()
                points = encode_mask(tree.mask(index), [x, y, x + width, y + height])
                made = [cvataa.mask(label, points, z_order=depth)]
            for shape in made:
                shape.attributes = self._attributes(tree, index)  # of its own: CVAT changes them
            shapes += made
        return sorted(shapes, key=lambda shape: shape.z_order)

    def _attributes(self, tree: masktree.MaskTree, index: int) -> list[models.AttributeValRequest]:
        record = tree.record(index)
        texts = ("" if record[key] is None else str(record[key]) for key in ATTRIBUTES)
        return [models.AttributeValRequest(spec_id=number, value=text) for number, text in enumerate(texts)]


def create(
    model: str = "embedded", levels: str = ",".join(LEVELS), min_area: float = 0, max_masks: int = 1000
) -> MasktreeFunction:
    """What cvat-cli calls with its parameters.

    Args:
        model: backbone or trained model, as for ``masktree.load``.
        levels: whole, part and subpart, with commas between.
        min_area: smallest mask in pixels.
        max_masks: of an image, those of highest score.
    """
    return MasktreeFunction(masktree.load(model), tuple(levels.split(",")), min_area, max_masks)


def project_labels() -> list[dict[str, Any]]:
    """Labels with attributes, as the tab Raw of a project's constructor takes them."""
    attributes = [
        {"name": key, "mutable": False, "input_type": "text", "default_value": "", "values": [""]} for key in ATTRIBUTES
    ]
    return [{"name": name, "type": "any", "attributes": attributes} for name in LEVELS]


if __name__ == "__main__":
    print(json.dumps(project_labels(), indent=1))
