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
from masktree.cluster.leaves import MIN_LEAF_AREA, adjacency, find_root
from masktree.cluster.upsample import upsample_leaves
from masktree.kernels import kernel
from masktree.types import RGB, Labels, checked

FLAT_SHARE = 0.1  # of the blocks with more than one colour: the least of flat graphics (our choice, see the log)
MAX_LEAVES = 2000  # a page has more letters, but the time of merging is quadratic in the neighbours of its ground
_MIN_AREA = 4  # pixels of a leaf: a full stop, or what a small letter encloses (our choice)
_COMMON_AREA = 64  # pixels of a crisp component, from which others of its colour are crisp too (our choice)
_EQUAL_SHARE = 0.4  # of neighbours with one colour, below which an image is not looked at further (our choice)
_BLOCK = 64  # side of a block in pixels (our choice)
_BLOCK_SHARE = 0.95  # of a flat block is within reach of components of ``MIN_LEAF_AREA`` (our choice)
_REACH = 2  # pixels around a component, in which its antialiased border lies (our choice)
_MIN_STEP = 3  # grey levels; a smooth gradient has no larger steps (our choice)
_CRISP_SHARE = 0.7  # of a component's border with larger steps; saturated highlights have fewer (our choice)
_MIXTURE_ERROR = 8  # grey levels, Euclidean, of the colour of an antialiased border (our choice)
_STROKE_ERROR = 24  # the same of the mean colour of a stroke, which is less exact (our choice)
_MIN_CONTRAST = np.float32(24)  # grey levels, Euclidean, of a stroke on its ground (our choice)
_HOLD = 0.1  # added to the strength of a border outside another, to outweigh the other terms of the cost (our choice)
_LAB_SCALE = 14  # of colour differences in CIE Lab (Ruzon and Tomasi, TPAMI 2001, doi 10.1109/34.969118)

_COMPONENT, _STROKE, _BASIN = range(3)  # kinds of leaves, in the order of their labels


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
def flat_leaves(image: RGB, small: np.ndarray, basins: np.ndarray) -> FlatLeaves | None:
    """Leaves of a flat image; None if too little of it is flat, as in photographs.

    Components of at least ``_MIN_AREA`` pixels of one colour are leaves if their borders are steps. Antialiased pixels
    belong to the component that is nearest in colour, of those within ``_REACH`` pixels. What contrasts with these
    components is a stroke, a leaf of its own, such as a letter without a pixel of its full colour; basins divide what
    is not within their reach.

    Args:
        image: (H, W, 3) uint8.
        small: (h, w, 3) uint8, the image at the working size.
        basins: (h, w) int32 watershed leaves of ``small``.
    """
    components = _find_components(image)
    if components is None:
        return None
    nearest, contrast = _explain(image, components, components < 0)
    strokes, count = ndimage.label(_find_strokes(nearest, contrast), np.ones((3, 3)))  # 0: none
    first_stroke = int(components.max()) + 1
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
    labels, kinds = _bound(*_unite_strokes(labels, kinds, components, nearest, image))
    colours = np.rint(_colours(labels, components, image, len(kinds))).astype(np.uint8)
    return FlatLeaves(labels, kinds == _BASIN, lab(colours[None])[0])


def is_flat(image: RGB) -> bool:
    """Whether ``flat_leaves`` finds leaves in an image; cheap for most photographs, 0.1 s for 1920 x 1080 if it is."""
    return _find_components(image) is not None


