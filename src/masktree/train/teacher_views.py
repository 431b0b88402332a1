"""Two views of a photograph: a mild one in which the teacher looks for masks, a strong one in which the student learns
them (HASSOD, Cao et al. 2023, arXiv 2402.03311, and its code)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masktree.models.structures import Batch, Targets
from masktree.train.augmentation import Augmentation
from masktree.train.geometry import Geometry
from masktree.train.label_store import LabelStore
from masktree.train.photo_dataset import Broken, PhotoDataset, RandomStream, pad
from masktree.types import RGB

# Probability, area as a share of the picture, height / width of the student's erasings (HASSOD's code).
ERASINGS = ((0.7, (0.05, 0.2), (0.3, 3.3)), (0.5, (0.02, 0.2), (0.1, 6.0)), (0.3, (0.02, 0.2), (0.05, 8.0)))
_ATTEMPTS = 10  # at a rectangle that fits (torchvision's RandomErasing, which HASSOD uses)


@dataclass(frozen=True)
class Erasing:
    """A rectangle that noise takes the place of; masks stay.

    Attributes:
        top, left, height, width: in pixels.
        seed: of the noise: bytes drawn evenly. (HASSOD's code draws normal numbers and lets them wrap as bytes.)
    """

    top: int
    left: int
    height: int
    width: int
    seed: int

    def apply(self, image: RGB) -> RGB:
        """A copy of the (H, W, 3) image without what was in the rectangle."""
        result = image.copy()
        noise = np.random.default_rng(self.seed).integers(0, 256, (self.height, self.width, 3), np.uint8)
        result[self.top : self.top + self.height, self.left : self.left + self.width] = noise
        return result


def draw_erasings(size: tuple[int, int], rng: np.random.Generator) -> list[Erasing]:
    """The random rectangles of ``ERASINGS`` in an image of (height, width).

    Area and place are drawn evenly, the ratio of the sides evenly on a logarithmic scale. A rectangle as high or wide
    as the image is drawn again, and left out if none fits.
    """
    found = []
    for probability, area, ratio in ERASINGS:
        if rng.random() >= probability:
            continue
        for _ in range(_ATTEMPTS):
            pixels = rng.uniform(*area) * size[0] * size[1]
            ratio_root = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])) / 2)
            height, width = round(math.sqrt(pixels) * ratio_root), round(math.sqrt(pixels) / ratio_root)
            if 0 < height < size[0] and 0 < width < size[1]:
                top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
                found.append(Erasing(top, left, height, width, int(rng.integers(2**32))))
                break
    return found


@dataclass(frozen=True)
class ViewBatch:
    """b photographs, each seen twice.

    ``weak``, ``strong``: batches of the teacher's and of the student's view, in one order, with the same seeds and
    names, without any target. ``contents``: height and width of each weak view within its padding.
    ``weak_geometries``, ``strong_geometries``: where the pixels of the views come from; their ``size`` is that of the
    photograph. A weak view shows all of it.
    """

    weak: Batch
    strong: Batch
    contents: Sequence[tuple[int, int]]
    weak_geometries: Sequence[Geometry]
    strong_geometries: Sequence[Geometry]


@dataclass(frozen=True)
class ViewPair:
    """One photograph as it travels from a worker: ``images`` (2, 3, crop, crop) uint8, weak and strong, ``cues`` of
    both as in ``Batch``, ``geometries`` of both; ``broken`` as in ``Made``."""

    images: np.ndarray
    cues: np.ndarray | None
    geometries: tuple[Geometry, Geometry]
    seed: int
    name: str
    broken: Broken = ()


class TwoViewDataset(PhotoDataset[ViewPair, ViewBatch]):
    """Two views of each photograph of a label set, also of those without labels.

    Weak: all of the photograph, its longer side as long as the crop, mirrored or not (our choice: a model that is used
    sees whole photographs, and what is found in one can be seen in any other view). Strong: scale, crop and mirror of
    ``settings``, its ``strong()`` colours, then random erasings; nothing is pasted.

    The order of the photographs is not that of ``LabelledDataset``: labels and teacher teach different ones in a
    step.
    """

    order = RandomStream.TAUGHT_ORDER

    def __init__(
        self, store: LabelStore, root: str | Path, settings: Augmentation, seed: int, *, skip_broken: bool = False
    ) -> None:
        """As :class:`PhotoDataset`, of all that are in the store."""
        numbers = np.arange(len(store))
        super().__init__(store, root, settings.strong(), seed, numbers, skip_broken=skip_broken)

    def example(self, k: int) -> ViewPair:
        """See :meth:`PhotoDataset.example`."""
        settings, rng = self.settings, self.draw(RandomStream.TAUGHT_VIEWS, k)
        broken: list[tuple[str, str]] = []
        record, photograph = self._photo(*divmod(k, len(self)), broken)
        weak = replace(settings.whole(record.size), mirrored=bool(rng.random() < settings.mirror))
        strong = settings.draw_geometry(record.size, rng)
        seen = settings.draw_color_jitter(rng).apply(strong.apply(photograph))
        for erasing in draw_erasings(strong.window, rng):
            seen = erasing.apply(seen)
        (mild, mild_cues), (hard, hard_cues) = (pad(v, settings) for v in (weak.apply(photograph), seen))
        cues = None if mild_cues is None or hard_cues is None else np.stack([mild_cues, hard_cues])
        images, seed = np.stack([mild, hard]), self.seed_of(RandomStream.TAUGHT_SEED, k)
        return ViewPair(images, cues, (weak, strong), seed, record.name, tuple(broken))

    def collate(self, examples: Sequence[ViewPair]) -> _Pack:
        """See :meth:`PhotoDataset.collate`."""
        cues = [pair.cues for pair in examples if pair.cues is not None]
        return _Pack(
            images=torch.from_numpy(np.stack([pair.images for pair in examples])),
            cues=torch.from_numpy(np.stack(cues)) if cues else None,
            geometries=[pair.geometries for pair in examples],
            seeds=[pair.seed for pair in examples],
            names=[pair.name for pair in examples],
        )

    def unpack(self, pack: _Pack) -> ViewBatch:
        """The views of a step."""
        weak, strong = (
            Batch(
                images=pack.images[:, side].float() / 255,
                cues=None if pack.cues is None else pack.cues[:, side],
                targets=[_nothing(self.settings.crop) for _ in pack.names],
                seeds=torch.tensor(pack.seeds, dtype=torch.int64),
                names=pack.names,
            )
            for side in range(2)
        )
        weak_geometries, strong_geometries = ([pair[side] for pair in pack.geometries] for side in range(2))
        return ViewBatch(weak, strong, [g.window for g in weak_geometries], weak_geometries, strong_geometries)


@dataclass(frozen=True)
class _Pack:
    """The pairs of a step."""

    images: Tensor
    cues: Tensor | None
    geometries: list[tuple[Geometry, Geometry]]
    seeds: list[int]
    names: list[str]


def _nothing(crop: int) -> Targets:
    none = torch.zeros(0, dtype=torch.int64)
    return Targets(torch.zeros(0, crop, crop, dtype=torch.bool), none, none)
