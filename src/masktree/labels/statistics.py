"""Counts that describe a label set without any ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from masktree.coco.areas import MEDIUM_AREA, SMALL_AREA
from masktree.trees import rle
from masktree.trees.masktree import LEVELS, MaskTree

_COUNTERS = ("levels", "sizes", "areas", "depths", "sources")


@dataclass
class Statistics:
    """Sums over images; adds up across shards.

    Attributes:
        masks_per_image: number of masks of each image, in order.
        coverage: sum over images of the share of pixels under at least one mask.
        levels: masks by level; sizes: by COCO size; areas: by power of two of the area in pixels; depths: by depth.
        sources: of a merged set: masks by source and what became of them, such as ``0 kept`` and ``1 rejected``.
    """

    masks_per_image: list[int] = field(default_factory=list)
    coverage: float = 0.0
    levels: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    areas: Counter[str] = field(default_factory=Counter)
    depths: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, tree: MaskTree) -> None:
        """Count one image."""
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

    def add_sources(self, records: Sequence[Mapping[str, Any]], left_out: Mapping[str, int]) -> None:
        """Count where the annotations of one image of a merged set come from; ``left_out`` as in its record."""
        self.sources.update(f"{record['source']} kept" for record in records if "source" in record)
        self.sources.update(left_out)

    def of_source(self, number: int) -> dict[str, int]:
        """What became of the masks of a source."""
        named = ((key.partition(" "), count) for key, count in sorted(self.sources.items()))
        return {what: count for (source, _, what), count in named if source == str(number)}

    def merge(self, other: Statistics) -> None:
        self.masks_per_image += other.masks_per_image
        self.coverage += other.coverage
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        return {
            "masks_per_image": self.masks_per_image,
            "coverage": self.coverage,
            **{name: dict(getattr(self, name)) for name in _COUNTERS if name != "sources" or self.sources},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Statistics:
        counters = {name: Counter(value.get(name, {})) for name in _COUNTERS}
        return cls(list(value["masks_per_image"]), float(value["coverage"]), **counters)

    def summary(self) -> dict[str, Any]:
        """Readable totals: counts, mean and quantiles of masks per image, mean coverage, histograms."""
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