def _find_components(image: np.ndarray) -> np.ndarray | None:
    """(H, W) int32 numbers of the shapes of a flat image, -1 where there are none; None if too little is flat."""
    if not _has_equal_neighbours(image):
        return None
    everything, areas, is_crisp, colours = _components(image)
    crisp = _without_antialiasing(_select(everything, is_crisp, np.int32(-1)), image)
    if _flat_share(image, crisp) < FLAT_SHARE:
        return None
    # The ground inside an antialiased letter has no steps around it, but the colour of the ground around the letter.
    codes = colours.astype(np.int64) @ (65536, 256, 1)
    is_ground = ~is_crisp & np.isin(codes, codes[is_crisp & (areas >= _COMMON_AREA)])
    return _select(everything, is_ground, crisp)


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
    labels: np.ndarray, kinds: np.ndarray, components: np.ndarray, nearest: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unite neighbours of one colour, and strokes with neighbours of whose colour and that of the ground they are made.

    Of a letter, only some parts may be wide enough to have its full colour.
    """
    n = len(kinds)
    colours = _colours(labels, components, image, n)
    leaf_of = np.zeros(int(components.max()) + 2, np.int64)  # the last one stands for -1
    leaf_of[components] = labels
    pixels = np.flatnonzero((components < 0) & (nearest >= 0))
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
        & (kinds[second] == _COMPONENT)
        & (ground[first] != first)
        & (ground[first] != second)
        & is_mixture
    )
    united |= (kinds[edges] == _COMPONENT).all(axis=1) & (offsets == 0).all(axis=1)
    graph = coo_matrix((np.ones(united.sum()), edges[united].T), shape=(n, n))
    count, numbers = connected_components(graph, directed=False)
    shape_kinds = np.full(count, _BASIN)
    np.minimum.at(shape_kinds, numbers, kinds)
    return numbers.astype(np.int32)[labels], shape_kinds


def _bound(labels: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add all but the ``MAX_LEAVES`` largest leaves, and those below ``_MIN_AREA``, to their neighbours."""
    areas = np.bincount(labels.ravel())
    large = areas >= _MIN_AREA
    large[np.argsort(areas, kind="stable")[:-MAX_LEAVES]] = False
    if large.all():
        return labels, kinds
    labels = np.where(large, np.cumsum(large) - 1, -1).astype(np.int32)[labels]
    _flood(labels, np.zeros(labels.shape, bool))
    return labels, kinds[large]


@kernel()
def _colours(labels: np.ndarray, components: np.ndarray, image: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) float64: mean colour of the components of each leaf, or of all its pixels if it has none."""
    H, W = labels.shape
    areas = np.zeros(count)
    sums = np.zeros((count, 3))
    is_component = np.zeros(count, np.bool_)
    for i in range(H):
        for j in range(W):
            is_component[labels[i, j]] |= components[i, j] >= 0
    for i in range(H):
        for j in range(W):
            label = labels[i, j]
            if components[i, j] >= 0 or not is_component[label]:
                areas[label] += 1
                for c in range(3):
                    sums[label, c] += image[i, j, c]
    for label in range(count):
        sums[label] /= areas[label]
    return sums


def _has_equal_neighbours(image: np.ndarray) -> bool:
    """Whether neighbours have one colour as often as in flat images, from some 64 rows: below 2 ms for any image."""
    rows = image[:: max(1, len(image) // 64)]
    equal = (rows[:, 1:] == rows[:, :-1]).all(axis=2)
    return equal.size > 0 and bool(equal.mean() > _EQUAL_SHARE)


def _flat_share(image: np.ndarray, components: np.ndarray) -> float:
    """Share of the blocks with several large components and little beyond them, of all blocks with several colours."""
    is_large = np.bincount(components[components >= 0], minlength=int(components.max()) + 1) >= MIN_LEAF_AREA
    large = _select(components, is_large, np.int32(-1))
    if np.count_nonzero(large >= 0) < FLAT_SHARE * large.size:  # most photographs; saves the time of the rest
        return 0.0
    nearest, _ = _explain(image, large, large < 0)
    return float(_share_of_blocks(image, large, nearest))


def _select(components: np.ndarray, selected: np.ndarray, others: np.ndarray | np.int32) -> np.ndarray:
    """The components selected by (n,) bool, and ``others`` where there is none."""
    return np.where(np.append(selected, False)[components], components, others)  # the last one stands for -1


def _without_antialiasing(components: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The components but for lines one pixel wide whose colour is a mixture of others, as along straight borders."""
    count = int(components.max()) + 1
    one = components[1:, 1:]
    solid = (one == components[:-1, :-1]) & (one == components[:-1, 1:]) & (one == components[1:, :-1]) & (one >= 0)
    is_line = np.append(np.bincount(one[solid], minlength=count) == 0, False)  # the last one stands for -1
    lines = is_line[components]
    _, contrast = _explain(image, components, lines)
    sums = np.bincount(components[lines], contrast[lines], minlength=count)
    is_mixture = is_line[:-1] & (sums <= _MIXTURE_ERROR * np.bincount(components[lines], minlength=count))
    return _select(components, ~is_mixture, np.int32(-1))


