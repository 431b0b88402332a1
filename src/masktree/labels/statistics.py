"""Statistics of a label set that need no ground truth."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from masktree.coco.areas import MEDIUM_AREA, SMALL_AREA
from masktree.errors import FormatError
from masktree.io.files import is_number, is_whole
from masktree.trees import rle
from masktree.trees.masktree import LEVELS, MaskTree

_HISTOGRAMS = ("levels", "sizes", "areas", "depths", "sources")


@dataclass
class Statistics:
    """Statistics summed over images; those of shards can be merged.

    Attributes:
        masks_per_image: number of masks of each image, in order.
        coverage: sum over images of the share of pixels covered by masks.
        levels: masks by level; sizes: by COCO size; areas: by log2 of the area in pixels; depths: by depth.
        sources: masks of a merged set by source and outcome, such as ``0 kept`` and ``1 rejected``.
    """

    masks_per_image: list[int] = field(default_factory=list)
    coverage: float = 0.0
    levels: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    areas: Counter[str] = field(default_factory=Counter)
    depths: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, tree: MaskTree) -> None:
        """Add the masks of one image."""
        self.masks_per_image.append(len(tree))
        covered = rle.areas([rle.union(tree.rles, tree.size)], tree.size)[0]
        self.coverage += float(covered) / (tree.size[0] * tree.size[1])
        areas = tree.areas
        self.levels.update(LEVELS[level] for level in tree.levels)
        self.sizes.update(
            "small" if a < SMALL_AREA else "medium" if a < MEDIUM_AREA else "large" for a in areas.tolist()
        )
        self.areas.update(str(int(power)) for power in np.log2(np.maximum(areas, 1)).astype(int))
        self.depths.update(str(int(depth)) for depth in tree.depths)

    def add_sources(self, numbers: Iterable[int], left_out: Mapping[str, int]) -> None:
        """Add the numbers of the sources of one image's masks, and its counts ``left_out``.

        Raises:
            FormatError: the counts are none.
        """
        if not _is_histogram(left_out):
            raise FormatError(f"expected numbers of masks left out; got {reprlib.repr(left_out)}; merge again")
        self.sources.update(f"{number} kept" for number in numbers)
        self.sources.update(left_out)

    def outcomes(self, index: int) -> dict[str, int]:
        """Number of masks of a source by outcome."""
        counts = ((key.partition(" "), count) for key, count in sorted(self.sources.items()))
        return {outcome: count for (source, _, outcome), count in counts if source == str(index)}

    def merge(self, other: Statistics) -> None:
        self.masks_per_image += other.masks_per_image
        self.coverage += other.coverage
        for name in _HISTOGRAMS:
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        return {
            "masks_per_image": self.masks_per_image,
            "coverage": self.coverage,
            **{name: dict(getattr(self, name)) for name in _HISTOGRAMS if name != "sources" or self.sources},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Statistics:
        """Raises FormatError where ``to_json`` did not make the value."""
        masks, coverage = value.get("masks_per_image"), value.get("coverage")
        histograms = {name: value.get(name, {}) for name in _HISTOGRAMS}
        if (
            not isinstance(masks, list)
            or not all(map(is_whole, masks))
            or not (isinstance(coverage, float | int) and is_number(coverage))
            or not all(map(_is_histogram, histograms.values()))
            or not all(key.isdecimal() for name in ("areas", "depths") for key in histograms[name])
        ):
            raise FormatError("expected the statistics of a shard; got others; make the label set again")
        return cls(list(masks), float(coverage), **{name: Counter(counts) for name, counts in histograms.items()})

    def summary(self) -> dict[str, Any]:
        """Counts, mean and quantiles of masks per image, mean coverage and histograms."""
        counts = np.array(self.masks_per_image or [0])
        return {
            "images": len(self.masks_per_image),
            "masks": int(counts.sum()),
            "masks_per_image_mean": round(float(counts.mean()), 2),
            "masks_per_image_quantiles": {str(q): float(np.quantile(counts, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
            "images_without_masks": int((counts == 0).sum()) if self.masks_per_image else 0,
            "coverage": round(self.coverage / max(len(self.masks_per_image), 1), 4),
            "levels": dict(self.levels),
            "sizes": dict(self.sizes),
            "log2_area": dict(sorted(self.areas.items(), key=lambda item: int(item[0]))),
            "depths": dict(sorted(self.depths.items(), key=lambda item: int(item[0]))),
        }


def _is_histogram(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_whole, value.values()))
