"""The masks of a trained model among those of the default method: unions of the same leaves, in one order.

A model's masks are snapped to the leaves of the image's dendrogram (``masktree.trees.snap``), so that they can be
compared with its nodes and combinations leaf by leaf. Of both the scores are the agreement to expect, see
``masktree.trees.scores``. The score of a mask is a weighted geometric mean of what either says about it, and either
says about a mask that it does not have what it says about its own masks, times their IoU with it (our choice). By
default the model has no say, so that its masks stand beside those of the method that they resemble: of a model of an
hour, any say makes fewer of the first masks segments of motion (see the log).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from masktree.arguments import check_number
from masktree.backbones.base import Backbone
from masktree.cluster.votes import merge_by_votes
from masktree.discover.methods import METHODS
from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import KINDS, MaskTree
from masktree.trees.snap import closest_regions, encode_unions
from masktree.types import RGB

MODEL_SHARE = 0.0  # weight of what the model says (chosen by motion in unlabelled videos; see the log)
DUPLICATE_IOU = 0.9  # above which a mask of the model beside a node, a combination or a better one is dropped, as there


class Predictions(NamedTuple):
    """n masks of a model as unions of leaves, best first.

    Attributes:
        inside: (n, leaves) bool: the leaves of each.
        scores: (n,) float64 in [0, 1].
    """

    inside: np.ndarray
    scores: np.ndarray


def snap_predictions(tree: MaskTree, dendrogram: PartitionTree) -> Predictions:
    """The masks of a model as unions of leaves of a dendrogram, none twice; those that no union fits are left out."""
    leaves = dendrogram.rles(np.arange(dendrogram.n_leaves))
    inside, fits = closest_regions(rle.cross_intersections(tree.rles, leaves, tree.size), dendrogram)
    order = np.argsort(-tree.scores, kind="stable")
    order = order[fits[order]]
    first = np.sort(np.unique(inside[order], axis=0, return_index=True)[1])
    return Predictions(inside[order[first]], tree.scores[order[first]].astype(np.float64))


def pool_with_method(
    image: RGB, predictions: MaskTree, backbone: Backbone, *, min_area: int | None = None, regroup: bool = False
) -> MaskTree:
    """The masks of the default method and of a model.

    Args:
        image: (H, W, 3) uint8 RGB.
        predictions: the masks of a model in this image; scores are the agreement to expect.
        backbone: of the default method.
        min_area: smallest mask of the default method in pixels; None takes its default.
        regroup: merge the dendrogram anew by the votes of the model's masks first, see ``masktree.cluster.votes``;
            images of small things, which are analysed at several sizes, keep theirs.
    """

    def merge_anew(dendrogram: PartitionTree) -> PartitionTree:
        return merge_by_votes(dendrogram, *snap_predictions(predictions, dendrogram))

    method = METHODS["masktree"]
    options: dict[str, Any] = {} if min_area is None else {"min_area": min_area}
    tree = method.calibration(method(image, backbone, remerge=merge_anew if regroup else None, **options))
    assert tree.dendrogram is not None
    return pool_predictions(tree, snap_predictions(predictions, tree.dendrogram))


def pool_predictions(
    tree: MaskTree, predictions: Predictions, *, share: float = MODEL_SHARE, duplicate_iou: float = DUPLICATE_IOU
) -> MaskTree:
    """The masks of a tree and those of a model, of kind ``model``, in one order.

    The nodes, and with them the hierarchy and the cuts, stay as they are. Masks of the model stand behind the others,
    as combinations do: their parent is the smallest node that contains them, they have no children, their granularity
    is that of the coarsest node inside them, and their stability is 0. Memory O(masks * (leaves + masks)).

    Args:
        tree: with a dendrogram of whose leaves its masks are unions; scores in [0, 1].
        predictions: on the leaves of this dendrogram.
        share: weight of what the model says, in [0, 1]; 0 keeps the order of the tree's masks.
        duplicate_iou: a mask of the model with a larger IoU with a mask of the tree, or with a better one of the model,
            is dropped.

    Raises:
        InputError: a tree without dendrogram, other leaves, or a value out of range.
    """
    check_number(share, "share", 0, 1)
    check_number(duplicate_iou, "duplicate_iou", 0, 1)
    dendrogram = tree.dendrogram
    if dendrogram is None:
        raise InputError(f"expected a tree with dendrogram; got {tree}; segment the image with the method masktree")
    if predictions.inside.shape != (len(predictions.scores), dendrogram.n_leaves):
        raise InputError(
            f"expected predictions as unions of {dendrogram.n_leaves} leaves; got {predictions.inside.shape}; snap them"
        )
    if len(predictions.scores) == 0:
        return tree
    areas = dendrogram.areas[: dendrogram.n_leaves]
    found = leaves_inside(tree)
    new = predictions.inside[_distinct(predictions, found, areas, duplicate_iou)]
    inside = np.concatenate([found, new])
    model_says = (_ious(inside, predictions.inside, areas) * predictions.scores).max(axis=1)
    tree_says = tree.scores.astype(np.float64)
    if len(tree):
        tree_says = np.concatenate([tree_says, (_ious(new, found, areas) * tree_says).max(axis=1)])
    else:
        tree_says = np.zeros(len(new))
    scores = tree_says ** (1 - share) * model_says**share
    return _append(tree, found, new, scores)


def _distinct(predictions: Predictions, found: np.ndarray, areas: np.ndarray, duplicate_iou: float) -> np.ndarray:
    """Indices of the predictions that are no near-duplicate of a mask of the tree or of a better prediction."""
    known = _ious(predictions.inside, found, areas).max(axis=1, initial=0) > duplicate_iou
    similar = _ious(predictions.inside, predictions.inside, areas) > duplicate_iou
    kept: list[int] = []
    for i in np.argsort(-predictions.scores, kind="stable").tolist():
        if not known[i] and not similar[i, kept].any():
            kept.append(i)
    return np.array(kept, np.int64)


def _ious(first: np.ndarray, second: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(n, m) float64 IoU of unions of leaves, (n, leaves) and (m, leaves) bool."""
    one, two = first.astype(np.float32), second.astype(np.float32)
    shared = ((one * areas.astype(np.float32)) @ two.T).astype(np.float64)
    united = (first @ areas)[:, None] + second @ areas - shared
    return shared / np.maximum(united, 1)


