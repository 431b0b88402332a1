"""Public calls with arguments of the wrong type or value; run as a script it prints each that raises another error
than masktree's own. ``tests/test_wrong_types.py`` runs it without the runtime type checks of the other tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import masktree
from masktree import MaskTree
from masktree.errors import MasktreeError
from masktree.evaluate.bsds import read_human_segmentations
from masktree.evaluate.ucm import read_ucm, ucm_tree
from masktree.io.images import as_rgb, read_image
from masktree.labels import LabelSet
from masktree.predict import load_model
from masktree.trees.nms import mask_nms

RGB = np.zeros((8, 9, 3), np.uint8)
WRONG: dict[str, Any] = {
    "None": None,
    "int": 3,
    "negative": -1,
    "huge": 10**400,
    "nan": float("nan"),
    "text": "nothing",
    "empty text": "",
    "nul": "a\0b",
    "bytes": b"bytes",
    "list": [1, "a"],
    "dict": {"a": 1},
    "object": object(),
    "floats": np.zeros((8, 9, 3)),
    "empty": np.zeros((0, 0, 3), np.uint8),
    "flat": np.zeros(5, np.uint8),
    "objects": np.array([None, "a"], object),
}


def small_tree() -> MaskTree:
    masks = np.zeros((2, 8, 9), np.bool_)
    masks[0, 1:6, 1:7], masks[1, 2:4, 2:5] = True, True
    return MaskTree.from_masks(masks)


def load_texture(name: str, value: Any) -> Any:
    return masktree.load("texture", **{name: value})


def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Name of a call and the call, which takes one wrong value."""
    tree = small_tree()
    segmenter = masktree.load("texture")
    dendrogram = segmenter(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)).dendrogram
    assert dendrogram is not None
    predictor = masktree.Predictor(tree)
    folder = Path(tempfile.mkdtemp())
    yield "load", masktree.load
    for name in ("device", "dtype", "method", "quality", "min_area", "iou_threshold"):
        yield f"load({name})", partial(load_texture, name)
    yield "load_model", load_model
    yield "load_backbone", masktree.load_backbone
    yield "segmenter", segmenter
    yield "Predictor", masktree.Predictor
    yield "set_image", masktree.Predictor(segmenter).set_image
    yield "set_image(tree)", predictor.set_image
    yield "set_image(image_format)", lambda value: predictor.set_image(None, value)
    yield "predict(points)", lambda value: predictor.predict(value, np.array([1]))
    yield "predict(labels)", lambda value: predictor.predict(np.array([[2, 3]]), value)
    yield "predict(box)", lambda value: predictor.predict(box=value)
    yield "predict(mask_input)", lambda value: predictor.predict(mask_input=value)
    yield "predict(granularity)", lambda value: predictor.predict([[3, 3]], [1], granularity=value)
    yield "Predictor(outputs)", lambda value: masktree.Predictor(tree, num_multimask_outputs=value)
    yield "AutomaticMaskGenerator", masktree.AutomaticMaskGenerator
    yield "generate", masktree.AutomaticMaskGenerator(segmenter).generate
    yield "overlay(image)", lambda value: masktree.overlay(value, tree)
    yield "overlay(tree)", lambda value: masktree.overlay(RGB, value)
    yield "overlay(granularity)", lambda value: masktree.overlay(RGB, tree, granularity=value)
    yield "from_masks", MaskTree.from_masks
    yield "from_masks(coverage)", lambda value: MaskTree.from_masks(tree.masks(), min_coverage=value)
    yield "from_rles", lambda value: MaskTree.from_rles(value, (8, 9), np.array([-1]))
    yield "from_rles(size)", lambda value: MaskTree.from_rles(tree.rles, value, tree.parents)
    yield "from_rles(parents)", lambda value: MaskTree.from_rles(tree.rles, tree.size, value)
    yield "tree[]", lambda value: tree[value]
    yield "tree.mask", tree.mask
    yield "tree.record", tree.record
    yield "tree.at", lambda value: tree.at(value, 2)
    yield "tree.cut", tree.cut
    yield "tree.owners", tree.owners
    yield "tree.draw", tree.draw
    yield "tree.to_coco", tree.to_coco
    yield "tree.coco_annotations", tree.coco_annotations
    yield "show", lambda value: masktree.show(value, tree)
    yield "tree.save", lambda value: tree.save(folder / value if isinstance(value, str) else value)
    yield "MaskTree.load", MaskTree.load
    yield "snap(tree)", lambda value: masktree.snap_to_regions(value, dendrogram)
    yield "snap(dendrogram)", lambda value: masktree.snap_to_regions(tree, value)
    yield "LabelSet.open", LabelSet.open
    yield "nms(masks)", lambda value: mask_nms(value, (8, 9), np.ones(2))
    yield "nms(scores)", lambda value: mask_nms(tree.rles, (8, 9), value)
    yield "nms(threshold)", lambda value: mask_nms(tree.rles, (8, 9), np.ones(2), iou_threshold=value)
    yield "nms(size)", lambda value: mask_nms(tree.rles, value, np.ones(2))
    yield "as_rgb", as_rgb
    yield "read_image", read_image
    yield "read_ucm", read_ucm
    yield "ucm_tree", ucm_tree
    yield "read_human_segmentations", read_human_segmentations


def main() -> None:
    tried = 0
    for name, call in calls():
        for kind, value in WRONG.items():
            tried += 1
            try:
                call(value)
            except MasktreeError:
                pass
            except OSError as error:  # what the system says about a path, such as one that does not exist
                if name not in ("tree.save", "MaskTree.load"):
                    print(f"{name} with {kind}: {error!r}")
            except Exception as error:
                print(f"{name} with {kind}: {type(error).__name__}: {str(error)[:90]!r}")
    print(tried, "calls")


if __name__ == "__main__":
    main()
