"""Leaves of flat graphics: screenshots, charts, diagrams and pages that were drawn, not photographed.

Shapes are sets of pixels of exactly one colour there, so their borders are known to the pixel. A boundary map, made
with windows of 5 to 20 pixels at the working size, has them to a few pixels, and no letters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from masktree.backbones.texture.words import lab
from masktree.cluster.antialiasing import explain, find_strokes
from masktree.cluster.leaves import MIN_LEAF_AREA, adjacency
from masktree.cluster.one_colour import MIN_AREA
from masktree.cluster.upsample import upsample_leaves
from masktree.kernels import kernel
from masktree.types import RGB, Labels, checked

MAX_LEAVES = 2000  # a page has more letters, but the time of merging is quadratic in the neighbours of its ground
_STROKE_ERROR = 24  # grey levels, Euclidean, of the mean colour of a stroke from a mixture (our choice)
_HOLD = 0.1  # added to the strength of a border outside another, to outweigh the other terms of the cost (our choice)
_LAB_SCALE = 14  # of colour differences in CIE Lab (Ruzon and Tomasi, TPAMI 2001, doi 10.1109/34.969118)

_SHAPE, _STROKE, _BASIN = range(3)  # kinds of leaves, in the order of their labels


@dataclass(frozen=True)
class FlatLeaves:
    """Leaves of an image that is flat, at least in part.

    Attributes:
        labels: (H, W) int32, at the size of the image.
        textured: (n,) bool, the leaves that are basins of the boundary map, as in a photograph on a page.
        colours: (n, 3) float32, mean colours in CIE Lab.
    """

    labels: Labels
    textured: np.ndarray
    colours: np.ndarray

    def adjacency(self, boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``masktree.cluster.leaves.adjacency`` with the contrast of colours, where that is stronger, on flat sides.

        The border of a leaf is also at least as strong as those of all that it encloses, so that a panel is merged with
        its buttons before it is merged with its surroundings.
        """
        edges, strengths, lengths = adjacency(self.labels, boundary)
        difference = np.linalg.norm(self.colours[edges[:, 0]] - self.colours[edges[:, 1]], axis=1)
        contrast = np.maximum(strengths, 1 - np.exp(-difference / _LAB_SCALE))
        strengths = np.where(self.textured[edges].all(axis=1), strengths, contrast)
        return edges, _hold_contents(edges, strengths, len(self.colours)), lengths


@checked
def flat_leaves(image: RGB, shapes: Labels, small: np.ndarray, basins: np.ndarray) -> FlatLeaves:
    """Leaves of a flat image.

    Its shapes are leaves. Antialiased pixels belong to the shape within reach that is nearest in colour. What contrasts
    with these shapes is a stroke, a leaf of its own, such as a letter without a pixel of its full colour; basins divide
    what is not within reach of shapes.

    Args:
        image: (H, W, 3) uint8.
        shapes: (H, W) int32 numbers of its shapes, -1 elsewhere, see ``masktree.cluster.flat_shapes``.
        small: (h, w, 3) uint8, the image at the working size.
        basins: (h, w) int32 watershed leaves of ``small``.
    """
    nearest, contrast = explain(image, shapes, shapes < 0)
    strokes, count = ndimage.label(find_strokes(nearest, contrast), np.ones((3, 3)))  # 0: none
    first_stroke = int(shapes.max()) + 1
    labels = np.where(strokes > 0, strokes + first_stroke, nearest)
    beyond_reach = np.bincount(strokes[nearest < 0], minlength=count + 1)
    textured = 2 * beyond_reach > np.bincount(strokes[strokes > 0], minlength=count + 1)
    first_basin = first_stroke + count + 1
    if textured.any():
        basins = basins if small is image else upsample_leaves(basins, small, image)
        _divide(labels, strokes, textured, basins, first_basin)
    present = np.bincount(labels.ravel()) > 0
    labels = (np.cumsum(present, dtype=np.int32) - 1)[labels]
    kinds = np.searchsorted([first_stroke, first_basin], np.flatnonzero(present), side="right")
    labels, kinds = _bound(*_unite_strokes(labels, kinds, shapes, nearest, image))
    colours = np.rint(_colours(labels, shapes, image, len(kinds))).astype(np.uint8)
    return FlatLeaves(labels, kinds == _BASIN, lab(colours[None])[0])


def _divide(
    labels: np.ndarray, strokes: np.ndarray, textured: np.ndarray, basins: np.ndarray, first_basin: int
) -> None:
    """Replace the labels of textured strokes by those of basins, from ``first_basin``; a stroke without any stays."""
    inside = textured[strokes]
    # A basin with most of its pixels elsewhere has only strayed into the texture, by the error of the boundary map.
    pixels = np.bincount(basins[inside], minlength=int(basins.max()) + 1)
    kept = (pixels >= MIN_LEAF_AREA) & (pixels > np.bincount(basins.ravel()) / 2)
    seeds = inside & kept[basins]
    inside = (textured & (np.bincount(strokes[seeds], minlength=len(textured)) > 0))[strokes]
    labels[inside] = -1
    labels[seeds] = basins[seeds] + first_basin
    _flood(labels, inside)