def _append(tree: MaskTree, found: np.ndarray, inside: np.ndarray, scores: np.ndarray) -> MaskTree:
    """The tree, whose masks have the leaves ``found``, with further unions of leaves behind them, and new scores for
    all."""
    assert tree.dendrogram is not None
    new_parents = _smallest_nodes(tree, found, inside)
    granularities = _coarsest_inside(tree.dendrogram, inside)
    limits = np.where(new_parents >= 0, tree.granularities[new_parents], 1.0)
    parents = np.concatenate([tree.parents, new_parents])
    return replace(
        tree,
        rles=(*tree.rles, *encode_unions(inside, tree.dendrogram)),
        parents=parents,
        scores=scores.astype(np.float32),
        granularities=np.concatenate([tree.granularities, np.minimum(granularities, limits).astype(np.float32)]),
        stabilities=np.concatenate([tree.stabilities, np.zeros(len(inside), np.float32)]),
        levels=hierarchy.levels(parents),
        kinds=np.concatenate([tree.kinds, np.full(len(inside), KINDS.index("model"), np.int8)]),
    )


def _smallest_nodes(tree: MaskTree, found: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(n,) int32 index of the smallest node of the tree that contains each union of leaves, -1 where there is none."""
    nodes = np.flatnonzero(tree.kinds == 0)
    if len(nodes) == 0:
        return np.full(len(inside), -1, np.int32)
    nodes = nodes[np.argsort(tree.areas[nodes], kind="stable")]
    outside = ~found[nodes]
    misses = inside.astype(np.float32) @ outside.T.astype(np.float32) > 0
    first = np.argmin(misses, axis=1)
    return np.where(misses.all(axis=1), -1, nodes[first]).astype(np.int32)


def _coarsest_inside(dendrogram: PartitionTree, inside: np.ndarray) -> np.ndarray:
    """(n,) float64 highest altitude of a node all of whose leaves are in each union."""
    low, high = dendrogram.intervals
    counts = np.zeros((len(inside), dendrogram.n_leaves + 1), np.int64)
    np.cumsum(inside[:, dendrogram.order], axis=1, out=counts[:, 1:])
    is_whole = counts[:, high] - counts[:, low] == high - low
    return np.where(is_whole, dendrogram.altitudes, 0).max(axis=1)


def leaves_inside(tree: MaskTree) -> np.ndarray:
    """(n, leaves) bool: whether the first pixel of each leaf is in each of n masks."""
    assert tree.dendrogram is not None
    pixels = _first_pixels(tree.dendrogram.leaves, tree.dendrogram.n_leaves)
    order = np.argsort(pixels, kind="stable")
    inside = np.zeros((len(tree), len(pixels)), np.bool_)
    inside[:, order] = _contain(*rle.runs(tree.rles, tree.size), pixels[order])
    return inside


@kernel()
def _first_pixels(leaves: np.ndarray, count: int) -> np.ndarray:  # pragma: no cover
    """Column-major number of the first pixel of each leaf in row-major order; -1 of one without pixels."""
    pixels = np.full(count, -1, np.int64)
    for y in range(leaves.shape[0]):
        for x in range(leaves.shape[1]):
            if pixels[leaves[y, x]] < 0:
                pixels[leaves[y, x]] = x * leaves.shape[0] + y
    return pixels


@kernel()
def _contain(
    starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, pixels: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """Whether each run-length mask contains each of some ascending pixels."""
    inside = np.zeros((len(offsets) - 1, len(pixels)), np.bool_)
    for i in range(len(inside)):
        run = offsets[i]
        for k in range(len(pixels)):
            while run < offsets[i + 1] and ends[run] <= pixels[k]:
                run += 1
            inside[i, k] = run < offsets[i + 1] and starts[run] <= pixels[k]
    return inside
