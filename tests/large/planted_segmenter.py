"""A segmenter whose masks are known: the connected pieces of each colour, and of all colours together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from masktree.trees import rle
from masktree.trees.masktree import MaskTree

GROUND = (60, 140, 70)


@dataclass(frozen=True)
class Provenance:
    name: str = "planted"
    sha256: str = "0" * 64


@dataclass
class PlantedSegmenter:
    """Sees what has one of ``colours`` and is at least ``smallest`` pixels large.

    Attributes:
        windows: sizes of the images that it was given.
    """

    colours: list[tuple[int, int, int]] = field(default_factory=list)
    smallest: int = 20
    device: str = "cpu"
    provenance: Provenance = Provenance()
    windows: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, image, image_format="RGB", *, read_options=None):
        self.windows.append(image.shape[:2])
        far = np.abs(image[:, :, None].astype(int) - [GROUND, *self.colours]).sum(axis=3)
        nearest = far.argmin(axis=2)
        # Where a colour is reduced together with another one, it is neither.
        regions = [nearest > 0, *((nearest == k) & (far[..., k] < 20) for k in range(1, len(self.colours) + 1))]
        masks = {}
        for region in regions:
            labels, count = ndimage.label(region)
            for label in range(1, count + 1):
                masks[(labels == label).tobytes()] = labels == label
        rles = [rle.encode(mask) for mask in masks.values() if mask.sum() >= self.smallest]
        return MaskTree.from_rles(rles, image.shape[:2], np.full(len(rles), -1, np.int32))