def _unite_strokes(
    labels: np.ndarray, kinds: np.ndarray, shapes: np.ndarray, nearest: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unite neighbours of one colour, and strokes with neighbours of whose colour and that of the ground they are made.

    Of a letter, only some parts may be wide enough to have its full colour.
    """
    n = len(kinds)
    colours = _colours(labels, shapes, image, n)
    leaf_of = np.zeros(int(shapes.max()) + 2, np.int64)  # the last one stands for -1
    leaf_of[shapes] = labels
    pixels = np.flatnonzero((shapes < 0) & (nearest >= 0))
    pixels = pixels[kinds[labels.ravel()[pixels]] == _STROKE]
    grounds = leaf_of[nearest.ravel()[pixels]]
    pairs, counts = np.unique(labels.ravel()[pixels].astype(np.int64) * n + grounds, return_counts=True)
    pairs = pairs[np.argsort(counts, kind="stable")]
    ground = np.arange(n)
    ground[pairs // n] = pairs % n  # the last one stays: what most of the pixels contrast with
    edges = adjacency(labels, np.zeros(labels.shape, np.float32))[0]
    edges = np.concatenate([edges, edges[:, ::-1]])
    first, second = edges.T
    between = colours[ground[first]] - colours[second]
    offsets = colours[first] - colours[second]
    share = np.clip((offsets * between).sum(axis=1) / np.maximum((between**2).sum(axis=1), 1), 0, 1)
    is_mixture = np.linalg.norm(offsets - share[:, None] * between, axis=1) <= _STROKE_ERROR
    united = (
        (kinds[first] == _STROKE)
        & (kinds[second] == _SHAPE)
        & (ground[first] != first)
        & (ground[first] != second)
        & is_mixture
    )
    united |= (kinds[edges] == _SHAPE).all(axis=1) & (offsets == 0).all(axis=1)
    graph = coo_matrix((np.ones(united.sum()), edges[united].T), shape=(n, n))
    count, numbers = connected_components(graph, directed=False)
    shape_kinds = np.full(count, _BASIN)
    np.minimum.at(shape_kinds, numbers, kinds)
    return numbers.astype(np.int32)[labels], shape_kinds


def _bound(labels: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add all but the ``MAX_LEAVES`` largest leaves, and those below ``MIN_AREA``, to their neighbours."""
    areas = np.bincount(labels.ravel())
    large = areas >= MIN_AREA
    large[np.argsort(areas, kind="stable")[:-MAX_LEAVES]] = False
    if large.all():
        return labels, kinds
    labels = np.where(large, np.cumsum(large) - 1, -1).astype(np.int32)[labels]
    _flood(labels, np.zeros(labels.shape, bool))
    return labels, kinds[large]


@kernel()
def _colours(labels: np.ndarray, shapes: np.ndarray, image: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) float64: mean colour of the shapes of each leaf, or of all its pixels if it has none."""
    H, W = labels.shape
    areas = np.zeros(count)
    sums = np.zeros((count, 3))
    is_shape = np.zeros(count, np.bool_)
    for i in range(H):
        for j in range(W):
            is_shape[labels[i, j]] |= shapes[i, j] >= 0
    for i in range(H):
        for j in range(W):
            label = labels[i, j]
            if shapes[i, j] >= 0 or not is_shape[label]:
                areas[label] += 1
                for c in range(3):
                    sums[label, c] += image[i, j, c]
    for label in range(count):
        sums[label] /= areas[label]
    return sums


@kernel()
def _flood(labels: np.ndarray, domain: np.ndarray) -> None:
    """Give each pixel of label -1 the label of the nearest one, of 8-neighbours within the domain or outside of it."""
    H, W = labels.shape
    queue = np.empty(H * W, np.int32)
    found = np.empty(H * W, np.int32)
    end = 0
    for pixel in range(H * W):
        i, j = pixel // W, pixel % W
        if labels[i, j] >= 0:
            continue
        label = np.int32(-1)
        for y in range(max(i - 1, 0), min(i + 2, H)):
            for x in range(max(j - 1, 0), min(j + 2, W)):
                if labels[y, x] >= 0 and domain[y, x] == domain[i, j]:
                    label = labels[y, x]
        if label >= 0:
            queue[end] = pixel
            found[end] = label
            end += 1
    for k in range(end):
        labels[queue[k] // W, queue[k] % W] = found[k]
    start = 0
    while start < end:
        i, j = queue[start] // W, queue[start] % W
        start += 1
        for y in range(max(i - 1, 0), min(i + 2, H)):
            for x in range(max(j - 1, 0), min(j + 2, W)):
                if labels[y, x] < 0 and domain[y, x] == domain[i, j]:
                    labels[y, x] = labels[i, j]
                    queue[end] = y * W + x
                    end += 1


@kernel()
def _hold_contents(edges: np.ndarray, strengths: np.ndarray, count: int) -> np.ndarray:
    """Raise the strengths of the borders of each region to the highest of those of the regions that it encloses.

    A region with one neighbour is enclosed by it; so is one that has one more neighbour only, once those that it
    encloses itself are left out, and so on.
    """
    out = strengths.copy()
    enclosed = np.zeros(len(edges), np.bool_)
    degrees = np.zeros(count, np.int64)
    links = np.zeros(count, np.int64)  # exclusive or of the edges of a region: of one edge, that edge
    for e in range(len(edges)):
        for region in edges[e]:
            degrees[region] += 1
            links[region] ^= e
    highest = np.zeros(count)  # of the borders inside a region
    queue = np.empty(count, np.int64)
    end = 0
    for region in range(count):
        if degrees[region] == 1:
            queue[end] = region
            end += 1
    for start in range(count):
        if start == end:
            break
        region = queue[start]
        if degrees[region] == 0:  # the last region, which encloses all others
            continue
        e = links[region]
        enclosed[e] = True
        around = edges[e, 0] + edges[e, 1] - region
        out[e] = max(out[e], highest[region])
        highest[around] = max(highest[around], out[e] + _HOLD)
        degrees[region] = 0
        degrees[around] -= 1
        links[around] ^= e
        if degrees[around] == 1:
            queue[end] = around
            end += 1
    for e in range(len(edges)):
        if not enclosed[e]:
            out[e] = max(out[e], highest[edges[e, 0]], highest[edges[e, 1]])
    return out
