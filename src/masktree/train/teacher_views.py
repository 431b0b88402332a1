"""Two views of an image: a weak one for the teacher, a strong one for the student (HASSOD, Cao et al. 2023, arXiv
2402.03311, and its code)."""

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
from masktree.train.color_jitter import ColorJitter
from masktree.train.geometry import Geometry
from masktree.train.label_store import LabelStore
from masktree.train.labelled_dataset import LabelledDataset
from masktree.train.photo_dataset import Broken, PhotoDataset, RandomStream, pad, stack_padded
from masktree.types import RGB

# Probability, area as a fraction of the view, height / width of the student's random erasing (HASSOD's code).
ERASINGS = ((0.7, (0.05, 0.2), (0.3, 3.3)), (0.5, (0.02, 0.2), (0.1, 6.0)), (0.3, (0.02, 0.2), (0.05, 8.0)))
_MAX_ATTEMPTS = 10  # to draw a rectangle that fits, as torchvision's RandomErasing, which HASSOD uses


@dataclass(frozen=True)
class Erasing:
    """A rectangle that is replaced by noise; masks are unaffected.

    Attributes:
        top, left, height, width: in pixels.
        seed: of the noise, uniform bytes. (HASSOD's code draws normal numbers, which overflow as bytes.)
    """

    top: int
    left: int
    height: int
    width: int
    seed: int

    def apply(self, image: RGB) -> RGB:
        """A copy of the (H, W, 3) image with noise in the rectangle."""
        result = image.copy()
        noise = np.random.default_rng(self.seed).integers(0, 256, (self.height, self.width, 3), np.uint8)
        result[self.top : self.top + self.height, self.left : self.left + self.width] = noise
        return result


def draw_erasings(size: tuple[int, int], rng: np.random.Generator) -> list[Erasing]:
    """Random rectangles of ``ERASINGS`` in a view of (height, width).

    Area and position are uniform, the aspect ratio is log-uniform. A rectangle as high or wide as the view is drawn
    again, and left out if none fits. torchvision's RandomErasing has no random generator of its own to seed.
    """
    erasings = []
    for probability, area, ratio in ERASINGS:
        if rng.random() >= probability:
            continue
        for _ in range(_MAX_ATTEMPTS):
            pixels = rng.uniform(*area) * size[0] * size[1]
            ratio_root = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])) / 2)
            height, width = round(math.sqrt(pixels) * ratio_root), round(math.sqrt(pixels) / ratio_root)
            if 0 < height < size[0] and 0 < width < size[1]:
                top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
                erasings.append(Erasing(top, left, height, width, int(rng.integers(2**32))))
                break
    return erasings


@dataclass(frozen=True)
class ViewBatch:
    """Weak and strong views of b images.

    Attributes:
        weak, strong: batches of the teacher's and the student's views, in the same order, with the same seeds and
            names, without targets.
        valid_sizes: (height, width) of each weak view within its padding.
        weak_geometries, strong_geometries: from image to view. A weak view shows the whole image.
    """

    weak: Batch
    strong: Batch
    valid_sizes: Sequence[tuple[int, int]]
    weak_geometries: Sequence[Geometry]
    strong_geometries: Sequence[Geometry]


@dataclass(frozen=True)
class ViewPair:
    """Two views of one image as a worker sends them.

    Attributes:
        images: (2, 3, H, W) uint8, weak and strong, of the larger height and width of both.
        cues: of both, as in ``Batch``.
        geometries: of both.
        seed: of random choices for this image.
        name: of the image.
        broken: names and errors of the unreadable images that it replaces.
    """

    images: np.ndarray
    cues: np.ndarray | None
    geometries: tuple[Geometry, Geometry]
    seed: int
    name: str
    broken: Broken = ()


