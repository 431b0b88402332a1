"""The package's own method: one tree of regions per image, at full resolution, from the finest leaf to the whole.

Evidence of borders, made by hand and learned; basins of that evidence as leaves; then greedy merging of the most alike
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit

from masktree.backbones.base import Backbone
from masktree.backbones.embedded import EmbeddedBackbone
from masktree.backbones.texture import Evidence, evidence
from masktree.backbones.weights import BUILT_IN
from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.cluster.merge import merge_regions
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree
from masktree.types import RGB, Features, Labels, checked

WORKING_SIDE = 640  # longer side in pixels above which images are clustered smaller; windows of 5-20 px fit this size
SCALES = {"fast": (1.0,), "best": (1.0, 1.5, 2.0)}  # sizes at which evidence is taken, in units of the working size
HISTOGRAM_WEIGHT = 0.3  # of the regions' chi-square beside the boundary's mean (our choice)
SIZE_POWER = 0.05  # small regions merge first (our choice; .05 to .1 were compared on BSDS500 val)
LEARNED_SHARE = np.float32(0.5)  # of the learned borders in the boundary, beside the hand-made ones (our choice)
BORDER_UNIT = np.float32(0.65)  # root of the learned borders at a clear border: mean 90 % quantile over photographs
FEATURE_WEIGHT = 0.5  # of another network's (1 - cosine) beside the boundary's about 1 (our choice)
EMBEDDING_WEIGHT = 0.2  # of the embedded network's, whose borders are in the boundary already (our choice; see the log)
_RANGE = np.float32(1 / (2 * 15.0**2))  # when borders are redrawn, colours have a sigma of 15 levels (our choice)

# Merge cost -> granularity g, so that the geometric mean over photographs of the number of regions left after all
# merges up to a cost is N^(1-g), N = 736 leaves. From 200 unlabelled photographs of mixed origin (shorter side
# 224-384 pixels) at quality fast; the last entry is above every cost met there (1.25). The costs of quality best
# differ by less than 0.02 above g = 0.6. recipes/granularity.py makes such a table.
_COSTS = (0.0, 0.4192, 0.5179, 0.5985, 0.6483, 0.6858, 0.7172, 0.7449, 0.7710, 0.7963, 0.8205, 0.8434, 0.8657,
          0.8909, 0.9180, 0.9442, 0.9712, 1.001, 1.034, 1.065, 1.108, 1.153, 1.6)  # fmt: skip
# The same with the embedded network: 200 photographs, N = 526.
_LEARNED_COSTS = (0.0, 0.2865, 0.3895, 0.5125, 0.6010, 0.6715, 0.7305, 0.7835, 0.8345, 0.8855, 0.9350, 0.9865, 1.0380,
                  1.0945, 1.1460, 1.2030, 1.2590, 1.3155, 1.3785, 1.4570, 1.5330, 1.6030, 2.0)  # fmt: skip
_LEVELS = (0.0, 0.02, *(k / 20 for k in range(1, 20)), 0.98, 1.0)


@checked
def build_dendrogram(
    image: RGB, *, backbone: Backbone | None = None, quality: Literal["fast", "best"] = "fast"
) -> PartitionTree:
    """Tree of nested regions of an image of any size.

    Args:
        image: (H, W, 3) uint8 RGB; images above ``WORKING_SIDE`` are clustered smaller and the leaves brought back.
        backbone: a network whose features join the merging criterion; None or the texture backbone: pixels alone.
        quality: ``fast`` takes evidence at one scale, ``best`` at three, up to twice the working size, where leaves are
            then found: finer, about seven times the time.

    Returns:
        ``PartitionTree`` with leaves of shape (H, W) and altitudes in [0, 1]: the granularity g at which a merge
        happens, calibrated so that a typical photograph of N leaves has about N^(1-g) regions at g.

    Raises:
        InputError: empty image or unknown quality.
    """
    if quality not in SCALES or image.size == 0:
        raise InputError(f"expected a non-empty image and quality 'fast' or 'best'; got {image.shape}, {quality!r}")
    tree = merge_sequence(image, backbone=backbone, scales=SCALES[quality])
    return tree.with_altitudes(granularity(tree.altitudes, learned=isinstance(backbone, EmbeddedBackbone)))


def merge_sequence(
    image: RGB, *, backbone: Backbone | None = None, scales: tuple[float, ...] = SCALES["fast"]
) -> PartitionTree:
    """The tree of ``build_dendrogram`` with merge costs as altitudes, not calibrated; evidence at any scales."""
    scale = WORKING_SIDE / max(WORKING_SIDE, *image.shape[:2])
    looks = [_look(_scaled(image, scale * factor), backbone) for factor in scales]
    fine = _scaled(image, min(1.0, scale * max(scales)))  # leaves have all the detail that the evidence has
    boundary = np.stack([_fit(look.boundary, fine.shape[:2]) for look in looks]).mean(axis=0)
    leaves = watershed_leaves(boundary)
    grid, weight = looks[0].embeddings, EMBEDDING_WEIGHT
    if grid is None and backbone is not None and backbone.name not in BUILT_IN:
        grid, weight = backbone(fine[None])[0], FEATURE_WEIGHT
    tree = _merge(leaves, boundary, [look.evidence for look in looks], grid, weight)
    return tree if fine is image else tree.with_leaves(snap(leaves, fine, image))


def granularity(altitudes: np.ndarray, *, learned: bool) -> np.ndarray:
    """Merge cost, with or without learned borders in it, to granularity in [0, 1]: piecewise linear, and strictly
    increasing up to the table's last cost."""
    return np.interp(altitudes, _LEARNED_COSTS if learned else _COSTS, _LEVELS)