def _find_strokes(nearest: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels beyond the reach of components, and those of at least half the contrast around them."""
    within = np.where(nearest < 0, np.float32(0), contrast)
    highest = ndimage.maximum_filter(within, 2 * _REACH + 1)
    return (nearest < 0) | ((within > _MIN_CONTRAST) & (within >= highest / 2))


@kernel()
def _components(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Components of at least ``_MIN_AREA`` pixels of one colour.

    Returns:
        labels: (H, W) int32, their numbers from 0; -1 elsewhere.
        areas: (n,) int32.
        is_crisp: (n,) bool, whether there are steps around them.
        colours: (n, 3) uint8.
    """
    H, W, _ = image.shape
    parents = np.arange(H * W).astype(np.int32)
    for i in range(H):
        for j in range(W):
            left = j > 0 and _step(image, i, j, i, j - 1) == 0
            above = i > 0 and _step(image, i, j, i - 1, j) == 0
            if left:
                parents[i * W + j] = parents[i * W + j - 1]
            if above and not (left and _step(image, i - 1, j - 1, i - 1, j) == 0):  # else they are united already
                a, b = find_root(parents, i * W + j), find_root(parents, (i - 1) * W + j)
                parents[max(a, b)] = min(a, b)
    _unite_diagonals(image, parents, _areas(parents))
    areas = _areas(parents)
    border = np.zeros(H * W, np.int32)
    steps = np.zeros(H * W, np.int32)
    for i in range(H):
        for j in range(W):
            for down in range(2):
                y, x = i + down, j + 1 - down
                if y < H and x < W:
                    step = _step(image, i, j, y, x)
                    if step > 0:
                        for root in (parents[i * W + j], parents[y * W + x]):
                            border[root] += 1
                            steps[root] += step > _MIN_STEP
    labels = np.full(H * W, -1, np.int32)
    roots = np.flatnonzero((areas >= _MIN_AREA) & (parents == np.arange(H * W)))
    labels[roots] = np.arange(len(roots))
    for pixel in range(H * W):
        labels[pixel] = labels[parents[pixel]]
    is_crisp = steps[roots] >= _CRISP_SHARE * border[roots]
    colours = np.empty((len(roots), 3), np.uint8)
    for k in range(len(roots)):
        colours[k] = image[roots[k] // W, roots[k] % W]
    return labels.reshape(H, W), areas[roots], is_crisp, colours


@kernel()
def _areas(parents: np.ndarray) -> np.ndarray:
    """Pixels of each component, at its root; points all pixels to their roots."""
    areas = np.zeros(len(parents), np.int32)
    for pixel in range(len(parents)):
        parents[pixel] = parents[parents[pixel]]  # the root: that of the parent, a lower pixel, is known
        areas[parents[pixel]] += 1
    return areas


@kernel()
def _unite_diagonals(image: np.ndarray, parents: np.ndarray, areas: np.ndarray) -> None:
    """Unite components of one colour that touch at a corner, as thin slanted strokes do; overwrites ``areas``.

    Where two pairs of components cross, the smaller ones are united: strokes, rather than the ground.
    """
    H, W, _ = image.shape
    for i in range(H - 1):
        for j in range(W - 1):
            for x in (j, j + 1):
                other = 2 * j + 1 - x
                if _step(image, i, x, i + 1, other) > 0 or _step(image, i, x, i, other) == 0:
                    continue
                a, b = find_root(parents, i * W + x), find_root(parents, (i + 1) * W + other)
                c, d = find_root(parents, i * W + other), find_root(parents, (i + 1) * W + x)
                crosses = c != d and _step(image, i, other, i + 1, x) == 0
                if a != b and not (crosses and max(areas[a], areas[b]) > max(areas[c], areas[d])):
                    a, b = min(a, b), max(a, b)
                    parents[b] = a
                    areas[a] += areas[b]


@kernel()
def _step(image: np.ndarray, i: int, j: int, y: int, x: int) -> int:
    """Largest difference of two pixels in a channel."""
    first = abs(np.int64(image[i, j, 0]) - np.int64(image[y, x, 0]))
    second = abs(np.int64(image[i, j, 1]) - np.int64(image[y, x, 1]))
    third = abs(np.int64(image[i, j, 2]) - np.int64(image[y, x, 2]))
    return int(max(first, second, third))


@kernel()
def _explain(image: np.ndarray, components: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The component nearest in colour within reach of each pixel asked for, and how well components explain its colour.

    A pixel's own component does not count.

    Returns:
        nearest: (H, W) int32; -1 where no component is within reach.
        contrast: (H, W) float32, Euclidean distance of the colour from those of the components within reach and from
            the mixtures of any two of them, as antialiasing makes them; infinite where there are none.
    """
    H, W = components.shape
    nearest = components.copy()
    contrast = np.zeros((H, W), np.float32)
    window = (2 * _REACH + 1) ** 2
    found = np.empty(window, np.int32)
    offsets = np.empty((window, 3), np.float32)  # colours of the components found, as seen from that of the pixel
    for i in range(H):
        for j in range(W):
            if not asked[i, j]:
                continue
            count = 0
            lowest = best = np.float32(np.inf)
            for y in range(max(i - _REACH, 0), min(i + _REACH + 1, H)):
                for x in range(max(j - _REACH, 0), min(j + _REACH + 1, W)):
                    k = 0
                    while k < count and found[k] != components[y, x]:
                        k += 1
                    if components[y, x] < 0 or components[y, x] == components[i, j] or k < count:
                        continue
                    found[k] = components[y, x]
                    for c in range(3):
                        offsets[k, c] = np.float32(image[y, x, c]) - np.float32(image[i, j, c])
                    count += 1
                    distance = _norm_from_origin(offsets[k], offsets[k])
                    if distance < best:
                        best = distance
                        nearest[i, j] = found[k]
                    for other in range(count):
                        lowest = min(lowest, _norm_from_origin(offsets[k], offsets[other]))
            contrast[i, j] = lowest
    return nearest, contrast


@kernel()
def _norm_from_origin(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Distance of the origin from the segment between two points."""
    dot = length = np.float32(0)
    for c in range(3):
        dot -= a[c] * (b[c] - a[c])
        length += (b[c] - a[c]) ** 2
    share = min(max(dot / length, np.float32(0)), np.float32(1)) if length > 0 else np.float32(0)
    total = np.float32(0)
    for c in range(3):
        total += (a[c] + share * (b[c] - a[c])) ** 2
    return np.sqrt(total)


@kernel()
def _share_of_blocks(image: np.ndarray, components: np.ndarray, nearest: np.ndarray) -> float:
    """Share of flat blocks of the area of blocks with several colours; see ``_flat_share``."""
    H, W = components.shape
    flat = total = 0
    for top in range(0, H, _BLOCK):
        for left in range(0, W, _BLOCK):
            bottom, right = min(top + _BLOCK, H), min(left + _BLOCK, W)
            within = 0
            first = -1
            one_colour = True
            several = False
            for i in range(top, bottom):
                for j in range(left, right):
                    one_colour &= _step(image, i, j, top, left) == 0
                    within += nearest[i, j] >= 0
                    if components[i, j] >= 0:
                        several |= first >= 0 and components[i, j] != first
                        first = components[i, j]
            area = (bottom - top) * (right - left)
            if not one_colour:
                total += area
                if several and within > _BLOCK_SHARE * area:
                    flat += area
    return flat / max(total, 1)


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
