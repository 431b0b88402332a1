"""The order of masks, learned from motion: what moves together in videos, and apart from its surroundings, is a thing.

The scores of ``find_candidates`` say how stable a region is. A gradient-boosted sum of small trees F over
features of a still image corrects them: it was fitted to frames of unlabelled videos (``recipes/order.py``), so that
score * exp(F) is how well a mask fits a segment of moving pixels. What does not move in such videos, or leaves the
frame, has nothing to say there, so that only a part of F is applied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.backbones.texture.words import lab
from masktree.errors import InputError, WeightsError
from masktree.kernels import kernel
from masktree.trees.candidates import MaskCandidates
from masktree.trees.masktree import MAX_MASKS
from masktree.types import RGB

ORDER_FILE = Path(__file__).parents[1] / "weights" / "order.npz"
# Of F, for masks that touch at most one side of the image and others (our choice: what touches two is seldom a thing
# that moves in front of a camera, yet often a region that people look for)
STRENGTH, FRAME_STRENGTH = 0.5, 0.25
SMALL_AREA = 0.005  # of the image: the order was learned from segments of at least this area
# Candidates that are compared, per mask (our choice: of four per mask, hardly more is found)
CANDIDATES_PER_MASK = 2.5
_MAX_SIDE = 640  # of the picture that features are taken from; larger ones are reduced by a whole factor (our choice)
_MIN_SCORE = 1e-6
FEATURES = (
    "log_area", "log_score", "stability", "altitude", "is_combination", "leaves", "sides", "frame", "compactness",
    "fill", "aspect", "box_width", "box_height", "offset_x", "centre_y", "eccentricity", "spread", "border_outside",
    "border_inside", "border_deviation", "border_highest", "border_lowest", "border_contrast", "length_inside",
    "lightness_deviation", "chroma_deviation", "lightness_contrast", "chroma_contrast", "lightness_step",
    "chroma_step", "lightness_difference", "lightness_rarity", "chroma_rarity", "chroma", "parent_area",
    "parent_score", "has_parent", "parent_sides", "rank", "children", "child_score", "gap",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MotionOrder:
    """A sum of t binary trees with up to s splits each, and what keeps the scores on their scale.

    Attributes:
        features: (t, s) int16, index of the feature that a split looks at.
        thresholds: (t, s) float32; up to it goes left.
        children: (t, s, 2) int16, left and right: the number of a split, or -1 - k for leaf k.
        values: (t, s + 1) float32, of the leaves.
        learned, scores: (k,) float64, increasing: the corrected scores, and those of the same rank among all masks of
            the frames before; so scores have the distribution that they had.
    """

    features: np.ndarray
    thresholds: np.ndarray
    children: np.ndarray
    values: np.ndarray
    learned: np.ndarray
    scores: np.ndarray

    @classmethod
    def load(cls, path: Path) -> MotionOrder:
        """Read a file of ``save``.

        Raises:
            WeightsError: no such file, or a damaged one.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{path}: expected the order of masks; got {error}; install masktree again") from error

    def save(self, path: Path) -> None:
        """Write as a NumPy archive."""
        with path.open("wb") as handle:
            np.savez_compressed(handle, **{name: getattr(self, name) for name in self.__dataclass_fields__})

    def predict(self, features: np.ndarray) -> np.ndarray:
        """F of n masks: (n,) float64, from (n, k) float32 features."""
        return _sum_trees(features, self.features, self.thresholds, self.children, self.values)

    def correct(self, scores: np.ndarray, features: np.ndarray) -> np.ndarray:
        """(n,) float64 scores in [0, 1] in the learned order, from those in (0, 1] and the features."""
        raw = correct_scores(scores, features, self.predict(features))
        corrected: np.ndarray = np.clip(np.interp(raw, self.learned, self.scores), 0, 1)
        return corrected


@lru_cache(maxsize=1)
def motion_order() -> MotionOrder:
    """The order of the package."""
    return MotionOrder.load(ORDER_FILE)


def num_candidates(max_masks: int | None) -> int | None:
    """How many regions are compared, so that ``choose_by_motion`` finds that many masks; None for all."""
    return None if max_masks is None else int(CANDIDATES_PER_MASK * _num_ranked(max_masks))