class TwoViewDataset(PhotoDataset[ViewPair, ViewBatch]):
    """Two views of each image of a label set, images without labels included.

    Weak: the whole image, its longer side resized to the crop size, flipped or not (our choice: inference sees whole
    images, and their masks can be mapped into any other view). Strong: scale, crop and flip of ``settings``, the
    colours of ``settings.strong()``, then random erasing; nothing is pasted. With ``settings.short_sides``, where views
    are whole images, the weak view is the strong one before its colours change (HASSOD's code).
    """

    order_stream = RandomStream.TEACHER_ORDER

    def __init__(
        self,
        store: LabelStore,
        root: str | Path,
        settings: Augmentation,
        seed: int,
        indices: np.ndarray | None = None,
        *,
        skip_broken: bool = False,
    ) -> None:
        """As :class:`PhotoDataset`, with the strong colours of ``settings``."""
        super().__init__(store, root, settings.strong(), seed, indices, skip_broken=skip_broken)

    def example(self, k: int) -> ViewPair:
        """See :meth:`PhotoDataset.example`."""
        settings, rng = self.settings, self.rng(RandomStream.TEACHER_VIEWS, k)
        broken: list[tuple[str, str]] = []
        labels, image = self._read_shuffled(*divmod(k, len(self)), broken)
        weak = replace(settings.full_image(labels.size), flipped=bool(rng.random() < settings.flip_prob))
        strong = settings.draw_geometry(labels.size, rng)
        if settings.short_sides and strong.window == strong.resized:
            weak = strong
        strong_view = settings.draw_color_jitter(rng).apply(strong.apply(image))
        for erasing in draw_erasings(strong.window, rng):
            strong_view = erasing.apply(strong_view)
        (weak_image, weak_cues), (strong_image, strong_cues) = (
            pad(view, settings) for view in (weak.apply(image), strong_view)
        )
        cues = None if weak_cues is None or strong_cues is None else stack_padded([weak_cues, strong_cues]).numpy()
        images, seed = stack_padded([weak_image, strong_image]).numpy(), self.seed_of(RandomStream.TEACHER_SEED, k)
        return ViewPair(images, cues, (weak, strong), seed, labels.name, tuple(broken))

    def collate(self, examples: Sequence[ViewPair]) -> _PackedViews:
        """See :meth:`PhotoDataset.collate`."""
        cues = [pair.cues for pair in examples if pair.cues is not None]
        return _PackedViews(
            images=stack_padded([pair.images for pair in examples]),
            cues=stack_padded(cues) if cues else None,
            geometries=[pair.geometries for pair in examples],
            seeds=[pair.seed for pair in examples],
            names=[pair.name for pair in examples],
        )

    def unpack(self, packed: _PackedViews) -> ViewBatch:
        """The views of a step."""
        weak, strong = (
            Batch(
                images=packed.images[:, view].float() / 255,
                cues=None if packed.cues is None else packed.cues[:, view],
                targets=[_no_targets(packed.images.shape[-2:]) for _ in packed.names],
                seeds=torch.tensor(packed.seeds, dtype=torch.int64),
                names=packed.names,
            )
            for view in range(2)
        )
        weak_geometries, strong_geometries = ([pair[view] for pair in packed.geometries] for view in range(2))
        return ViewBatch(weak, strong, [g.window for g in weak_geometries], weak_geometries, strong_geometries)


class StrongLabelledDataset(LabelledDataset):
    """The examples of ``LabelledDataset`` with the colours and erasing of the student's strong view (HASSOD's code)."""

    seed_stream = RandomStream.STRONG_SEED

    def recolour(self, image: RGB, color_jitter: ColorJitter, k: int) -> RGB:
        """See ``LabelledDataset``."""
        rng = self.rng(RandomStream.STRONG_VIEW, k)
        view = self.settings.strong().draw_color_jitter(rng).apply(image)
        for erasing in draw_erasings((view.shape[0], view.shape[1]), rng):
            view = erasing.apply(view)
        return view


@dataclass(frozen=True)
class _PackedViews:
    """The view pairs of a step."""

    images: Tensor
    cues: Tensor | None
    geometries: list[tuple[Geometry, Geometry]]
    seeds: list[int]
    names: list[str]


def _no_targets(size: torch.Size) -> Targets:
    empty = torch.zeros(0, dtype=torch.int64)
    return Targets(torch.zeros(0, *size, dtype=torch.bool), empty, empty)
