"""One label per object: the masks of a tree that are kept when no pixel may belong to two of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import logit

from masktree.arguments import check_number
from masktree.errors import InputError, MasktreeWarning
from masktree.trees import hierarchy
from masktree.types import Labels

if TYPE_CHECKING:
    from masktree.trees.masktree import MaskTree

# Borders that move by less than an IoU of .8 allows, as those of 70 % of all masks of photographs (our choice).
MIN_SCORE = 0.8
_MIN_ODDS = 1e-6  # scores from here to as far below 1 have finite odds
MIN_VISIBLE = 0.5  # of a mask's area, where better masks of other branches overlap it (our choice)


def select_instances(
    tree: MaskTree,
    *,
    min_score: float = MIN_SCORE,
    min_area: float = 0,
    max_area: float = 1,
    masks: Literal["nodes", "all"] = "nodes",
) -> tuple[Labels, np.ndarray]:
    """The best antichain of a tree as a label map: no instance is part of another.

    Of all sets of masks without an ancestor and its descendant, the one with the largest sum of ``logit(score) -
    logit(min_score)`` (our choice): a mask counts by how far its log-odds exceed those of the minimum, so that a
    whole is preferred to its parts unless these together are more certain. If all scores are lower than
    ``min_score``, a ``MasktreeWarning`` tells the highest one. Exact, by dynamic programming from the leaves to the
    roots in O(n). (HDBSCAN selects clusters from their hierarchy in this way, with another gain: Campello et al.
    2013, 10.1007/978-3-642-37456-2_14.)

    Masks of different branches may overlap, except the nodes of one dendrogram. Such pixels belong to the mask with the
    higher score; a mask of which less than half remains visible is left out.

    Args:
        tree: n masks with scores on the scale of a segmenter, see ``masktree.trees.scores``.
        min_score: lowest score of an instance, in [0, 1]. Higher gives fewer and, where wholes and parts compete,
            larger instances.
        min_area: smallest instance in pixels.
        max_area: largest instance as a fraction of the image, in [0, 1].
        masks: ``nodes``, or ``all``: combinations of nodes as well.

    Returns:
        (H, W) int32 labels, 0 for background and 1 to k for the instances, and the (k,) int64 indices of their masks,
        largest score first.

    Raises:
        InputError: a value out of range.
    """
    chosen = choose_instances(tree, min_score=min_score, min_area=min_area, max_area=max_area, masks=masks)
    owners = tree.paint(chosen[::-1])
    visible = np.bincount(owners[owners >= 0], minlength=len(tree))[chosen]
    kept = chosen[visible >= MIN_VISIBLE * tree.areas[chosen]]
    if len(kept) < len(chosen):
        owners = tree.paint(kept[::-1])
    labels = np.zeros(len(tree) + 1, np.int32)  # the last entry is that of -1, no mask
    labels[kept] = np.arange(1, len(kept) + 1)
    return labels[owners], kept


def choose_instances(
    tree: MaskTree,
    *,
    min_score: float = MIN_SCORE,
    min_area: float = 0,
    max_area: float = 1,
    masks: Literal["nodes", "all"] = "nodes",
) -> np.ndarray:
    """(k,) int64 indices of the masks of the best antichain, see ``select_instances``, largest score first; some may be
    hidden by others.

    Raises:
        InputError: a value out of range.
    """
    check_number(min_score, "min_score", 0, 1)
    check_number(max_area, "max_area", 0, 1)
    num_pixels = tree.size[0] * tree.size[1]
    check_number(min_area, "min_area", 0, float("inf"))
    if min_area > max_area * num_pixels:
        raise InputError(
            f"expected min_area up to max_area, {max_area:g} of {num_pixels} pixels; got {min_area:g}; areas are in "
            "pixels for min_area and fractions of the image for max_area"
        )
    eligible = (tree.scores >= min_score) & (tree.areas >= max(min_area, 1)) & (tree.areas <= max_area * num_pixels)
    if masks == "nodes":
        eligible &= tree.kinds == 0
    if len(tree) and tree.scores.max() < min_score:
        warnings.warn(
            f"no mask has a score of {min_score:g} or more, and so none is an instance; the highest of {len(tree)} is "
            f"{tree.scores.max():.3f}",
            MasktreeWarning,
            stacklevel=2,
        )
    indices = np.flatnonzero(eligible)
    parents = hierarchy.reparent(tree.parents, eligible)
    gains = np.maximum(_log_odds(tree.scores[indices]) - _log_odds(min_score), 0)
    chosen: np.ndarray = indices[best_antichain(parents, gains)]
    return chosen[np.argsort(-tree.scores[chosen], kind="stable")]


def _log_odds(scores: np.ndarray | float) -> np.ndarray:
    odds: np.ndarray = logit(np.clip(np.asarray(scores, np.float64), _MIN_ODDS, 1 - _MIN_ODDS))
    return odds


def best_antichain(parents: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Indices of the nodes of a forest with the largest sum of gains, none of them an ancestor of another.

    Of equal sums the one nearer to the roots; nodes without gain are only taken where their descendants have none.

    Args:
        parents: (n,) index of each node's parent, -1 for roots.
        gains: (n,) at least 0.

    Returns:
        (k,) ascending indices.
    """
    by_depth = np.argsort(hierarchy.depths(parents), kind="stable").tolist()
    below = np.zeros(len(parents))  # best sum of the descendants
    is_best = np.zeros(len(parents), np.bool_)  # whether a node alone is at least as good as its descendants
    for node in reversed(by_depth):
        is_best[node] = gains[node] >= below[node]
        if parents[node] >= 0:
            below[parents[node]] += max(gains[node], below[node])
    is_covered = np.zeros(len(parents), np.bool_)  # whether a node or one of its ancestors is taken
    taken = []
    for node in by_depth:
        above = parents[node] >= 0 and is_covered[parents[node]]
        if is_best[node] and not above:
            taken.append(node)
        is_covered[node] = above or is_best[node]
    return np.array(sorted(taken), np.int64)
