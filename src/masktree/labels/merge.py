"""Which masks of one image several sources have together.

Two rules. ``union``: all sources are alike, near-copies go once. ``add``: the first source is trusted, the others fill
in what it does not have; UnSAM+ (arXiv 2406.20081) with human masks as the first, and UnSAM's rounds of
self-training with a model's predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.trees.nms import mask_nms

RuleName = Literal["union", "fill"]
# UnSAM+'s bound for fill. For union the one of ``mask_nms`` (our choice: pooled sets give near-copies, which 0.9
# removes while it leaves an object and its slightly smaller main part).
DEFAULT_IOU = {"union": 0.9, "fill": 0.02}
_PAIRS = 2**23  # whose overlaps are counted at a time: 64 MB (our choice)


@dataclass(frozen=True)
class MaskPool:
    """n masks of one image, and where they come from.

    Attributes:
        rles: compressed COCO run-length strings, each with at least one pixel.
        scores, stabilities: (n,) float64 in [0, 1].
        sources: (n,) int64 number of each mask's source.
    """

    rles: tuple[bytes, ...]
    scores: np.ndarray
    stabilities: np.ndarray
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: np.ndarray) -> MaskPool:
        """The masks at integer positions, in their order."""
        rles = tuple(self.rles[i] for i in index)
        return MaskPool(rles, self.scores[index], self.stabilities[index], self.sources[index])

    @classmethod
    def joined(cls, pools: Sequence[MaskPool]) -> MaskPool:
        """All masks of several pools, one pool after the other."""
        if not pools:
            return cls((), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
        arrays = [np.concatenate([getattr(p, name) for p in pools]) for name in ("scores", "stabilities", "sources")]
        return cls(tuple(r for p in pools for r in p.rles), *arrays)

    def tree(self, size: tuple[int, int]) -> MaskTree:
        """The masks in their order, parents by coverage 0.9."""
        parents = hierarchy.parents_by_coverage(self.rles, size)
        return MaskTree.from_rles(self.rles, size, parents, scores=self.scores, stabilities=self.stabilities)


@dataclass(frozen=True)
class MergeRule:
    """How masks are merged.

    Attributes:
        name: union or add.
        iou: bound on the IoU, 0 to 1; None takes 0.9 for union, 0.02 for add.
        strict: add: whether the bound itself is too much.

    Raises:
        InputError: unknown name, or an IoU out of range.
    """

    name: RuleName = "union"
    iou: float | None = None
    strict: bool = False
    bound: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.name not in get_args(RuleName):
            raise InputError(f"expected a rule {' or '.join(get_args(RuleName))}; got {self.name!r}")
        object.__setattr__(self, "bound", DEFAULT_IOU[self.name] if self.iou is None else self.iou)
        if not 0 <= self.bound <= 1:
            raise InputError(f"expected an IoU in [0, 1]; got {self.iou}; {DEFAULT_IOU[self.name]} is the default")

    def merge(self, pools: Sequence[MaskPool], size: tuple[int, int]) -> MaskPool:
        """The masks that stay of one pool per source, all of (height, width) ``size``."""
        if self.name == "union":
            return union(pools, size, iou=self.bound)
        return fill(pools[0], pools[1:], size, iou=self.bound, strict=self.strict)


def union(pools: Sequence[MaskPool], size: tuple[int, int], *, iou: float = DEFAULT_IOU["union"]) -> MaskPool:
    """Exact non-maximum suppression over all masks, best first: ``mask_nms``.

    Best is the higher score, then the larger area, then the earlier string, then the lower number of the source, so
    that the order of the pools does not matter.
    """
    everything = _ordered(MaskPool.joined(pools), size)
    return everything[mask_nms(everything.rles, size, everything.scores, iou_threshold=iou)]


def fill(
    trusted: MaskPool,
    others: Sequence[MaskPool],
    size: tuple[int, int],
    *,
    iou: float = DEFAULT_IOU["fill"],
    strict: bool = False,
) -> MaskPool:
    """All masks of ``trusted``, as they are, then those of ``others`` whose IoU with each of them is at most ``iou``.

    Where nothing is trusted, everything is added. What several ``others`` add goes through ``union``, since each may
    have the same mask; what a single one adds is taken as it is, as in UnSAM+.

    Args:
        strict: an IoU of exactly ``iou`` is too much; so in UnSAM's rounds.
    """
    new = MaskPool.joined(others)
    new = _ordered(new[_apart(trusted.rles, new.rles, size, iou, strict)], size)
    if len(others) > 1:
        new = union([new], size)
    return MaskPool.joined([trusted, new])


def _apart(
    trusted: Sequence[bytes], others: Sequence[bytes], size: tuple[int, int], iou: float, strict: bool
) -> np.ndarray:
    """Positions of the others that overlap with no trusted mask by more."""
    if not trusted:
        return np.arange(len(others))
    areas, own = rle.areas(trusted, size)[:, None], rle.areas(others, size)
    step = max(1, _PAIRS // len(trusted))
    kept = []
    for start in range(0, len(others), step):
        shared = rle.cross_intersections(trusted, others[start : start + step], size)
        overlap = shared / (areas + own[start : start + step] - shared)
        fine = overlap < iou if strict else overlap <= iou
        kept.append(start + np.flatnonzero(fine.all(axis=0)))
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _ordered(pool: MaskPool, size: tuple[int, int]) -> MaskPool:
    """Best first, whatever the order was."""
    areas = rle.areas(pool.rles, size)

    def rank(i: int) -> tuple[float, int, bytes, int]:
        return -pool.scores[i], -int(areas[i]), pool.rles[i], int(pool.sources[i])

    return pool[np.array(sorted(range(len(pool)), key=rank), np.int64)]
