"""Training examples by index, made from the images of a label set.

Example k = step * batch_size + position depends on the seed and k alone: it is the same for any number of processes and
workers, and after a run was resumed.
"""

from __future__ import annotations

import atexit
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.errors import ImageError, InputError, MasktreeError
from masktree.io.images import decode_image
from masktree.io.packs import local_photo
from masktree.jobs.batch import single_threaded_children
from masktree.models.pyramid.base import SIZE_DIVISOR
from masktree.train.augmentation import Augmentation
from masktree.train.label_store import ImageLabels, LabelStore
from masktree.types import RGB

_PREFETCH_FACTOR = 2  # batches that each worker prepares in advance
_MAX_BROKEN = 100  # in a row; more mean a wrong folder, not a few damaged files (our choice)

OnBroken = Callable[[str, str], object]
Broken = tuple[tuple[str, str], ...]


class AnyExample(Protocol):
    """An example; ``broken``: names and errors of the unreadable images that it replaces."""

    @property
    def broken(self) -> Broken: ...


class RandomStream(IntEnum):
    """Independent random streams of one seed; the values decide which numbers are drawn."""

    ORDER = 1
    VIEW = 2
    SEED = 3
    PREVIEW = 4
    TEACHER_ORDER = 5
    TEACHER_VIEWS = 6
    TEACHER_SEED = 7
    STRONG_VIEW = 8
    STRONG_SEED = 9
    HELD_OUT = 10


Example = TypeVar("Example", bound=AnyExample)
Item = TypeVar("Item")


class PhotoDataset(Dataset[Example | MasktreeError], ABC, Generic[Example, Item]):
    """Examples by index, and the items of whole steps that :meth:`unpack` makes from them.

    Attributes:
        order_stream: random stream of the order of images; labelled examples and teacher views have different ones.
    """

    order_stream: RandomStream

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
        """
        Args:
            store: the labels.
            root: folder of the images.
            settings: of the augmentation.
            seed: 0 or more; decides all examples.
            indices: (n,) indices in the store of the images to use; None takes those of :meth:`usable_images`.
            skip_broken: replace an image that cannot be read, or whose size differs from its labels', by the next one
                of the epoch; otherwise it is an error.

        Raises:
            InputError: a negative seed, or no such folder.
        """
        self.store, self.root, self.settings = store, Path(root), settings
        self.seed, self.skip_broken = seed, skip_broken
        if seed < 0:
            raise InputError(f"expected a seed of 0 or more; got {seed}")
        if not self.root.is_dir():
            raise InputError(f"expected the folder of the images; got {self.root}; give it with --root")
        self._indices = self.usable_images() if indices is None else indices

    def usable_images(self) -> np.ndarray:
        """(n,) indices in the store of the images that examples can be made of: all."""
        return np.arange(len(self.store))

    @abstractmethod
    def example(self, k: int) -> Example:
        """Example k of the run, k >= 0.

        Raises:
            ImageError: an image is missing or cannot be read.
            InputError: its size differs from its labels'.
            FormatError: the store is damaged.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Any:
        """Pack the examples of a step into few tensors: each costs a file handle on its way from a worker."""

    @abstractmethod
    def unpack(self, packed: Any) -> Item:
        """The item of a step from what :meth:`collate` returned."""

    def __len__(self) -> int:
        """Number of images, and of examples in an epoch."""
        return len(self._indices)

    def __getitem__(self, k: int) -> Example | MasktreeError:
        """Example k, or the error instead: torch would bury an exception of a worker in its traceback."""
        try:
            return self.example(k)
        except MasktreeError as error:
            return error

    def rng(self, stream: RandomStream, k: int) -> np.random.Generator:
        """Random generator of example k."""
        return np.random.default_rng([self.seed, stream, k])

    def seed_of(self, stream: RandomStream, k: int) -> int:
        """Seed in [0, 2^63) that example k carries in its batch."""
        return int(np.random.SeedSequence([self.seed, stream, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def loader(
        self,
        first_step: int,
        last_step: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        *,
        on_broken: OnBroken | None = None,
    ) -> Generator[Item, None, None]:
        """Items of steps ``first_step`` to ``last_step`` - 1 for one of ``world_size`` processes.

        Process ``rank`` gets examples ``rank * share`` to ``(rank + 1) * share - 1`` of each step, where ``share`` is
        ``batch_size / world_size``. Workers are spawned (a script needs ``if __name__ == "__main__"``), use one thread
        each, and end with the iterator. A worker holds up to four times ``max_masks * crop_size ** 2`` bytes while it
        makes an example with pasted objects, and two packed steps.

        Args:
            workers: data-loading processes; 0 loads in this process.
            on_broken: called once with name and error of every image that was skipped.

        Raises:
            InputError: numbers out of range, or a batch size not divisible by ``world_size``.
            MasktreeError: from the iterator; see :meth:`example`.
        """
        if not 0 <= first_step <= last_step or not 0 <= rank < world_size or workers < 0:
            raise InputError(
                f"expected 0 <= first step <= last step, 0 <= rank < world size, workers >= 0; "
                f"got steps {first_step}, {last_step}, rank {rank} of {world_size}, {workers} workers"
            )
        if batch_size < 1 or batch_size % world_size:
            raise InputError(f"expected a batch size divisible by {world_size} processes; got {batch_size}")
        share = batch_size // world_size
        starts = range(first_step * batch_size + rank * share, last_step * batch_size, batch_size)
        return self._items(_BatchSampler(starts, share), workers, on_broken)

    def _items(self, steps: _BatchSampler, workers: int, on_broken: OnBroken | None) -> Generator[Item, None, None]:
        loader = DataLoader(
            self,
            batch_sampler=steps,
            num_workers=workers,
            collate_fn=self._collate,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_init_worker if workers else None,
            prefetch_factor=_PREFETCH_FACTOR if workers else None,
            generator=torch.Generator(),  # the default one is the run's
        )
        reported: set[str] = set()
        with single_threaded_children():
            iterator = iter(loader)
        try:
            for packed in iterator:
                if isinstance(packed, MasktreeError):
                    raise packed
                broken, collated = packed
                for name, error in broken:
                    if name not in reported and on_broken is not None:
                        reported.add(name)
                        on_broken(name, error)
                yield self.unpack(collated)
        finally:
            del iterator  # and its workers with it, though a traceback may still reference this frame

    def _collate(self, examples: Sequence[Example | MasktreeError]) -> tuple[Broken, Any] | MasktreeError:
        """Skipped images and the packed examples, or the first error."""
        good: list[Example] = []
        for example in examples:
            if isinstance(example, MasktreeError):
                return example
            good.append(example)
        return tuple(pair for example in good for pair in example.broken), self.collate(good)

    def _read_shuffled(self, epoch: int, position: int, broken: list[tuple[str, str]]) -> tuple[ImageLabels, RGB]:
        """Labels and pixels of the image at a position of an epoch; see ``_read``."""
        return self._read(position, broken, _epoch_order(self.seed, self.order_stream, epoch, len(self)))

    def _read(
        self, position: int, broken: list[tuple[str, str]], order: np.ndarray | None = None
    ) -> tuple[ImageLabels, RGB]:
        """Labels and pixels of the image at a position of ``order``, or of the next readable one; the others are
        appended to ``broken``."""
        for attempt in range(min(len(self), _MAX_BROKEN)):
            index = (position + attempt) % len(self)
            labels = self.store[int(self._indices[index if order is None else order[index]])]
            try:
                return labels, read_labelled_image(self.store, self.root, labels)
            except (ImageError, InputError) as error:
                if not self.skip_broken:
                    raise
                broken.append((labels.name, str(error)))
        raise ImageError(f"expected readable images; got {len(broken)} broken ones in a row, the first: {broken[0][1]}")


def read_labelled_image(store: LabelStore, root: Path, labels: ImageLabels) -> RGB:
    """Pixels of an image of the store, (H, W, 3) uint8, read as when it was labelled.

    Raises:
        ImageError: it is missing or cannot be read.
        InputError: its size differs from its labels'.
    """
    path = root / labels.name
    try:
        with local_photo(path) as file:
            image = decode_image(file, store.read_options).rgb  # as when it was labelled
    except ImageError as error:
        raise ImageError(f"{path}: {error}; restore it, or give the folder of the images with --root") from error
    if image.shape[:2] != labels.size:
        raise InputError(
            f"{path}: expected the {labels.size[0]} x {labels.size[1]} pixels (height x width) that were labelled; "
            f"got {image.shape[0]} x {image.shape[1]}; give the folder of those images with --root, or label again"
        )
    return image


def padded_size(size: tuple[int, int], settings: Augmentation) -> tuple[int, int]:
    """(height, width) that a view of ``size`` is padded to before its batch is known, both multiples of 32."""
    if settings.padding == "crop":
        return settings.crop_size, settings.crop_size
    return -(-size[0] // SIZE_DIVISOR) * SIZE_DIVISOR, -(-size[1] // SIZE_DIVISOR) * SIZE_DIVISOR


def pad_to(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The array (..., h, w), padded with 0 behind its last row and column."""
    if array.shape[-2:] == (height, width):
        return array
    padded = np.zeros((*array.shape[:-2], height, width), array.dtype)
    padded[..., : array.shape[-2], : array.shape[-1]] = array
    return padded


