"""The package's own method: one dendrogram per image, at full resolution, from small leaves to the whole image.

Hand-crafted boundary cues, averaged with the boundaries that the embedded network predicts; watershed basins of that
map as leaves; greedy merging of the most similar neighbours. Images of small things are analysed at several sizes, and
where these are without colour, cuts are ordered by the volume or energy of regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from masktree.backbones.base import Backbone
from masktree.backbones.embedded import EmbeddedBackbone
from masktree.backbones.texture import BoundaryCues, Vocabulary, boundary_cues
from masktree.backbones.weights import BUILT_IN
from masktree.cluster.flat import FlatLeaves, flat_leaves
from masktree.cluster.flat_shapes import flat_shapes
from masktree.cluster.leaves import adjacency, watershed_leaves
from masktree.cluster.merge import merge_regions
from masktree.cluster.upsample import upsample_leaves
from masktree.cluster.volume import Attribute, merge_by_volume
from masktree.discover.detail import (
    FINE_FACTORS,
    LARGE_SIDE,
    WORKING_SIDE,
    Detail,
    brighten,
    check_detail,
    has_colour,
    may_show_large_things,
    shows_dense_things,
    shows_faint_things,
    shows_small_things,
)
from masktree.discover.order import choose_by_motion, num_candidates
from masktree.discover.pieces import centre_on_pieces
from masktree.discover.pooling import divide_leaves, pool_dendrograms
from masktree.errors import InputError
from masktree.trees.candidates import MaskSet, check_mask_set, find_candidates
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.types import RGB, Features, Labels, checked

Quality: TypeAlias = Literal["fast", "best"]
Order: TypeAlias = Literal["motion", "stability"]

# In working sizes: scales of the images whose boundaries are averaged.
SCALES = {"fast": (1.0,), "best": (1.0, 1.5, 2.0)}
LARGE_SCALES = (1.0, 2.0)  # of images from LARGE_SIDE pixels on
HISTOGRAM_WEIGHT = 0.3  # of the regions' chi-square distance, added to the mean boundary (our choice)
SIZE_POWER = 0.05  # small regions merge first (our choice; .05 to .1 were compared on BSDS500 val)
LEARNED_SHARE = np.float32(0.5)  # weight of the predicted boundaries, the rest is that of the cues (our choice)
LEARNED_SCALE = np.float32(0.65)  # root of the predicted probability at a clear boundary: mean 90 % quantile
FEATURE_WEIGHT = 0.5  # of (1 - cosine) of another network's features; the boundary term is about 1 (our choice)
EMBEDDING_WEIGHT = 0.2  # the same of the embedded network, whose boundaries are used already (our choice; see the log)

# Merge cost -> granularity g, so that the geometric mean over photographs of the number of regions left after all
# merges up to a cost is N^(1-g), N = 736 leaves. From 200 unlabelled photographs of mixed origin (shorter side
# 224-384 pixels) at quality fast; the last entry is above every cost met there (1.25). The costs of quality best
# differ by less than 0.02 above g = 0.6. recipes/granularity.py makes such a table.
_CUE_COSTS = (0.0, 0.4192, 0.5179, 0.5985, 0.6483, 0.6858, 0.7172, 0.7449, 0.7710, 0.7963, 0.8205, 0.8434, 0.8657,
          0.8909, 0.9180, 0.9442, 0.9712, 1.001, 1.034, 1.065, 1.108, 1.153, 1.6)  # fmt: skip
# The same with the embedded network: 200 photographs, N = 526.
_LEARNED_COSTS = (0.0, 0.2865, 0.3895, 0.5125, 0.6010, 0.6715, 0.7305, 0.7835, 0.8345, 0.8855, 0.9350, 0.9865, 1.0380,
                  1.0945, 1.1460, 1.2030, 1.2590, 1.3155, 1.3785, 1.4570, 1.5330, 1.6030, 2.0)  # fmt: skip
_GRANULARITIES = (0.0, 0.02, *(k / 20 for k in range(1, 20)), 0.98, 1.0)


def discover_masks(
    image: RGB,
    backbone: Backbone | None = None,
    *,
    quality: Quality = "fast",
    detail: Detail = "auto",
    min_area: int = 32,
    max_area: float = 0.9,
    max_masks: int | None = MAX_MASKS,
    duplicate_iou: float = 0.9,
    masks: MaskSet = "all",
    order: Order = "motion",
    remerge: Callable[[PartitionTree], PartitionTree] | None = None,
) -> MaskTree:
    """Stable nodes of the dendrograms of an image, and combinations of neighbouring ones.

    Args:
        image, backbone, quality, detail: see ``build_dendrogram``. With several working sizes the tree has nodes of the
            merge trees of all of them, see ``masktree.discover.pooling``, and combinations if the image has colour:
            small things without colour are nodes.
        min_area, max_area, max_masks, duplicate_iou, masks: see ``MaskTree.from_dendrogram``.
        order: ``motion``: scores are corrected by what moves in videos, and the masks are those that are best then, see
            ``masktree.discover.order``; ``stability``: scores stay as they are, as they do with several working sizes.
        remerge: makes another dendrogram on the same leaves, from which masks are chosen; None: as it is. Not called
            with several working sizes.
    """
    check_mask_set(masks)
    if order not in get_args(Order):
        raise InputError(f"expected order as {' or '.join(get_args(Order))}; got {order!r}")
    _check_arguments(image, quality, detail)
    shapes = flat_shapes(image)
    sizes = _working_sizes(image, quality, detail, is_flat=shapes is not None)
    analyses = [_analyse_at(image, shapes, backbone, *size) for size in sizes]
    if len(analyses) == 1:
        dendrogram = analyses[0].tree if remerge is None else remerge(analyses[0].tree)
        find = partial(
            find_candidates,
            dendrogram,
            min_area=min_area,
            max_area=max_area,
            duplicate_iou=duplicate_iou,
            masks=masks,
        )
        if order == "stability":
            return MaskTree.from_candidates(find(max_masks=max_masks))
        candidates = find(max_masks=num_candidates(max_masks))
        return MaskTree.from_candidates(choose_by_motion(candidates, image, max_masks))
    return pool_dendrograms(
        [one.tree for one in analyses],
        [working_side for _, working_side in sizes],
        brighten(image),
        cuts=_cuts(image, detail, analyses[0], analyses[-1]),
        combine=masks == "all" and has_colour(image),
        min_area=min_area,
        max_area=max_area,
        max_masks=max_masks,
        duplicate_iou=duplicate_iou,
    )


@checked
def build_dendrogram(
    image: RGB, *, backbone: Backbone | None = None, quality: Quality = "fast", detail: Detail = "auto"
) -> PartitionTree:
    """Dendrogram of an image of any size.

    Args:
        image: (H, W, 3) uint8 RGB.
        backbone: a network whose features enter the merge cost; None or the texture backbone: boundary cues alone.
        quality: ``fast`` computes boundaries at one scale, ``best`` at three, up to twice the working size, where the
            leaves are then found: finer, about seven times the time.
        detail: the working size, that of the image at which it is analysed; leaves are upsampled from there. A number
            is its longer side in pixels, or that of the image if it is smaller. ``auto``: ``WORKING_SIDE``; with
            boundaries at twice that as well from ``LARGE_SIDE`` pixels on (5 times the time); and ``fine`` where the
            image shows small things on one ground, see ``masktree.discover.detail``. ``fine``: at once, twice and
            three times the working size (14 times the time); this is the dendrogram of the last, with
            merges in the order of volume (``masktree.cluster.volume``) if the image has neither colour nor one ground,
            in that of energy if it has one ground without colour, both centred on the cut that agrees best with a local
            threshold (``masktree.discover.pieces``), and with those of the first under ``auto`` if it may as well show
            a few large things. Dark images without colour are stretched first (``brighten``).

    Returns:
        ``PartitionTree`` with leaves of shape (H, W) and altitudes in [0, 1]: the granularity g of each merge,
        calibrated so that a typical image of N leaves has about N^(1-g) regions at g.

    Raises:
        InputError: empty image, or unknown quality or detail.
    """
    _check_arguments(image, quality, detail)
    shapes = flat_shapes(image)
    sizes = _working_sizes(image, quality, detail, is_flat=shapes is not None)
    finest = _analyse_at(image, shapes, backbone, *sizes[-1])
    if len(sizes) == 1:
        return finest.tree
    coarsest = _analyse_at(image, shapes, backbone, *sizes[0]) if _has_coarse_cuts(image, detail) else finest
    return _cuts(image, detail, coarsest, finest)


def _check_arguments(image: RGB, quality: str, detail: Detail) -> None:
    if quality not in SCALES or image.size == 0:
        raise InputError(f"expected a non-empty image and quality 'fast' or 'best'; got {image.shape}, {quality!r}")
    check_detail(detail)


def _working_sizes(image: RGB, quality: str, detail: Detail, *, is_flat: bool) -> list[tuple[tuple[float, ...], int]]:
    """Scales and working side of each dendrogram of an image."""
    scales, longer = SCALES[quality], max(image.shape[:2])
    base = min(WORKING_SIDE, longer)
    if detail not in ("auto", "fine"):
        return [(scales, min(int(detail), longer))]
    if detail == "auto" and is_flat:
        return [(scales, base)]  # flat graphics have leaves at the size of the image anyway
    is_large = longer >= LARGE_SIDE
    if detail == "fine" or shows_small_things(image):
        return [(scales, base), *((SCALES["fast"], round(base * factor)) for factor in FINE_FACTORS)]
    return [(LARGE_SCALES if is_large and quality == "fast" else scales, base)]


@dataclass(frozen=True)
class Analysis:
    """Dendrogram of an image at one working size, with the borders of its leaves there.

    ``edges`` (m, 2) are pairs of neighbours, ``strengths`` (m,) the boundary along them.
    """

    tree: PartitionTree
    edges: np.ndarray
    strengths: np.ndarray


def _has_coarse_cuts(image: RGB, detail: Detail) -> bool:
    """Whether the cuts of an image with several working sizes are those of the coarsest one."""
    return detail == "auto" and may_show_large_things(image)


def _attribute_of_cuts(image: RGB) -> Attribute | None:
    """What the cuts of small things without colour go by; None for other images."""
    if shows_dense_things(image):
        return "volume"
    return "energy" if shows_faint_things(image) else None


def _cuts(image: RGB, detail: Detail, coarsest: Analysis, finest: Analysis) -> PartitionTree:
    """The dendrogram of an image with several working sizes, on the leaves of the finest; altitudes are calibrated."""
    if (attribute := _attribute_of_cuts(image)) is not None:
        ordered = merge_by_volume(finest.tree, finest.edges, finest.strengths, attribute=attribute)
        return centre_on_pieces(ordered, image)
    if _has_coarse_cuts(image, detail):
        return divide_leaves(finest.tree.leaves, coarsest.tree)
    return finest.tree


def _analyse_at(
    image: RGB, shapes: Labels | None, backbone: Backbone | None, scales: tuple[float, ...], working_side: int
) -> Analysis:
    """Analysis at one working size, with calibrated altitudes."""
    analysis = _analyse(image, shapes, backbone, scales, working_side)
    altitudes = costs_to_granularities(analysis.tree.altitudes, learned=isinstance(backbone, EmbeddedBackbone))
    return replace(analysis, tree=analysis.tree.with_altitudes(altitudes))


def build_cost_dendrogram(
    image: RGB,
    *,
    backbone: Backbone | None = None,
    scales: tuple[float, ...] = SCALES["fast"],
    working_side: int | None = None,
) -> PartitionTree:
    """The tree of ``build_dendrogram`` with uncalibrated merge costs as altitudes.

    Args:
        image, backbone: see ``build_dendrogram``.
        scales: in working sizes, of the images whose boundaries are averaged.
        working_side: longer side at scale 1, which may be larger than the image's; None: at most ``WORKING_SIDE``.
    """
    working_side = working_side or min(WORKING_SIDE, max(image.shape[:2]))
    return _analyse(image, flat_shapes(image), backbone, scales, working_side).tree


def _analyse(
    image: RGB, shapes: Labels | None, backbone: Backbone | None, scales: tuple[float, ...], working_side: int
) -> Analysis:
    """Analysis with merge costs as altitudes; see ``build_cost_dendrogram``. ``shapes``: those of ``flat_shapes``."""
    scale = working_side / max(image.shape[:2])
    bright = brighten(image)
    features = [merge_features(_rescale(bright, scale * factor), backbone) for factor in scales]
    # Leaves of an enlarged image only where all of the analysis is enlarged: else they are no finer than its pixels.
    working = _rescale(bright, min(max(1.0, scale), scale * max(scales)))
    boundary = np.stack([_resize_map(one.boundary, working.shape[:2]) for one in features]).mean(axis=0)
    leaves = watershed_leaves(boundary)
    grid, weight = features[0].embeddings, EMBEDDING_WEIGHT
    if grid is None and backbone is not None and backbone.name not in BUILT_IN:
        grid, weight = backbone(working[None])[0], FEATURE_WEIGHT
    cues = [one.cues for one in features]
    if shapes is not None:
        flat = flat_leaves(image, shapes, working, leaves)
        return analyse_leaves(flat, _resize_map(boundary, image.shape[:2]), cues, grid, weight)
    analysis = analyse_leaves(leaves, boundary, cues, grid, weight)
    if working is bright:
        return analysis
    return replace(analysis, tree=analysis.tree.with_leaves(upsample_leaves(leaves, working, bright)))


def costs_to_granularities(costs: np.ndarray, *, learned: bool) -> np.ndarray:
    """Merge costs to granularities in [0, 1]: piecewise linear, strictly increasing up to the table's last cost.

    ``learned``: whether the costs include predictions of the embedded network.
    """
    granularities: np.ndarray = np.interp(costs, _LEARNED_COSTS if learned else _CUE_COSTS, _GRANULARITIES)
    return granularities


def analyse_leaves(
    leaves: Labels | FlatLeaves,
    boundary: np.ndarray,
    cues: list[BoundaryCues],
    grid: Features | None,
    grid_weight: float,
) -> Analysis:
    """Merge tree of leaves by boundary (H, W), histograms of the cues' words, and the features of a grid, if any."""
    if isinstance(leaves, FlatLeaves):
        edges, strengths, lengths = leaves.adjacency(boundary)
        leaves = leaves.labels
    else:
        edges, strengths, lengths = adjacency(leaves, boundary)
    areas = np.bincount(leaves.ravel()).astype(np.float64)
    tree = merge_regions(
        leaves,
        edges,
        areas,
        embeddings=None if grid is None else sums_over_leaves(grid, leaves),
        histograms=np.concatenate([one.histograms(leaves, len(areas)) for one in cues], axis=1),
        boundary=strengths,
        lengths=lengths,
        histogram_weight=HISTOGRAM_WEIGHT,
        size_power=SIZE_POWER,
        embedding_weight=0.0 if grid is None else grid_weight,
    )
    return Analysis(tree, edges, strengths)


