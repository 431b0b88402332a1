"""Trees in files: a planted one whose masks are known, and dendrograms of random features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from masktree.cluster.merge import merge_tree
from masktree.edits import EditedTree
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

SIZE = (40, 50)
PARENTS = (-1, 0, 0, 1, 1, -1)


def planted_masks() -> np.ndarray:
    """A body with two legs, the first of which has two feet, and a ball apart."""
    masks = np.zeros((6, *SIZE), bool)
    masks[0, 5:35, 5:35] = True  # body
    masks[1, 8:32, 8:18] = True  # first leg
    masks[2, 8:32, 20:32] = True  # second leg
    masks[3, 10:16, 9:17] = True  # feet of the first
    masks[4, 20:28, 9:17] = True
    masks[5, 10:20, 38:48] = True  # ball
    return masks


def planted_tree() -> MaskTree:
    scores = np.linspace(0.9, 0.4, 6).astype(np.float32)
    rles = [rle.encode(mask) for mask in planted_masks()]
    return MaskTree.from_rles(rles, SIZE, np.array(PARENTS, np.int32), scores=scores)


def planted(folder: Path) -> EditedTree:
    """The planted tree in a file ``a.json``."""
    planted_tree().save(folder / "a.json", image={"file_name": "a.png"})
    return EditedTree.open(folder / "a.json")


def random_tree(seed: int, size: tuple[int, int] = (24, 31)) -> MaskTree:
    """Nested masks of a dendrogram of smooth random features."""
    features = np.random.default_rng(seed).normal(size=(*size, 5)).astype(np.float32)
    features = ndimage.gaussian_filter(features, (2, 2, 0))
    dendrogram = merge_tree(features / np.linalg.norm(features, axis=2, keepdims=True))
    altitudes = np.minimum(dendrogram.altitudes / 2, 1)
    return MaskTree.from_dendrogram(dendrogram.with_altitudes(altitudes), min_area=12, max_masks=25)


def mask_of(edited: EditedTree, identity: int) -> np.ndarray:
    """The pixels of a mask by its id."""
    return edited.tree.mask(edited.ids.tolist().index(identity))


def parent_of(edited: EditedTree, identity: int) -> int:
    """The id of the parent, -1 for roots."""
    parent = int(edited.tree.parents[edited.ids.tolist().index(identity)])
    return parent if parent < 0 else int(edited.ids[parent])


def content(edited: EditedTree) -> tuple[object, ...]:
    """Everything that edits can change, as plain values."""
    tree = edited.tree
    columns = (tree.parents, tree.scores, tree.granularities, tree.stabilities, tree.levels)
    return (
        edited.ids.tolist(),
        tree.rles,
        *(column.tolist() for column in columns),
        edited.status,
        edited.names,
        edited.classes,
        edited.class_names,
    )
