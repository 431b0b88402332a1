"""Pieces of a local threshold, and the granularity at which the cuts of an image agree with them.

How strong and how large the regions of small things are differs from image to image: a tenth of one image's contrast
is another one's noise. The classical segmentation of such images, a threshold (Otsu 1979, 10.1109/TSMC.1979.4310076)
and a watershed of the distance from the ground (Vincent and Soille 1991, 10.1109/34.87344), misses and unites many of
them, but it finds enough to say at which cut they are whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree
from masktree.types import RGB, Labels

CENTRE = 0.5  # granularity of the cut that agrees best: that of pictures by default (our choice)
# F1 from which on the image shows small things (our choice). Of grey copies of 20 photographs one agrees better, of 31
# images of particles and nuclei all but two.
MIN_AGREEMENT = 0.25
_GRANULARITIES = np.linspace(0.02, 0.98, 49)  # of the cuts that are compared
_SMOOTHING = 1.0  # sigma of the agreement over these cuts (our choice)
_WINDOWS = (1 / 4, 1 / 8)  # of the longer side: windows whose mean is the ground of their centre (our choice)
_MAX_SIDE = 1280  # pixels; larger images are reduced, as their pieces only count (our choice)
_MIN_AREA = 32  # pixels of a piece, as of masks by default
_MAX_SHARE = 1 / 36  # of the image: larger pieces are ground (our choice)
_MAX_PIECES = 1000  # the largest ones, as many as masks by default
_PIXEL_SIGMA = 1.0  # of values and distances, against noise (our choice)
_NECK_DEPTH = 0.75  # pixels by which a thing is narrower at a neck than at both sides of it (our choice)


def centre_on_pieces(tree: PartitionTree, image: RGB) -> PartitionTree:
    """A dendrogram whose cut at ``CENTRE`` is the one that agrees best with the pieces of a local threshold.

    Altitudes below and above it are stretched in proportion, so that the order of merges stays. The agreement is F1 of
    the regions of a cut and the pieces, matched with an IoU above .5; of several segmentations into pieces, see
    ``threshold_pieces``, the one with the highest agreement counts. Where none reaches ``MIN_AGREEMENT``, as in most
    black-and-white photographs, altitudes stay as they are.

    Args:
        tree: altitudes in [0, 1], on the pixels of the image.
        image: (H, W, 3) uint8, without colour.
    """
    image, tree_there = _reduced(image, tree)
    curves = [agreement(tree_there, pieces) for pieces in threshold_pieces(image)]
    smooth = [ndimage.gaussian_filter1d(curve, _SMOOTHING) for curve in curves]
    best = max(smooth, key=lambda curve: float(curve.max()))
    if best.max() < MIN_AGREEMENT:
        return tree
    where = _GRANULARITIES[int(best.argmax())]
    return tree.with_altitudes(np.interp(tree.altitudes, (0, where, 1), (0, CENTRE, 1)))


def threshold_pieces(image: RGB) -> Iterator[Labels]:
    """Segmentations of a grey image into small bright or small dark pieces, four in all.

    Each is what exceeds, or falls below, the mean of a window by Otsu's threshold of these differences, divided where
    it is narrow. Pieces below ``_MIN_AREA`` pixels or above ``_MAX_SHARE`` of the image are left out.

    Yields:
        (H, W) int32 labels, 0 where there is no piece.
    """
    from skimage.filters import threshold_otsu

    values = ndimage.gaussian_filter(image[..., 0].astype(np.float32), _PIXEL_SIGMA)
    for share in _WINDOWS:
        window = max(3, int(share * max(values.shape)))
        differences = values - ndimage.uniform_filter(values, window)
        for excess in (differences, -differences):
            yield _keep_small(_divide(excess > max(threshold_otsu(excess), 0.0)))


def agreement(tree: PartitionTree, pieces: Labels) -> np.ndarray:
    """(49,) float64: F1 of the regions of cuts at granularities .02 to .98 and the pieces, 1 to k in an (H, W) map."""
    count = int(pieces.max())
    if count == 0:
        return np.zeros(len(_GRANULARITIES))
    inside = pieces > 0
    keys, shared = np.unique(
        (pieces[inside] - 1).astype(np.int64) * tree.n_leaves + tree.leaves[inside], return_counts=True
    )
    owners, leaves = np.divmod(keys, tree.n_leaves)
    bounds = np.searchsorted(owners, np.arange(count + 1))
    areas = np.bincount(pieces[inside] - 1, minlength=count)
    # A node is a region of the cuts from its own altitude to just below its parent's.
    first = np.searchsorted(_GRANULARITIES, tree.altitudes)
    last = np.append(first[tree.parents[:-1]], len(_GRANULARITIES))
    low, high = tree.intervals
    matched = _count_matches(first, last, low, high, tree.areas, tree.order, bounds, leaves, shared, areas)
    regions = np.array([tree.n_leaves - tree.merges_at(g) for g in _GRANULARITIES])
    curve: np.ndarray = 2 * matched[:-1] / (regions + count)
    return curve


def _reduced(image: RGB, tree: PartitionTree) -> tuple[RGB, PartitionTree]:
    """Both with at most ``_MAX_SIDE`` pixels along the longer side."""
    H, W, _ = image.shape
    scale = _MAX_SIDE / max(H, W)
    if scale >= 1:
        return image, tree
    h, w = max(1, round(H * scale)), max(1, round(W * scale))
    leaves = tree.leaves[(np.arange(h) * H // h)[:, None], np.arange(w) * W // w]
    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BOX)), tree.with_leaves(leaves)


def _divide(things: np.ndarray) -> Labels:
    """Pieces of a (H, W) bool mask, which is divided at its necks: (H, W) int32 labels, 0 outside."""
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    if not things.any():
        return np.zeros(things.shape, np.int32)
    distances = ndimage.distance_transform_edt(things).astype(np.float32)
    distances = ndimage.gaussian_filter(distances, _PIXEL_SIGMA)
    seeds = ndimage.label(h_maxima(distances, _NECK_DEPTH), np.ones((3, 3)))[0]
    pieces: Labels = watershed(-distances, seeds, mask=things).astype(np.int32)
    return pieces


def _keep_small(pieces: Labels) -> Labels:
    """The pieces of the right size, renumbered from 1; 0 elsewhere."""
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    kept = (areas >= _MIN_AREA) & (areas <= _MAX_SHARE * pieces.size)
    kept[np.argsort(areas * kept, kind="stable")[:-_MAX_PIECES]] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return numbers[pieces]


@kernel()
def _count_matches(
    first: np.ndarray,
    last: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    node_areas: np.ndarray,
    order: np.ndarray,
    bounds: np.ndarray,
    leaves: np.ndarray,
    shared: np.ndarray,
    areas: np.ndarray,
) -> np.ndarray:  # pragma: no cover
    """Matched pieces of each cut; piece i shares ``shared[e]`` pixels with leaf ``leaves[e]``, e in bounds[i:i+2].

    Pieces are disjoint, as are the regions of a cut, so an IoU above .5 is had with one of the others at most.
    """
    changes = np.zeros(last[-1] + 1, np.int64)
    of_leaf = np.zeros(len(order), np.int64)
    before = np.zeros(len(order) + 1, np.int64)  # pixels of the piece in the leaves before each position
    for i in range(len(areas)):
        of_leaf[:] = 0
        for e in range(bounds[i], bounds[i + 1]):
            of_leaf[leaves[e]] = shared[e]
        for k in range(len(order)):
            before[k + 1] = before[k] + of_leaf[order[k]]
        for node in range(len(first)):
            if 3 * (before[high[node]] - before[low[node]]) > node_areas[node] + areas[i]:
                changes[first[node]] += 1
                changes[last[node]] -= 1
    return np.cumsum(changes)
