"""Trees as labels layers of napari, and back.

The label of a mask is its id + 1, in every layer. ``features`` has a row per label, by its column ``index``: id,
parent_id (-1 for roots), level, score, granularity, stability. A layer holds one label per pixel, so that smaller masks
lie over larger ones; the tree itself goes with the layer, as metadata, so that saving it loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.types import Labels

Layer = tuple[Any, dict[str, Any], str]  # data, arguments and type of a layer, as napari's readers give them
TREE, LEVEL = "masktree.tree", "masktree.level"  # keys of a layer's metadata


def level_layers(tree: MaskTree) -> list[Layer]:
    """A labels layer for each level that has nodes, wholes first."""
    tree = tree.nodes
    layers: list[Layer] = []
    for level, name in enumerate(LEVELS):
        ids = np.flatnonzero(tree.levels == level)
        if len(ids):
            arguments = {"name": f"{name}s", "features": mask_features(tree, ids), "opacity": 0.5}
            layers.append((_level_labels(tree, level), arguments | {"metadata": {TREE: tree, LEVEL: level}}, "labels"))
    return layers


def _level_labels(tree: MaskTree, level: int) -> Labels:
    """(H, W) int32: id + 1 of the smallest mask of a level at each pixel, 0 for none."""
    ids = np.flatnonzero(tree.levels == level)
    return tree.paint(ids[np.argsort(-tree.areas[ids], kind="stable")]) + 1


def mask_features(tree: MaskTree, ids: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of ``features`` of some masks."""
    return {
        "index": ids + 1,
        "id": ids,
        "parent_id": tree.parents[ids],
        "level": np.array(LEVELS)[tree.levels[ids]],
        "score": tree.scores[ids],
        "granularity": tree.granularities[ids],
        "stability": tree.stabilities[ids],
    }


def cut_layer(tree: MaskTree, granularity: float) -> Layer:
    """The regions of a cut as a labels layer; ``id`` is their number in it, from 0.

    Of the smallest mask of the tree from this granularity on that contains a region, ``parent_id``, ``level`` and
    ``score`` are given: that is the region itself where it is a mask; -1, "" and 0 where there is none.
    """
    tree = tree.nodes
    labels = tree.cut(granularity)
    count = int(labels.max()) + 1
    first = np.unique(labels, return_index=True)[1]
    coarse = np.flatnonzero(tree.granularities >= granularity)
    owners = tree.paint(coarse[np.argsort(-tree.areas[coarse], kind="stable")]).ravel()[first]
    has_mask = owners >= 0
    features = {
        "index": np.arange(count) + 1,
        "id": np.arange(count),
        "parent_id": owners,
        "level": np.where(has_mask, np.array(LEVELS)[tree.levels[owners]], "") if len(tree) else np.full(count, ""),
        "score": np.where(has_mask, tree.scores[owners], 0) if len(tree) else np.zeros(count),
        "granularity": np.full(count, granularity),
    }
    return labels + 1, {"name": "cut", "features": features, "opacity": 0.5}, "labels"


def tree_of_layers(layers: Sequence[tuple[Any, Mapping[str, Any]]]) -> MaskTree:
    """The tree of the masks in labels layers.

    Masks of ``level_layers`` keep parents, scores, granularities and stabilities, and pixels that smaller masks cover.
    Pixels that were erased, or given to another mask of the tree, are taken from them, pixels that were painted are
    added, and masks of which nothing is left to see are gone. Other labels, newly drawn ones too, are masks of score 1,
    under parents by coverage; of equal ones the first is taken.

    Args:
        layers: labels (H, W) and metadata of each.

    Raises:
        InputError: none, or labels that are not 2-D or of several sizes.
    """
    arrays = [np.asarray(data) for data, _ in layers]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 2 or arrays[0].size == 0:
        shapes = ", ".join(str(array.shape) for array in arrays) or "none"
        raise InputError(f"expected labels of one image, (height, width); got {shapes}; select layers of one 2-D image")
    size = (arrays[0].shape[0], arrays[0].shape[1])
    masks: list[_Mask] = []
    seen: set[bytes] = set()
    for array, (_, metadata) in zip(arrays, layers, strict=True):
        for mask in _masks(array, metadata):
            if mask.tree is not None or mask.rle not in seen:
                masks.append(mask)
                seen.add(mask.rle)
    tree = MaskTree.from_rles([mask.rle for mask in masks], size, _parents(masks, size))
    columns = {name: getattr(tree, name).copy() for name in ("scores", "granularities", "stabilities")}
    for index, mask in enumerate(masks):
        if mask.tree is not None:
            for name, column in columns.items():
                column[index] = getattr(mask.tree, name)[mask.id]
    dendrogram = next((mask.tree.dendrogram for mask in masks if mask.tree is not None), None)
    return replace(tree, dendrogram=dendrogram, **columns)


class _Mask(NamedTuple):
    """A mask of a layer, with the tree that it is from and its id there; None for any other label."""

    rle: bytes
    tree: MaskTree | None = None
    id: int = -1


def _masks(labels: np.ndarray, metadata: Mapping[str, Any]) -> Iterator[_Mask]:
    """The masks of a layer: first those of its tree, then other labels."""
    tree, level = metadata.get(TREE), metadata.get(LEVEL)
    known: list[int] = []
    if isinstance(tree, MaskTree) and isinstance(level, int) and tree.size == labels.shape:
        ids = np.flatnonzero(tree.levels == level)
        known = (ids + 1).tolist()
        before = _level_labels(tree, level)
        changed = before != labels
        touched = {*np.unique(before[changed]).tolist(), *np.unique(labels[changed]).tolist()}
        is_given_away = changed & (np.isin(labels, known) | (labels == 0))
        for index in ids.tolist():
            if index + 1 not in touched:
                yield _Mask(tree.rles[index], tree, index)
                continue
            was, now = before == index + 1, labels == index + 1
            if now.any() or not was.any():
                yield _Mask(rle.encode((tree.mask(index) & ~(was & is_given_away)) | now), tree, index)
    values, dense = np.unique(labels, return_inverse=True)
    drawn = np.flatnonzero(~np.isin(values, [0, *known]))
    for text in rle.encode_intervals(dense.reshape(labels.shape).astype(np.int32), drawn, drawn + 1):
        yield _Mask(text)


def _parents(masks: Sequence[_Mask], size: tuple[int, int]) -> np.ndarray:
    """Of masks of a tree the nearest ancestor that is there, of others by coverage.

    There are no cycles: masks of a tree have parents in it only, and coverage goes from smaller to larger masks.
    """
    parents = np.full(len(masks), -1, np.int32)
    if any(mask.tree is None for mask in masks):
        parents = hierarchy.parents_by_coverage([mask.rle for mask in masks], size)
    place = {(id(mask.tree), mask.id): index for index, mask in enumerate(masks) if mask.tree is not None}
    for index, mask in enumerate(masks):
        if mask.tree is not None:
            above = int(mask.tree.parents[mask.id])
            while above >= 0 and (id(mask.tree), above) not in place:
                above = int(mask.tree.parents[above])
            parents[index] = place.get((id(mask.tree), above), -1)
    return parents
