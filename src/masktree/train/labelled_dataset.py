"""Batches of images with their pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.errors import InputError
from masktree.models.structures import Batch, Targets
from masktree.train.augmentation import Augmentation
from masktree.train.color_jitter import ColorJitter
from masktree.train.photo_dataset import Broken, PhotoDataset, RandomStream, pad, pad_to, padded_size, stack_padded
from masktree.train.samples import (
    MAX_PASTED_FRACTION,
    Sample,
    apply_view,
    choose_masks,
    choose_objects,
    choose_released,
    paste,
    paste_released,
)
from masktree.types import RGB


@dataclass(frozen=True)
class LabelledExample:
    """One image as a worker sends it.

    Attributes:
        image: (3, H, W) uint8, of ``photo_dataset.padded_size``.
        cues: as in ``Batch``.
        masks: (n, H, W / 8) uint8, one bit per pixel: as bytes, 200 masks at 1024 pixels take 200 MB of shared memory,
            of which containers often have 64.
        parents, levels: as in ``Targets``.
        seed: of random choices for this image.
        name: of the image.
        broken: names and errors of the unreadable images that it replaces.
    """

    image: np.ndarray
    cues: np.ndarray | None
    masks: np.ndarray
    parents: np.ndarray
    levels: np.ndarray
    seed: int
    name: str
    broken: Broken = ()


class LabelledDataset(PhotoDataset[LabelledExample, Batch]):
    """Images that have pseudo-labels.

    Images without any mask are left out, as detection libraries do: what clustering has not found in them may be there.
    """

    order_stream = RandomStream.ORDER
    seed_stream = RandomStream.SEED

    def usable_images(self) -> np.ndarray:
        """See :meth:`PhotoDataset.usable_images`: those that have masks."""
        return self.store.images_with_masks()

    def example(self, k: int) -> LabelledExample:
        """See :meth:`PhotoDataset.example`."""
        settings, rng = self.settings, self.rng(RandomStream.VIEW, k)
        broken: list[tuple[str, str]] = []
        labels, image = self._read_shuffled(*divmod(k, len(self)), broken)
        geometry, color_jitter = settings.draw_geometry(labels.size, rng), settings.draw_color_jitter(rng)
        donor = self._donor(k, geometry.window, rng, broken) if rng.random() < settings.paste_prob else None
        max_masks = max(0, settings.max_masks - (len(donor.masks) if donor else 0))
        keep = choose_masks(geometry.mask_areas(labels.rles), settings.min_area, max_masks, rng)
        sample = apply_view(image, labels, geometry, keep)
        if donor is not None and settings.paste_rule == "released":
            sample = paste_released(sample, donor)
        elif donor is not None:
            sample = paste(sample, donor, settings.min_area)
        view = self.recolour(sample.image, color_jitter, k)
        return _make_example(sample, view, settings, self.seed_of(self.seed_stream, k), labels.name, broken)

    def recolour(self, image: RGB, color_jitter: ColorJitter, k: int) -> RGB:
        """The view of example k with its final colours."""
        return color_jitter.apply(image)

    def collate(self, examples: Sequence[LabelledExample]) -> _PackedBatch:
        """See :meth:`PhotoDataset.collate`."""
        cues = [example.cues for example in examples if example.cues is not None]
        return _PackedBatch(
            images=(images := stack_padded([example.image for example in examples])),
            cues=stack_padded(cues) if cues else None,
            masks=_joined_masks(examples, images.shape[-2], images.shape[-1] // 8),
            parents=torch.from_numpy(np.concatenate([example.parents for example in examples]).astype(np.int64)),
            levels=torch.from_numpy(np.concatenate([example.levels for example in examples]).astype(np.int64)),
            counts=[len(example.masks) for example in examples],
            seeds=[example.seed for example in examples],
            names=[example.name for example in examples],
        )

    def unpack(self, packed: _PackedBatch) -> Batch:
        """The batch of a step."""
        columns = (torch.split(column, packed.counts) for column in (packed.masks, packed.parents, packed.levels))
        targets = []
        for bits, parents, levels in zip(*columns, strict=True):
            masks = np.unpackbits(bits.numpy(), axis=2).view(np.bool_)
            targets.append(Targets(torch.from_numpy(masks), parents.clone(), levels.clone()))
        return Batch(
            images=packed.images.float() / 255,
            cues=packed.cues,
            targets=targets,
            seeds=torch.tensor(packed.seeds, dtype=torch.int64),
            names=packed.names,
        )

    def preview(self, count: int) -> tuple[Batch, list[tuple[int, int]]]:
        """The first ``count`` images, whole and unchanged, and the (height, width) of each within its padding.

        Raises:
            MasktreeError: see :meth:`example`.
        """
        examples, valid_sizes = [], []
        for i in range(min(count, len(self))):
            broken: list[tuple[str, str]] = []
            rng = self.rng(RandomStream.PREVIEW, i)
            labels, image = self._read(i, broken)
            geometry = self.settings.full_image(labels.size)
            areas = geometry.mask_areas(labels.rles)
            keep = choose_masks(areas, self.settings.min_area, self.settings.max_masks, rng)
            sample = apply_view(image, labels, geometry, keep)
            examples.append(_make_example(sample, sample.image, self.settings, i, labels.name, broken))
            valid_sizes.append(geometry.window)
        if not examples:
            raise InputError(f"expected at least one image to preview; got {count}")
        return self.unpack(self.collate(examples)), valid_sizes

    def _donor(
        self, k: int, target: tuple[int, int], rng: np.random.Generator, broken: list[tuple[str, str]]
    ) -> Sample:
        """Objects of a random image of the same epoch in a view of (height, width) ``target``; at most half of the
        example's masks."""
        settings = self.settings
        labels, image = self._read_shuffled(k // len(self), int(rng.integers(len(self))), broken)
        geometry = settings.draw_paste(labels.size, target, rng)
        areas, max_area = geometry.mask_areas(labels.rles), MAX_PASTED_FRACTION * target[0] * target[1]
        if settings.paste_rule == "released":
            return apply_view(image, labels, geometry, choose_released(areas, 1, rng))
        max_masks = max(1, settings.max_masks // 2)
        keep = choose_objects(labels.parents, areas, settings.min_area, max_area, max_masks, rng)
        return apply_view(image, labels, geometry, keep)


@dataclass(frozen=True)
class _PackedBatch:
    """The examples of a step; masks, parents and levels of all images are concatenated, ``counts`` for each image."""

    images: Tensor
    cues: Tensor | None
    masks: Tensor
    parents: Tensor
    levels: Tensor
    counts: list[int]
    seeds: list[int]
    names: list[str]


def _joined_masks(examples: Sequence[LabelledExample], height: int, width: int) -> Tensor:
    """(n, height, width) uint8: the masks of all examples; columns are bytes of eight pixels."""
    return torch.from_numpy(np.concatenate([pad_to(example.masks, height, width) for example in examples]))


def _make_example(
    sample: Sample, image: np.ndarray, settings: Augmentation, seed: int, name: str, broken: Sequence[tuple[str, str]]
) -> LabelledExample:
    """Pad a sample; ``image`` has its final colours."""
    padded, cues = pad(image, settings)
    height, width = padded_size((image.shape[0], image.shape[1]), settings)
    bits = np.packbits(pad_to(sample.masks, height, width), axis=2)
    return LabelledExample(padded, cues, bits, sample.parents, sample.levels, seed, name, tuple(broken))