def stack_padded(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Arrays (..., h, w) of several sizes as one tensor of the largest height and width."""
    height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
    return torch.from_numpy(np.stack([pad_to(array, height, width) for array in arrays]))


def pad(image: RGB, settings: Augmentation) -> tuple[np.ndarray, np.ndarray | None]:
    """Pad a view on the right and below with 0.

    Returns:
        The (3, H, W) uint8 image of ``padded_size``, and its boundary cues as in ``Batch`` if ``settings`` asks for
        them; the edge of the padding is no boundary.
    """
    height, width = image.shape[:2]
    H, W = padded_size((height, width), settings)
    padded, cues = np.zeros((3, H, W), np.uint8), None
    padded[:, :height, :width] = image.transpose(2, 0, 1)
    if settings.cues:
        cues = np.zeros((NUM_CUES, H // 2, W // 2), np.float32)
        cues[:, : -(-height // 2), : -(-width // 2)] = boundary_cues(np.ascontiguousarray(image)).maps
    return padded, cues


class _BatchSampler:
    """Indices of this process's examples in each step: ``share`` of them from each of ``starts``, made as they are
    needed: a list of a hundred thousand steps would be sent to every worker."""

    def __init__(self, starts: range, share: int) -> None:
        self._starts, self._share = starts, share

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, start + self._share)) for start in self._starts)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, stream: RandomStream, epoch: int, count: int) -> np.ndarray:
    """(count,) permutation of an epoch; cached: for a million images it takes as long as an example."""
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def _init_worker(worker: int) -> None:
    """Ignore interrupts, which the training process handles, and end without Python's shutdown.

    During shutdown torch's thread that sends batches may free a tensor, which aborts the process now and then and looks
    like an error to the loader.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(os._exit, 0)
