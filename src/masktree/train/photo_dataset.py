"""Examples of a run by their number, made of the photographs of a label set.

Example k of a run, k = step * batch + place, follows from the seed and k alone: the same for any number of processes
and workers, and after a run was continued.
"""

from __future__ import annotations

import atexit
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from masktree.errors import ImageError, InputError, MasktreeError
from masktree.io.images import read_image
from masktree.jobs.batch import single_threaded_children
from masktree.train.augmentation import Augmentation
from masktree.train.label_store import ImageLabels, LabelStore
from masktree.types import RGB

_PREFETCH = 2  # batches that a worker makes ahead
_MOST_BROKEN = 100  # photographs in a row: rather the wrong folder than a few damaged files (our choice)

OnBroken = Callable[[str, str], object]
Broken = tuple[tuple[str, str], ...]


class Made(Protocol):
    """An example; ``broken``: names and errors of photographs that it took the place of."""

    @property
    def broken(self) -> Broken: ...


class RandomStream(IntEnum):
    """Streams of random numbers that one seed has."""

    ORDER = 1
    VIEW = 2
    SEED = 3
    PREVIEW = 4
    TAUGHT_ORDER = 5
    TAUGHT_VIEWS = 6
    TAUGHT_SEED = 7


Example = TypeVar("Example", bound=Made)
Item = TypeVar("Item")


class PhotoDataset(Dataset, ABC, Generic[Example, Item]):
    """Examples by their number, and items of whole steps, which are what :meth:`unpack` makes of them.

    Attributes:
        order: the stream that orders the photographs: two kinds of examples of one seed see different ones in a step.
    """

    order: RandomStream

    def __init__(
        self,
        store: LabelStore,
        root: str | Path,
        settings: Augmentation,
        seed: int,
        numbers: np.ndarray,
        *,
        skip_broken: bool = False,
    ) -> None:
        """
        Args:
            store: the labels.
            root: where their photographs are.
            settings: how examples are made.
            seed: not negative; decides all examples.
            numbers: (n,) of the photographs in the store that examples are made of.
            skip_broken: a photograph that cannot be read, or has another size than its labels, is replaced by the next
                of its epoch; otherwise it is an error.

        Raises:
            InputError: a negative seed, no such folder.
        """
        self.store, self.root, self.settings = store, Path(root), settings
        self.seed, self.skip_broken = seed, skip_broken
        if seed < 0:
            raise InputError(f"expected a seed of 0 or more; got {seed}")
        if not self.root.is_dir():
            raise InputError(f"expected the folder of the photographs; got {self.root}; say where they are (--root)")
        self._numbers = numbers

    @abstractmethod
    def example(self, k: int) -> Example:
        """Example k of the run, k >= 0.

        Raises:
            ImageError: a photograph is missing or cannot be read.
            InputError: it has another size than its labels.
            FormatError: the store is damaged.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Any:
        """The examples of a step in few tensors: each one costs a file handle on its way from a worker."""

    @abstractmethod
    def unpack(self, pack: Any) -> Item:
        """The item of a step, of what :meth:`collate` made."""

    def __len__(self) -> int:
        """PhotoDataset of an epoch."""
        return len(self._numbers)

    def __getitem__(self, k: int) -> Example | MasktreeError:
        """Example k of the run, or the error that there is instead: as a value, since torch would bury an exception of
        a worker under its trace."""
        try:
            return self.example(k)
        except MasktreeError as error:
            return error

    def draw(self, stream: RandomStream, k: int) -> np.random.Generator:
        """The random numbers of example k."""
        return np.random.default_rng([self.seed, stream, k])

    def seed_of(self, stream: RandomStream, k: int) -> int:
        """The seed, in [0, 2^63), that example k carries in its batch."""
        return int(np.random.SeedSequence([self.seed, stream, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def loader(
        self,
        first_step: int,
        last_step: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        *,
        on_broken: OnBroken | None = None,
    ) -> Generator[Item, None, None]:
        """Items of steps ``first_step`` to ``last_step`` - 1, as one of ``world`` processes sees them.

        Of a step's ``batch`` examples process ``rank`` gets the ``batch / world`` that begin at ``rank`` times as many.
        Workers are started anew (spawn: a script needs its ``if __name__ == "__main__"``), use one thread each, and end
        with the iterator: close it, or leave it to be collected. Memory of each: while it makes an example, twice or,
        with pasted objects, four times ``max_masks * crop ** 2`` bytes; and two steps, masks as bits.

        Args:
            workers: processes that make examples; 0 makes them here.
            on_broken: is called, once each, with the name and the error of every photograph that was skipped.

        Raises:
            InputError: numbers out of range, or a batch that ``world`` does not divide.
            MasktreeError: from the iterator; see :meth:`example`.
        """
        if not 0 <= first_step <= last_step or not 0 <= rank < world or workers < 0:
            raise InputError(
                f"expected 0 <= first step <= last step, 0 <= rank < world, workers >= 0; "
                f"got steps {first_step}, {last_step}, rank {rank} of {world}, {workers} workers"
            )
        if batch < 1 or batch % world:
            raise InputError(f"expected a batch that {world} processes can share alike; got {batch}")
        steps = _Steps(first_step, last_step, batch, rank * (batch // world), batch // world)
        return self._batches(steps, workers, on_broken or _ignore)

    def _batches(self, steps: _Steps, workers: int, on_broken: OnBroken) -> Generator[Item, None, None]:
        loader = DataLoader(
            self,
            batch_sampler=steps,
            num_workers=workers,
            collate_fn=self._collate,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_begin_worker if workers else None,
            prefetch_factor=_PREFETCH if workers else None,
            generator=torch.Generator(),  # its own: the loader would draw from the run's
        )
        reported: set[str] = set()
        with single_threaded_children():
            packs = iter(loader)
        try:
            for pack in packs:
                if isinstance(pack, MasktreeError):
                    raise pack
                broken, joined = pack
                for name, error in broken:
                    if name not in reported:
                        reported.add(name)
                        on_broken(name, error)
                yield self.unpack(joined)
        finally:
            del packs  # and its workers with it, though the trace of an error may still hold this frame

    def _collate(self, examples: Sequence[Example | MasktreeError]) -> tuple[Broken, Any] | MasktreeError:
        """PhotoDataset that were skipped and the joined examples, or the first error."""
        good = []
        for example in examples:
            if isinstance(example, MasktreeError):
                return example
            good.append(example)
        return tuple(pair for example in good for pair in example.broken), self.collate(good)

    def _photo(self, epoch: int, place: int, broken: list[tuple[str, str]]) -> tuple[ImageLabels, np.ndarray]:
        """The photograph at that place of an epoch's order."""
        return self._read(place, broken, _order(self.seed, self.order, epoch, len(self)))

    def _read(
        self, place: int, broken: list[tuple[str, str]], order: np.ndarray | None = None
    ) -> tuple[ImageLabels, np.ndarray]:
        """The photograph at that place of an order, or the next one that can be read; ``broken`` gets the others."""
        for attempt in range(min(len(self), _MOST_BROKEN)):
            at = (place + attempt) % len(self)
            record = self.store[int(self._numbers[at if order is None else order[at]])]
            try:
                return record, self._pixels(record)
            except (ImageError, InputError) as error:
                if not self.skip_broken:
                    raise
                broken.append((record.name, str(error)))
        raise ImageError(
            f"expected photographs that can be read; got {len(broken)} broken ones in a row, the first: {broken[0][1]}"
        )

    def _pixels(self, record: ImageLabels) -> np.ndarray:
        path = self.root / record.name
        try:
            image = read_image(path)
        except ImageError as error:
            raise ImageError(f"{path}: {error}; restore it, or say where the photographs are (--root)") from error
        if image.shape[:2] != record.size:
            raise InputError(
                f"{path}: expected the {record.size[0]} x {record.size[1]} pixels (height x width) that were labelled; "
                f"got {image.shape[0]} x {image.shape[1]}; say where those photographs are (--root), or label anew"
            )
        return image