@dataclass(frozen=True)
class MergeFeatures:
    """Inputs of the merging at one scale.

    ``boundary`` (H, W) float32, about 1 at a clear boundary; ``cues``; ``embeddings`` of the embedded network, if used.
    """

    boundary: np.ndarray
    cues: BoundaryCues
    embeddings: Features | None = None

    def crop(self, top: int, left: int, height: int, width: int) -> MergeFeatures:
        """The features of a rectangle; ``top`` and ``left`` must be multiples of 4, the stride of the embeddings."""
        rows, columns = slice(top // 4, -(-(top + height) // 4)), slice(left // 4, -(-(left + width) // 4))
        cues = self.cues.crop(top, left, height, width)
        boundary = self.boundary[top : top + height, left : left + width]
        return MergeFeatures(boundary, cues, None if self.embeddings is None else self.embeddings[rows, columns])


@dataclass(frozen=True)
class SceneStatistics:
    """What is taken from a whole image, so that its windows are processed alike.

    Attributes:
        vocabulary: of the boundary cues.
        network_mean: (224,) float32, see ``EmbeddedBackbone.scene_mean``; None without that network.
    """

    vocabulary: Vocabulary
    network_mean: np.ndarray | None = None

    @classmethod
    def of_samples(cls, samples: Sequence[RGB], backbone: Backbone | None) -> SceneStatistics:
        """From one or more windows of an image."""
        vocabulary = Vocabulary.fit(samples)
        mean = backbone.scene_mean(samples, vocabulary) if isinstance(backbone, EmbeddedBackbone) else None
        return cls(vocabulary, mean)


def merge_features(image: RGB, backbone: Backbone | None, scene: SceneStatistics | None = None) -> MergeFeatures:
    """Features of an image, or with ``scene`` of a window of a larger one."""
    vocabulary = None if scene is None else scene.vocabulary
    if not isinstance(backbone, EmbeddedBackbone):
        cues = boundary_cues(image, vocabulary)
        return MergeFeatures(cues.boundary, cues)
    predicted = backbone.predict_boundaries(image, vocabulary, None if scene is None else scene.network_mean)
    # The root raises weak boundaries, likely at fine granularities only: merging needs their order too.
    learned = np.sqrt(predicted.boundary) / LEARNED_SCALE
    boundary = (1 - LEARNED_SHARE) * predicted.cues.boundary + LEARNED_SHARE * learned
    return MergeFeatures(boundary, predicted.cues, predicted.embeddings)


def _rescale(image: RGB, factor: float) -> RGB:
    if factor == 1:
        return image
    H, W = (max(1, round(side * factor)) for side in image.shape[:2])
    resample = Image.Resampling.BOX if image.shape[0] > H else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((W, H), resample))


def _resize_map(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape == shape:
        return values
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def sums_over_leaves(grid: Features, leaves: Labels) -> np.ndarray:
    """(n, d) float32: sum over the pixels of each of n leaves of an (h, w, d) feature grid that covers the image."""
    from scipy.sparse import csr_matrix

    h, w, d = grid.shape
    H, W = leaves.shape
    cells = (np.arange(H) * h // H)[:, None] * w + np.arange(W) * w // W
    ones = np.ones(leaves.size, np.float32)
    shape = int(leaves.max()) + 1, h * w
    pixel_counts = csr_matrix((ones, (leaves.ravel(), cells.ravel())), shape=shape)  # of each leaf in each cell
    return np.asarray(pixel_counts @ grid.reshape(h * w, d), np.float32)
