"""The examples of a run: a label set and its photographs become batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masktree.errors import InputError
from masktree.models.structures import Batch, Targets
from masktree.train.augmentation import (
    LARGEST_PASTED,
    Augmentation,
    Sample,
    apply_view,
    choose_masks,
    choose_objects,
    paste,
)
from masktree.train.label_store import LabelStore
from masktree.train.photo_dataset import Broken, PhotoDataset, RandomStream, pad, pad_masks


@dataclass(frozen=True)
class Example:
    """One image as it travels from a worker: ``image`` (3, crop, crop) uint8, ``cues`` as in ``Batch``, ``masks``
    (n, crop * crop / 8) uint8, a bit a pixel (in bytes, 200 masks at 1024 pixels would fill what memory many machines
    let processes share); ``broken``: names and errors of photographs that it took the place of."""

    image: np.ndarray
    cues: np.ndarray | None
    masks: np.ndarray
    parents: np.ndarray
    levels: np.ndarray
    seed: int
    name: str
    broken: Broken = ()


class LabelledDataset(PhotoDataset[Example, Batch]):
    """Batches with the labels of the photographs. Images without any mask are left out: what clustering has not found
    in them is not absent, and detection libraries leave them out too.
    """

    order = RandomStream.ORDER

    def __init__(
        self, store: LabelStore, root: str | Path, settings: Augmentation, seed: int, *, skip_broken: bool = False
    ) -> None:
        """As :class:`PhotoDataset`, of those with masks."""
        super().__init__(store, root, settings, seed, store.filled(), skip_broken=skip_broken)

    def example(self, k: int) -> Example:
        """See :meth:`PhotoDataset.example`."""
        settings, rng = self.settings, self.draw(RandomStream.VIEW, k)
        broken: list[tuple[str, str]] = []
        record, image = self._photo(*divmod(k, len(self)), broken)
        geometry, light = settings.draw_geometry(record.size, rng), settings.draw_color_jitter(rng)
        donor = self._donor(k, geometry.window, rng, broken) if rng.random() < settings.paste else None
        most = settings.max_masks - (len(donor.masks) if donor else 0)
        keep = choose_masks(geometry.mask_areas(record.rles), settings.min_area, most, rng)
        scene = apply_view(image, record, geometry, keep)
        if donor is not None:
            scene = paste(scene, donor, settings.min_area)
        return _pack(scene, light.apply(scene.image), settings, self.seed_of(RandomStream.SEED, k), record.name, broken)

    def collate(self, examples: Sequence[Example]) -> _Pack:
        """See :meth:`PhotoDataset.collate`."""
        return _join(examples)

    def unpack(self, pack: _Pack) -> Batch:
        """The batch of a step."""
        return _unpack(pack, self.settings.crop)

    def preview(self, count: int) -> tuple[Batch, list[tuple[int, int]]]:
        """The first ``count`` photographs with masks, whole, as they are; and the height and width of each within its
        padding. For pictures of what a model does.

        Raises:
            MasktreeError: see :meth:`example`.
        """
        examples, contents = [], []
        for i in range(min(count, len(self))):
            broken: list[tuple[str, str]] = []
            rng = self.draw(RandomStream.PREVIEW, i)
            record, image = self._read(i, broken)
            geometry = self.settings.whole(record.size)
            areas = geometry.mask_areas(record.rles)
            keep = choose_masks(areas, self.settings.min_area, self.settings.max_masks, rng)
            scene = apply_view(image, record, geometry, keep)
            examples.append(_pack(scene, scene.image, self.settings, i, record.name, broken))
            contents.append(geometry.window)
        if not examples:
            raise InputError(f"expected at least one photograph to show; got {count}")
        return self.unpack(self.collate(examples)), contents

    def _donor(self, k: int, onto: tuple[int, int], rng: np.random.Generator, broken: list[tuple[str, str]]) -> Sample:
        """Objects of a random photograph of the same epoch, laid over a scene of (height, width) ``onto``; they take
        at most half of the example's masks."""
        settings = self.settings
        record, image = self._photo(k // len(self), int(rng.integers(len(self))), broken)
        geometry = settings.draw_paste(record.size, onto, rng)
        areas, largest = geometry.mask_areas(record.rles), LARGEST_PASTED * onto[0] * onto[1]
        most = max(1, settings.max_masks // 2)
        keep = choose_objects(record.parents, areas, settings.min_area, largest, most, rng)
        return apply_view(image, record, geometry, keep)


@dataclass(frozen=True)
class _Pack:
    """The examples of a step in few tensors: each one costs a file handle on its way from a worker."""

    images: Tensor
    cues: Tensor | None
    masks: Tensor
    parents: Tensor
    levels: Tensor
    counts: list[int]
    seeds: list[int]
    names: list[str]


def _pack(
    scene: Sample, image: np.ndarray, settings: Augmentation, seed: int, name: str, broken: Sequence[tuple[str, str]]
) -> Example:
    """``image``: of the scene, in its final colours. Padding is added below and on the right."""
    padded, cues = pad(image, settings)
    masks = pad_masks(scene.masks, settings.crop)
    bits = np.packbits(masks.reshape(len(masks), settings.crop**2), axis=1)
    return Example(padded, cues, bits, scene.parents, scene.levels, seed, name, tuple(broken))


def _join(good: Sequence[Example]) -> _Pack:
    cues = [example.cues for example in good if example.cues is not None]
    return _Pack(
        images=torch.from_numpy(np.stack([example.image for example in good])),
        cues=torch.from_numpy(np.stack(cues)) if cues else None,
        masks=torch.from_numpy(np.concatenate([example.masks for example in good])),
        parents=torch.from_numpy(np.concatenate([example.parents for example in good]).astype(np.int64)),
        levels=torch.from_numpy(np.concatenate([example.levels for example in good]).astype(np.int64)),
        counts=[len(example.masks) for example in good],
        seeds=[example.seed for example in good],
        names=[example.name for example in good],
    )


def _unpack(pack: _Pack, crop: int) -> Batch:
    targets = []
    for bits, parents, levels in zip(
        pack.masks.split(pack.counts), pack.parents.split(pack.counts), pack.levels.split(pack.counts), strict=True
    ):
        masks = np.unpackbits(bits.numpy(), axis=1).reshape(-1, crop, crop).view(np.bool_)
        targets.append(Targets(torch.from_numpy(masks), parents.clone(), levels.clone()))
    return Batch(
        images=pack.images.float() / 255,
        cues=pack.cues,
        targets=targets,
        seeds=torch.tensor(pack.seeds, dtype=torch.int64),
        names=pack.names,
    )
