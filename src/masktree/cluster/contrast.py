"""How much the regions of a dendrogram differ in colour from what is around them.

A dendrogram knows how long a region stays apart, not how much it differs: in an image of a few bright things on one
ground, waves of the ground stay apart for long as well. Detection theory ranks things by contrast times the root of the
area (Rose 1948, 10.1364/JOSA.38.000196); scores of masks are stability times that root, and this is the contrast.
"""

from __future__ import annotations

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree, lowest_common_ancestors


def node_contrasts(tree: PartitionTree, colours: np.ndarray) -> np.ndarray:
    """Distance in Lab of the mean colour of each node from that of the leaves around it, weighted by common border.

    Args:
        tree: n leaves, which may have area 0.
        colours: (H, W, 3) float, the image of the same size in Lab, see ``masktree.backbones.texture.words.lab``.

    Returns:
        (2n-1,) float64, at least 0, where black and white are 100 apart; 0 for nodes without pixels or surroundings.

    Raises:
        InputError: another size.
    """
    if tree.size != colours.shape[:2]:
        raise InputError(f"expected an image of {tree.size} pixels as the tree's; got {colours.shape[:2]}")
    n = tree.n_leaves
    labels, pixels = tree.leaves.ravel(), colours.reshape(-1, 3)
    sums = np.stack([np.bincount(labels, channel, n) for channel in pixels.T], axis=1)
    areas = tree.areas[:n, None]
    means = sums / np.maximum(areas, 1)
    edges, lengths = tree.borders
    # An edge is on the border of the nodes from either of its leaves to below the one that has both: what is added at
    # a leaf and taken away there twice leaves nothing above.
    beyond = np.zeros((2 * n - 1, 4))
    top = lowest_common_ancestors(tree.parents, edges.astype(np.int64))
    for leaf, neighbour in (edges.T, edges.T[::-1]):
        values = lengths[:, None] * np.concatenate([np.ones((len(edges), 1)), means[neighbour]], axis=1)
        np.add.at(beyond, leaf, values)
        np.subtract.at(beyond, top, values)
    _add_up(beyond, tree.parents)
    inside = np.zeros((2 * n - 1, 4))
    inside[:n] = np.concatenate([areas, sums], axis=1)
    _add_up(inside, tree.parents)
    known = (inside[:, 0] > 0) & (beyond[:, 0] > 0.5)
    differences = inside[:, 1:] / np.maximum(inside[:, :1], 1) - beyond[:, 1:] / np.maximum(beyond[:, :1], 0.5)
    return np.where(known, np.sqrt((differences**2).sum(axis=1)), 0.0)


@kernel()
def _add_up(values: np.ndarray, parents: np.ndarray) -> None:  # pragma: no cover
    """Add the values of each node, (2n-1, k), to all nodes above it."""
    for node in range(len(parents) - 1):  # parents come after their children
        values[parents[node]] += values[node]
