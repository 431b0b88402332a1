"""One block of a large image: its leaves, what they look like, and what its neighbours need to know."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from masktree.backbones.base import Backbone
from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.discover.masktree import SceneStatistics, merge_features, sums_over_leaves
from masktree.io.files import write_atomically
from masktree.predict.blank import is_blank
from masktree.types import RGB

BLOCK = 1024  # side of a block in pixels; part of what a tree is, as leaves end at its sides (our choice)
# Pixels around a block that its boundaries are computed with, a multiple of the network's coarsest stride. The cues see
# 90 pixels; the network sees 435, but hardly uses those beyond this halo (our choice; see the log).
HALO = 128


@dataclass(frozen=True)
class BlockGraph:
    """The n leaves of a block of h x w pixels.

    Attributes:
        leaves: (h, w) int32 labels from 0.
        areas: (n,) int64 pixels.
        lowest: (n,) float32, lowest boundary.
        histograms: (n, k) float32 pixels per word.
        embeddings: (n, d) float32 sums of the network's embeddings; d = 0 without the network.
        edges, strengths, lengths: see ``masktree.cluster.leaves.adjacency``.
        top, bottom, left, right: float32 boundary along the sides.
        overview: (h', w', 3) uint8, the block in the overview.
        blank: whether it has one colour, or is white noise.
    """

    leaves: np.ndarray
    areas: np.ndarray
    lowest: np.ndarray
    histograms: np.ndarray
    embeddings: np.ndarray
    edges: np.ndarray
    strengths: np.ndarray
    lengths: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray
    overview: np.ndarray
    blank: np.ndarray

    def save(self, path: Path) -> None:
        """Write the block atomically."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays["leaves"] = self.leaves.astype(np.min_scalar_type(len(self.areas)))
        write_atomically(path, lambda handle: np.savez(handle, **arrays))

    @classmethod
    def load(cls, path: Path) -> BlockGraph:
        """Read what ``save`` has written."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})


def analyse_block(
    image: RGB,
    core: tuple[slice, slice],
    overview: np.ndarray,
    backbone: Backbone,
    scene: SceneStatistics,
    *,
    min_leaf_area: int,
) -> BlockGraph:
    """Leaves and graph of the part ``core`` of a window; the rest is its halo."""
    features = merge_features(image, backbone, scene)
    top, left = core[0].start, core[1].start
    inner = features.crop(top, left, core[0].stop - top, core[1].stop - left)
    boundary = np.ascontiguousarray(inner.boundary)
    leaves = watershed_leaves(boundary, min_area=min_leaf_area)
    edges, strengths, lengths = adjacency(leaves, boundary)
    areas = np.bincount(leaves.ravel())
    lowest = np.full(len(areas), np.inf, np.float32)
    np.minimum.at(lowest, leaves.ravel(), boundary.ravel())
    none = np.zeros((len(areas), 0), np.float32)
    return BlockGraph(
        leaves=leaves,
        areas=areas,
        lowest=lowest,
        histograms=inner.cues.histograms(leaves, len(areas)),
        embeddings=none if inner.embeddings is None else sums_over_leaves(inner.embeddings, leaves),
        edges=edges,
        strengths=strengths,
        lengths=lengths,
        top=boundary[0],
        bottom=boundary[-1],
        left=boundary[:, 0],
        right=boundary[:, -1],
        overview=overview,
        blank=np.array(is_blank(np.ascontiguousarray(image[core]))),
    )
