"""Components of one colour, of pixels that are exactly equal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from masktree.cluster.leaves import find_root
from masktree.kernels import kernel

MIN_AREA = 4  # pixels of a component: a full stop, or what a small letter encloses (our choice)
_MIN_STEP = 3  # grey levels; a smooth gradient has no larger steps (our choice)
_CRISP_SHARE = 0.7  # of a component's border with larger steps; saturated highlights have fewer (our choice)


class Components(NamedTuple):
    """n components of at least ``MIN_AREA`` pixels of one colour.

    Attributes:
        labels: (H, W) int32, their numbers from 0; -1 elsewhere.
        areas: (n,) int32.
        is_crisp: (n,) bool, whether there are steps around them.
        colours: (n, 3) uint8.
    """

    labels: np.ndarray
    areas: np.ndarray
    is_crisp: np.ndarray
    colours: np.ndarray


def components_of_one_colour(image: np.ndarray) -> Components:
    """The components of an (H, W, 3) uint8 image; those that touch at a corner only are united, as thin slanted strokes
    are."""
    return Components(*_components(image))


@kernel()
def _components(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields of ``Components``."""
    H, W, _ = image.shape
    parents = np.arange(H * W).astype(np.int32)
    for i in range(H):
        for j in range(W):
            left = j > 0 and step_between(image, i, j, i, j - 1) == 0
            above = i > 0 and step_between(image, i, j, i - 1, j) == 0
            if left:
                parents[i * W + j] = parents[i * W + j - 1]
            if above and not (
                left and step_between(image, i - 1, j - 1, i - 1, j) == 0
            ):  # else they are united already
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
                    step = step_between(image, i, j, y, x)
                    if step > 0:
                        for root in (parents[i * W + j], parents[y * W + x]):
                            border[root] += 1
                            steps[root] += step > _MIN_STEP
    labels = np.full(H * W, -1, np.int32)
    roots = np.flatnonzero((areas >= MIN_AREA) & (parents == np.arange(H * W)))
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
                if step_between(image, i, x, i + 1, other) > 0 or step_between(image, i, x, i, other) == 0:
                    continue
                a, b = find_root(parents, i * W + x), find_root(parents, (i + 1) * W + other)
                c, d = find_root(parents, i * W + other), find_root(parents, (i + 1) * W + x)
                crosses = c != d and step_between(image, i, other, i + 1, x) == 0
                if a != b and not (crosses and max(areas[a], areas[b]) > max(areas[c], areas[d])):
                    a, b = min(a, b), max(a, b)
                    parents[b] = a
                    areas[a] += areas[b]


@kernel()
def step_between(image: np.ndarray, i: int, j: int, y: int, x: int) -> int:
    """Largest difference of two pixels in a channel."""
    first = abs(np.int64(image[i, j, 0]) - np.int64(image[y, x, 0]))
    second = abs(np.int64(image[i, j, 1]) - np.int64(image[y, x, 1]))
    third = abs(np.int64(image[i, j, 2]) - np.int64(image[y, x, 2]))
    return int(max(first, second, third))
