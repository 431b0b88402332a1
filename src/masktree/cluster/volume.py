"""Another order of a dendrogram's merges, for images of small things: regions of the least volume or energy first.

Greedy merging goes by contrast, so that touching objects are one region while the texture inside others is still apart.
What tells objects from texture is that they are large for their contrast. A watershed hierarchy by an attribute weighs
both: each merge gets the attribute of its lesser side, and the partition at a level is what is connected by merges up
to it (Cousty and Najman 2011, 10.1007/978-3-642-21569-8_24). The attribute is volume (Vachier and Meyer 1995), or the
energy of a region's step over its surroundings, contrast squared times area. This is the square of its signal-to-noise
ratio, contrast times the root of the area over the noise of a pixel (Rose 1948, 10.1364/JOSA.38.000196), but for the
noise, which is one number for an image: the region that is least likely to be there merges first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree, lowest_common_ancestors

Attribute: TypeAlias = Literal["volume", "energy"]

_AREA_POWERS: dict[str, float] = {"volume": 1.0, "energy": 0.5}  # beside the contrast; the order is that of its square
# Share of the image from which on area no longer counts (our choice): a region that covers more is no small thing, and
# being larger makes it no likelier. Large regions, as of a ground or a photograph, merge in the order of contrast.
LARGE_AREA = 0.02


def merge_by_volume(
    tree: PartitionTree, edges: np.ndarray, strengths: np.ndarray, *, attribute: Attribute = "volume"
) -> PartitionTree:
    """The watershed hierarchy of a dendrogram's leaves by volume, or by energy.

    Where the dendrogram merges two regions at altitude g, the lesser one has the volume g * a, where a is its area as a
    share of ``LARGE_AREA`` of the image, at most 1: leaves are flat basins of depth 0, which are filled up to g. Its
    energy is g^2 * a. Altitudes are the square root of the volume, or the fourth root of the energy: so unlabelled grey
    photographs and images of particles or nuclei have about N^(1-g) regions at altitude g, as photographs have by their
    merge costs, where N is the number of leaves at the working size (our choice). All regions are connected if those of
    the dendrogram are.

    Args:
        tree: n leaves, which may have area 0; altitudes in [0, 1].
        edges: (m, 2) integer, all pairs of adjacent leaves.
        strengths: (m,) boundary strength of each pair. Where two regions have several common borders, the weakest one
            connects them.
        attribute: ``volume`` or ``energy``.

    Returns:
        ``PartitionTree`` on the same leaves, with altitudes in [0, 1].

    Raises:
        InputError: unknown attribute, altitudes out of range, strengths of another length, or leaves that are merged
            but not connected.
    """
    n = tree.n_leaves
    if tree.altitudes[0] < 0 or tree.altitudes[-1] > 1:
        raise InputError(f"expected altitudes in [0, 1]; got {tree.altitudes[0]:.3g}..{tree.altitudes[-1]:.3g}")
    if attribute not in _AREA_POWERS:
        raise InputError(f"expected attribute as volume or energy; got {attribute!r}")
    if edges.shape != (len(strengths), 2):
        raise InputError(f"expected edges of shape ({len(strengths)}, 2), like the strengths; got {edges.shape}")
    merges = lowest_common_ancestors(tree.parents, np.asarray(edges, np.int64)) - n
    order = np.lexsort((strengths, merges))
    weakest = order[np.flatnonzero(np.diff(merges[order], prepend=-1))]
    if len(weakest) != n - 1:
        raise InputError(f"expected an edge for each of {n - 1} merges; got edges for {len(weakest)}")
    shares = tree.areas[tree.children].min(axis=1) / tree.leaves.size
    altitudes = np.sqrt(tree.altitudes[n:] * np.minimum(shares / LARGE_AREA, 1) ** _AREA_POWERS[attribute])
    sequence = np.argsort(altitudes, kind="stable")
    links = np.asarray(edges, np.int64)[weakest[sequence]]
    return PartitionTree.from_merges(tree.leaves, _connect(links, n), altitudes[sequence])


@kernel()
def _connect(links: np.ndarray, n: int) -> np.ndarray:  # pragma: no cover
    """(n-1, 2) nodes that each of n-1 pairs of leaves joins, in order; new nodes are numbered from n."""
    tops = np.arange(2 * n - 1)
    merges = np.empty((n - 1, 2), np.int64)
    for k in range(n - 1):
        for side in range(2):
            node = links[k, side]
            while tops[node] != node:
                tops[node] = tops[tops[node]]
                node = tops[node]
            merges[k, side] = node
        tops[merges[k, 0]] = n + k
        tops[merges[k, 1]] = n + k
    return merges
