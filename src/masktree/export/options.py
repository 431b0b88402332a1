"""What is exported of a tree: which masks or which cut, under which names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from masktree.arguments import check_number
from masktree.errors import InputError
from masktree.export.image import LabelledImage
from masktree.trees import rle
from masktree.trees.candidates import MaskSet, check_mask_set
from masktree.trees.mask_selection import check_selection, select_masks
from masktree.trees.masktree import LEVELS, MaskTree

Only = Literal["all", "classified", "accepted"]


@dataclass(frozen=True)
class ExportOptions:
    """Which masks are written, and how.

    Attributes:
        levels: of the masks to keep.
        granularity_range: lowest and highest granularity of the masks to keep, in [0, 1].
        min_area: smallest mask in pixels.
        min_score: lowest score, in [0, 1].
        masks: ``nodes``, or ``all``: combinations of nodes as well.
        granularities: cuts instead of masks, at these granularities in [0, 1]; their regions cover every pixel.
        classes: name of the class of the masks of each level that have none of their own; a level without one keeps its
            own name.
        only: ``all`` masks, those with a class (``classified``), or those that people have ``accepted``.
        image_prefix: stands before the names of the images, as tools that fetch them from a server want it.
        flat: whether formats that nest objects in each other write a flat list.
        compress: whether to compress with gzip where the tool reads that.

    Raises:
        InputError: a value out of range, or options that do not go together.
    """

    levels: tuple[str, ...] = LEVELS
    granularity_range: tuple[float, float] = (0.0, 1.0)
    min_area: int = 0
    min_score: float = 0.0
    masks: MaskSet = "nodes"
    granularities: tuple[float, ...] = ()
    classes: Mapping[str, str] = field(default_factory=dict)
    only: Only = "all"
    image_prefix: str = ""
    flat: bool = False
    compress: bool = False

    def __post_init__(self) -> None:
        check_mask_set(self.masks)
        check_selection(self.levels, self.granularity_range, self.min_area, self.min_score)
        if self.only not in get_args(Only):
            raise InputError(f"expected only as {', '.join(get_args(Only))}; got {self.only!r}")
        unknown = [level for level in self.classes if level not in LEVELS]
        if unknown:
            raise InputError(f"expected classes of the levels {', '.join(LEVELS)}; got {unknown[0]}")
        for value in self.granularities:
            check_number(value, "a granularity", 0, 1)
        if self.granularities and self.selects_masks:
            raise InputError(
                "expected masks of certain levels, scores or granularities, or a cut; got both; leave out granularity, "
                "which replaces the masks by the regions of a cut"
            )

    @property
    def selects_masks(self) -> bool:
        """Whether masks are chosen by what regions of a cut do not have."""
        return (
            set(self.levels) != set(LEVELS)
            or self.granularity_range != (0.0, 1.0)
            or self.min_score > 0
            or self.only != "all"
            or self.masks == "all"
        )

    def select(self, image: LabelledImage) -> LabelledImage:
        """The image with the chosen masks, or the regions of the cut as masks.

        A mask whose parent is left out goes to the nearest ancestor that stays; levels stay as they are.

        Raises:
            InputError: several cuts, which are not one set of masks.
        """
        if self.granularities:
            if len(self.granularities) > 1:
                raise InputError(
                    f"expected one granularity; got {len(self.granularities)}; only label images hold several cuts"
                )
            cut = cut_tree(image.tree, self.granularities[0])
            image = replace(image, tree=cut, classes=None, extras={}, class_list=())
        tree = image.tree
        level_names = np.array(LEVELS)[tree.levels] if len(tree) else np.zeros(0, str)
        keep = select_masks(
            tree,
            levels=self.levels,
            granularity_range=self.granularity_range,
            min_area=self.min_area,
            min_score=self.min_score,
        )
        keep &= _chosen(image, self.only)
        if self.masks == "nodes":
            keep &= tree.kinds == 0
        kept = np.flatnonzero(keep).tolist()
        selected = replace(tree[keep], levels=tree.levels[keep])
        classes = image.classes
        if self.classes:
            given = classes or (None,) * len(tree)
            pairs = zip(given, level_names.tolist(), strict=True)
            classes = tuple(name or self.classes.get(level, level) for name, level in pairs)
        return replace(
            image,
            tree=selected,
            classes=None if classes is None else tuple(classes[i] for i in kept),
            extras={key: [values[i] for i in kept] for key, values in image.extras.items()},
        )

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "levels": list(self.levels),
            "granularity_range": list(self.granularity_range),
            "min_area": self.min_area,
            "min_score": self.min_score,
            "masks": self.masks,
            "granularities": list(self.granularities),
            "classes": dict(self.classes),
            "only": self.only,
            "image_prefix": self.image_prefix,
            "flat": self.flat,
            "compress": self.compress,
        }


def _chosen(image: LabelledImage, only: Only) -> np.ndarray:
    """(n,) bool: the masks that people have classified or accepted, or all."""
    n = len(image.tree)
    if only == "classified":
        return np.array([bool(name) for name in image.classes or (None,) * n], np.bool_)
    if only == "accepted":
        return np.array([status == "accepted" for status in image.extras.get("status", (None,) * n)], np.bool_)
    return np.ones(n, np.bool_)


def cut_tree(tree: MaskTree, granularity: float) -> MaskTree:
    """The regions of a cut as masks without hierarchy, of score 1."""
    labels = tree.cut(granularity)
    low = np.arange(labels.max() + 1)
    rles = rle.encode_intervals(labels, low, low + 1)
    return MaskTree.from_rles(rles, tree.size, np.full(len(rles), -1, np.int32))