def pad(image: RGB, settings: Augmentation) -> tuple[np.ndarray, np.ndarray | None]:
    """A view of at most crop x crop pixels as (3, crop, crop) uint8, with 0 below and on the right, and its cues as in
    ``Batch``, without the padding's edge, if ``settings`` wants them."""
    crop, (H, W) = settings.crop, image.shape[:2]
    padded, cues = np.zeros((3, crop, crop), np.uint8), None
    padded[:, :H, :W] = image.transpose(2, 0, 1)
    if settings.cues:
        from masktree.backbones.texture import NUM_CUES, boundary_cues

        cues = np.zeros((NUM_CUES, crop // 2, crop // 2), np.float32)
        cues[:, : -(-H // 2), : -(-W // 2)] = boundary_cues(np.ascontiguousarray(image)).maps
    return padded, cues


def pad_masks(masks: np.ndarray, crop: int) -> np.ndarray:
    """(n, crop, crop) bool: the masks of a view as ``pad`` places it."""
    n, H, W = masks.shape
    if H == W == crop:
        return masks
    padded = np.zeros((n, crop, crop), np.bool_)
    padded[:, :H, :W] = masks
    return padded


@dataclass(frozen=True)
class _Steps:
    """The examples of each step that are a process's own: ``own`` from place ``start`` of ``batch``."""

    first: int
    last: int
    batch_size: int
    start: int
    own: int

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            begin = step * self.batch_size + self.start
            yield list(range(begin, begin + self.own))


@lru_cache(maxsize=4)
def _order(seed: int, stream: RandomStream, epoch: int, count: int) -> np.ndarray:
    """(count,) the order of an epoch; kept, since it takes as long as an example when there are a million."""
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def _ignore(name: str, error: str) -> None:
    pass


def _begin_worker(worker: int) -> None:
    """An interrupt at the terminal reaches every process of it; when to stop is for the one that trains to decide.

    The process ends without Python's shutdown: torch's thread that sends batches may free a tensor in the midst of it,
    which aborts the process, now and then, and the loader takes that for an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(os._exit, 0)