def snap(leaves: np.ndarray, small: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Bring an (h, w) int32 leaf map of the (h, w, 3) uint8 image ``small`` to the size of the (H, W, 3) ``image``.

    A full-size pixel near a border of leaves joins the leaf whose pixels around it in the small image are nearest
    in place and colour (joint bilateral upsampling, Kopf et al. 2007, doi 10.1145/1276377.1276497, of labels).
    Memory: one int32 map of the image's size.
    """
    H, W, _ = image.shape
    out = _snap(leaves, small, image)
    kept = np.zeros(int(leaves.max()) + 1, bool)
    kept[out] = True
    if not kept.all():  # a leaf of hair width lost all its pixels: give it back those it had in the small image
        h, w = leaves.shape
        near = leaves[(np.arange(H) * h // H)[:, None], np.arange(W) * w // W]
        lost = ~kept[near]
        out[lost] = near[lost]
    return out


def _scaled(image: np.ndarray, factor: float) -> np.ndarray:
    from PIL import Image

    if factor == 1:
        return image
    H, W = (max(1, round(side * factor)) for side in image.shape[:2])
    how = Image.Resampling.BOX if image.shape[0] > H else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((W, H), how))


@dataclass(frozen=True)
class _Look:
    """Boundary (H, W) float32, about 1 at a clear border; the hand-made evidence behind it; embeddings, if learned."""

    boundary: np.ndarray
    evidence: Evidence
    embeddings: Features | None = None


def _look(image: np.ndarray, backbone: Backbone | None) -> _Look:
    if not isinstance(backbone, EmbeddedBackbone):
        found = evidence(image)
        return _Look(found.boundary, found)
    seen = backbone.look(image)
    # The root brings out borders that are likely at fine levels only: merging needs their order too.
    learned = np.sqrt(seen.borders) / BORDER_UNIT
    return _Look((1 - LEARNED_SHARE) * seen.evidence.boundary + LEARNED_SHARE * learned, seen.evidence, seen.embeddings)


def _fit(boundary: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    if boundary.shape == shape:
        return boundary
    return np.asarray(Image.fromarray(boundary).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _merge(
    leaves: np.ndarray, boundary: np.ndarray, looks: list[Evidence], grid: Features | None, weight: float
) -> PartitionTree:
    edges, strengths, lengths = adjacency(leaves, boundary)
    areas = np.bincount(leaves.ravel()).astype(np.float64)
    return merge_regions(
        leaves,
        edges,
        areas,
        embeddings=None if grid is None else _sums_over_leaves(grid, leaves),
        histograms=np.concatenate([look.histograms(leaves, len(areas)) for look in looks], axis=1),
        boundary=strengths,
        lengths=lengths,
        histogram_weight=HISTOGRAM_WEIGHT,
        size_power=SIZE_POWER,
        embedding_weight=0.0 if grid is None else weight,
    )


def _sums_over_leaves(grid: Features, leaves: Labels) -> np.ndarray:
    """(n, d) float32 sums over each of n leaves, per pixel, of an (h, w, d) feature grid that covers the image."""
    from scipy.sparse import csr_matrix

    h, w, d = grid.shape
    H, W = leaves.shape
    cells = (np.arange(H) * h // H)[:, None] * w + np.arange(W) * w // W
    ones = np.ones(leaves.size, np.float32)
    shape = int(leaves.max()) + 1, h * w
    shares = csr_matrix((ones, (leaves.ravel(), cells.ravel())), shape=shape)  # pixels of each leaf in each cell
    return np.asarray(shares @ grid.reshape(h * w, d), np.float32)


@njit(cache=True, nogil=True)
def _near_border(leaves):
    h, w = leaves.shape
    out = np.zeros((h, w), np.bool_)
    for y in range(h):
        for x in range(w):
            for v in range(max(y - 1, 0), min(y + 2, h)):
                for u in range(max(x - 1, 0), min(x + 2, w)):
                    out[y, x] |= leaves[v, u] != leaves[y, x]
    return out


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _snap(leaves, small, image):
    h, w = leaves.shape
    H, W, _ = image.shape
    border = _near_border(leaves)
    out = np.empty((H, W), np.int32)
    names = np.empty(9, np.int32)
    votes = np.empty(9, np.float32)
    for i in range(H):
        y = (i + np.float32(0.5)) * np.float32(h) / np.float32(H) - np.float32(0.5)
        cy = min(max(int(np.rint(y)), 0), h - 1)
        for j in range(W):
            x = (j + np.float32(0.5)) * np.float32(w) / np.float32(W) - np.float32(0.5)
            cx = min(max(int(np.rint(x)), 0), w - 1)
            out[i, j] = leaves[cy, cx]
            if not border[cy, cx]:
                continue
            count = 0
            for v in range(max(cy - 1, 0), min(cy + 2, h)):
                for u in range(max(cx - 1, 0), min(cx + 2, w)):
                    colour = np.float32(0)
                    for k in range(3):
                        step = np.float32(image[i, j, k]) - np.float32(small[v, u, k])
                        colour += step * step
                    place = (v - y) * (v - y) + (u - x) * (u - x)
                    # The second term decides where no colour fits: nearness alone.
                    vote = np.exp(-place - colour * _RANGE) + np.float32(1e-6) / (1 + place)
                    at = 0
                    while at < count and names[at] != leaves[v, u]:
                        at += 1
                    if at == count:
                        names[at], votes[at] = leaves[v, u], 0
                        count += 1
                    votes[at] += vote
            out[i, j] = names[np.argmax(votes[:count])]
    return out