def choose_by_motion(candidates: MaskCandidates, image: RGB, max_masks: int | None) -> MaskCandidates:
    """The best candidates in the learned order, with corrected scores.

    Regions smaller than ``SMALL_AREA`` are those that would be among the masks without correction, as the order was
    not learned from such.

    Args:
        candidates: of the image, ``num_candidates`` if there are so many.
        image: (H, W, 3) uint8 RGB.
        max_masks: number of masks, at least 1; None for all.
    """
    scores = motion_order().correct(candidates.scores, mask_features(candidates, image))
    corrected = replace(candidates, scores=scores)
    if max_masks is None:
        return corrected
    count = _num_ranked(max_masks)
    is_small = candidates.areas < SMALL_AREA * image.shape[0] * image.shape[1]
    keep = is_small & _is_among_best(candidates.scores, count)
    keep |= ~is_small & _is_among_best(np.where(is_small, -np.inf, scores), count - int(keep.sum()))
    return corrected.select(keep & _is_among_best(np.where(keep, scores, -np.inf), max_masks))


def _num_ranked(max_masks: int) -> int:
    """Of how many masks the best ``max_masks`` are: the default number, so that fewer are the first of these."""
    return max(max_masks, MAX_MASKS)


def _is_among_best(scores: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool: whether a score is one of the highest ``count``, of equal ones the first."""
    is_best = np.zeros(len(scores), np.bool_)
    is_best[np.argsort(-scores, kind="stable")[:count]] = True
    return is_best


def correct_scores(scores: np.ndarray, features: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Scores times exp(F), F weighted by whether a mask touches two sides of the image."""
    strength = np.where(features[:, FEATURES.index("sides")] <= 1, STRENGTH, FRAME_STRENGTH)
    corrected: np.ndarray = scores * np.exp(strength * learned)
    return corrected


def mask_features(candidates: MaskCandidates, image: RGB) -> np.ndarray:
    """(n, k) float32 ``FEATURES`` of n regions of a dendrogram.

    About 50 ms for 2,500 regions at 640 pixels. Lengths are relative to the image or to the region, colours are Lab.

    Raises:
        InputError: an image of another size.
    """
    size, count = candidates.dendrogram.size, candidates.dendrogram.n_leaves
    if size != image.shape[:2]:
        raise InputError(f"expected an image of the dendrogram's {size} pixels; got {image.shape[:2]}; segment it")
    if len(candidates) == 0:
        return np.zeros((0, len(FEATURES)), np.float32)
    step = -(-max(size) // _MAX_SIDE)
    picture = lab(np.asarray(Image.fromarray(image).reduce(step)) if step > 1 else image)
    dendrogram = candidates.dendrogram
    if step > 1:
        dendrogram = dendrogram.with_leaves(np.ascontiguousarray(dendrogram.leaves[::step, ::step]))
    inside = candidates.leaves_inside
    leaf = _leaf_sums(dendrogram.leaves, picture[: dendrogram.size[0], : dendrogram.size[1]], count)
    edges, lengths = dendrogram.borders
    heights = dendrogram.border_heights.astype(np.float64)
    colours = leaf[:, 6:9] / np.maximum(leaf[:, :1], 1)
    sums = inside.astype(np.float64) @ leaf
    boxes = _union_boxes(inside, _leaf_boxes(dendrogram.leaves, count))
    borders = _border_sums(inside, edges, lengths.astype(np.float64), heights, colours)
    counts = inside.sum(axis=1)
    columns = (
        *_shape_columns(candidates, sums, boxes, borders[0], counts, dendrogram.size),
        *_border_columns(borders, sums[:, 0]),
        *_colour_columns(sums, borders, leaf[:, 6:9].sum(axis=0) / leaf[:, 0].sum()),
        *_relation_columns(candidates, sums),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _shape_columns(
    candidates: MaskCandidates,
    sums: np.ndarray,
    boxes: np.ndarray,
    outside: np.ndarray,
    counts: np.ndarray,
    size: tuple[int, int],
) -> list[np.ndarray]:
    """From log_area to spread. Areas, lengths and places are in pixels of an image of ``size``."""
    height, width = size
    areas = np.maximum(sums[:, 0], 1)
    contacts = sums[:, 12:16]
    perimeters = np.maximum(outside[:, 0], 1) + contacts.sum(axis=1)
    box_width, box_height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = sums[:, 1] / areas, sums[:, 2] / areas
    xx, yy, xy = sums[:, 3] / areas - x**2, sums[:, 4] / areas - y**2, sums[:, 5] / areas - x * y
    trace, root = xx + yy, np.sqrt(np.maximum((xx - yy) ** 2 + 4 * xy**2, 0))
    return [
        np.log(areas / (height * width)),
        np.log(np.maximum(candidates.scores, _MIN_SCORE)),
        candidates.stabilities,
        candidates.granularities,
        candidates.kinds == 1,
        np.log(np.maximum(counts, 1)),
        (contacts > 0).sum(axis=1),
        contacts.sum(axis=1) / perimeters,
        perimeters / np.sqrt(areas),
        areas / np.maximum(box_width * box_height, 1),
        np.log(np.maximum(box_width, 1) / np.maximum(box_height, 1)),
        box_width / width,
        box_height / height,
        np.abs(x / width - 0.5),
        y / height,
        np.sqrt(np.maximum((trace - root) / (trace + root + 1e-9), 0)),
        np.log((trace + 1) / areas),
    ]


def _border_columns(borders: tuple[np.ndarray, ...], areas: np.ndarray) -> list[np.ndarray]:
    """From border_outside to length_inside."""
    outside, inside = borders[:2]
    length = np.maximum(outside[:, 0], 1)
    mean = outside[:, 1] / length
    return [
        mean,
        inside[:, 1] / np.maximum(inside[:, 0], 1),
        np.sqrt(np.maximum(outside[:, 2] / length - mean**2, 0)),
        inside[:, 2],
        outside[:, 3],
        mean - inside[:, 2],
        np.log1p(inside[:, 0] / np.sqrt(np.maximum(areas, 1))),
    ]


def _colour_columns(sums: np.ndarray, borders: tuple[np.ndarray, ...], mean: np.ndarray) -> list[np.ndarray]:
    """From lightness_deviation to chroma, of Lab sums; ``mean`` is that of the image."""
    areas, length = np.maximum(sums[:, :1], 1), np.maximum(borders[0][:, :1], 1)
    colour = sums[:, 6:9] / areas
    variance = np.maximum(sums[:, 9:12] / areas - colour**2, 0)
    beyond, within = borders[2] / length, borders[3] / length

    def chroma(values: np.ndarray) -> np.ndarray:
        distances: np.ndarray = np.sqrt((values[:, 1:] ** 2).sum(axis=1))
        return distances

    return [
        np.sqrt(variance[:, 0]),
        np.sqrt(variance[:, 1:].sum(axis=1)),
        np.abs(colour - beyond)[:, 0],
        chroma(colour - beyond),
        np.abs(within - beyond)[:, 0],
        chroma(within - beyond),
        (colour - beyond)[:, 0],
        np.abs(colour - mean)[:, 0],
        chroma(colour - mean),
        chroma(colour),
    ]


def _relation_columns(candidates: MaskCandidates, sums: np.ndarray) -> list[np.ndarray]:
    """From parent_area to gap."""
    scores = np.log(np.maximum(candidates.scores, _MIN_SCORE))
    areas = np.log(np.maximum(sums[:, 0], 1))
    has_parent = candidates.parents >= 0
    parents, children = np.maximum(candidates.parents, 0), np.flatnonzero(has_parent)
    best_child = np.full(len(candidates), np.log(_MIN_SCORE))
    np.maximum.at(best_child, candidates.parents[children], scores[children])
    ranks = np.empty(len(candidates))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(candidates))
    return [
        np.where(has_parent, areas - areas[parents], 0),
        np.where(has_parent, scores - scores[parents], 0),
        has_parent,
        np.where(has_parent, (sums[parents, 12:16] > 0).sum(axis=1), 4),
        np.log1p(ranks),
        np.log1p(np.bincount(candidates.parents[children], minlength=len(candidates))),
        best_child - scores,
        scores.max() - scores,
    ]


def _leaf_sums(leaves: np.ndarray, colours: np.ndarray, count: int) -> np.ndarray:
    """(count, 16) sums over the pixels of leaves: 1, x, y, xx, yy, xy, Lab, squares of Lab, contacts with the upper,
    lower, left and right side of the image."""
    height, width = leaves.shape
    labels = leaves.ravel()
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    values = colours.reshape(-1, 3).astype(np.float64)
    weights = (None, x, y, x * x, y * y, x * y, *values.T, *(values**2).T)
    inner = [np.bincount(labels, weight, count) for weight in weights]
    sides = (leaves[0], leaves[-1], leaves[:, 0], leaves[:, -1])
    return np.stack([*inner, *(np.bincount(side, minlength=count) for side in sides)], axis=1)


def _leaf_boxes(leaves: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) left, top, right and bottom of leaves; inverted where there is no pixel."""
    boxes = np.tile(np.array([leaves.shape[1], leaves.shape[0], 0, 0], np.int64), (count, 1))
    _extend(boxes, leaves)
    return boxes


@kernel()
def _union_boxes(inside: np.ndarray, leaf_boxes: np.ndarray) -> np.ndarray:  # pragma: no cover
    """(n, 4) boxes of n unions of leaves."""
    boxes = np.empty((len(inside), 4), np.int64)
    for i in range(len(inside)):
        box = boxes[i]
        box[0], box[1], box[2], box[3] = 2**31, 2**31, 0, 0
        for leaf in range(inside.shape[1]):
            if inside[i, leaf]:
                box[0], box[1] = min(box[0], leaf_boxes[leaf, 0]), min(box[1], leaf_boxes[leaf, 1])
                box[2], box[3] = max(box[2], leaf_boxes[leaf, 2]), max(box[3], leaf_boxes[leaf, 3])
    return boxes


@kernel()
def _extend(boxes: np.ndarray, leaves: np.ndarray) -> None:  # pragma: no cover
    for y in range(leaves.shape[0]):
        for x in range(leaves.shape[1]):
            box = boxes[leaves[y, x]]
            box[0], box[1] = min(box[0], x), min(box[1], y)
            box[2], box[3] = max(box[2], x + 1), max(box[3], y + 1)


@kernel()
def _border_sums(
    inside: np.ndarray, edges: np.ndarray, lengths: np.ndarray, heights: np.ndarray, colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Of the borders around n masks: length, sums of heights and of their squares, lowest; of those between their
    leaves: length, sum of heights, highest; and sums of the colours of the leaves beyond and within the border."""
    n = len(inside)
    around, between = np.zeros((n, 4)), np.zeros((n, 3))
    beyond, within = np.zeros((n, 3)), np.zeros((n, 3))
    for i in range(n):
        lowest = np.inf
        for edge in range(len(edges)):
            a, b = edges[edge]
            if inside[i, a] and inside[i, b]:
                between[i, 0] += lengths[edge]
                between[i, 1] += lengths[edge] * heights[edge]
                between[i, 2] = max(between[i, 2], heights[edge])
            elif inside[i, a] or inside[i, b]:
                if inside[i, b]:
                    a, b = b, a
                around[i, 0] += lengths[edge]
                around[i, 1] += lengths[edge] * heights[edge]
                around[i, 2] += lengths[edge] * heights[edge] ** 2
                lowest = min(lowest, heights[edge])
                for c in range(3):
                    within[i, c] += lengths[edge] * colours[a, c]
                    beyond[i, c] += lengths[edge] * colours[b, c]
        around[i, 3] = 0.0 if lowest == np.inf else lowest
    return around, between, beyond, within


@kernel()
def _sum_trees(
    features: np.ndarray, splits: np.ndarray, thresholds: np.ndarray, children: np.ndarray, values: np.ndarray
) -> np.ndarray:  # pragma: no cover
    total = np.zeros(len(features))
    for i in range(len(features)):
        for tree in range(len(splits)):
            node = 0
            while node >= 0:
                is_right = features[i, splits[tree, node]] > thresholds[tree, node]
                node = children[tree, node, 1 if is_right else 0]
            total[i] += values[tree, -1 - node]
    return total
