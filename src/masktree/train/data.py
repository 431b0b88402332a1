"""The examples of a run: a label set and its photographs become batches.

Example k of a run, k = step * batch + place, follows from the seed and k alone: the same for any number of processes
and workers, and after a run was continued.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from masktree.batch import single_threads
from masktree.errors import ImageError, InputError, MasktreeError
from masktree.images import read_image
from masktree.segmenter.batch import Batch, Targets
from masktree.train.augment import LARGEST_PASTED, Augmentation, Scene, choose_masks, choose_objects, paste, see
from masktree.train.store import LabelStore, Record

_ORDER, _VIEW, _SEED, _PREVIEW = 1, 2, 3, 4  # streams of random numbers of one seed
_PREFETCH = 2  # batches that a worker makes ahead
_MOST_BROKEN = 100  # photographs in a row: rather the wrong folder than a few damaged files (our choice)

OnBroken = Callable[[str, str], object]


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
    broken: tuple[tuple[str, str], ...] = ()


class TrainingData(Dataset):
    """Examples by their number in the run. Images without any mask are left out: what clustering has not found in
    them is not absent, and detection libraries leave them out too.
    """

    def __init__(
        self, store: LabelStore, root: str | Path, settings: Augmentation, seed: int, *, skip_broken: bool = False
    ) -> None:
        """
        Args:
            store: the labels.
            root: where their photographs are.
            settings: how examples are made.
            seed: not negative; decides all examples.
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
        self._numbers = store.filled()

    def __len__(self) -> int:
        """Photographs of an epoch."""
        return len(self._numbers)

    def __getitem__(self, k: int) -> Example | MasktreeError:
        """Example k of the run, or the error that there is instead: as a value, since torch would bury an exception of
        a worker under its trace."""
        try:
            return self.example(k)
        except MasktreeError as error:
            return error

    def example(self, k: int) -> Example:
        """Example k of the run, k >= 0.

        Raises:
            ImageError: a photograph is missing or cannot be read.
            InputError: it has another size than its labels.
            FormatError: the store is damaged.
        """
        settings, rng = self.settings, np.random.default_rng([self.seed, _VIEW, k])
        broken: list[tuple[str, str]] = []
        record, image = self._photo(*divmod(k, len(self)), broken)
        geometry, light = settings.draw_geometry(record.size, rng), settings.draw_light(rng)
        donor = self._donor(k, geometry.window, rng, broken) if rng.random() < settings.paste else None
        most = settings.max_masks - (len(donor.masks) if donor else 0)
        keep = choose_masks(geometry.mask_areas(record.rles), settings.min_area, most, rng)
        scene = see(image, record, geometry, keep)
        if donor is not None:
            scene = paste(scene, donor, settings.min_area)
        seed = int(np.random.SeedSequence([self.seed, _SEED, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return _pack(scene, light.apply(scene.image), settings, seed, record.name, broken)

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
    ) -> Generator[Batch, None, None]:
        """Batches of steps ``first_step`` to ``last_step`` - 1, as one of ``world`` processes sees them.

        Of a step's ``batch`` examples process ``rank`` gets the ``batch / world`` that begin at ``rank`` times as many.
        Workers are started anew (spawn: a script needs its ``if __name__ == "__main__"``), use one thread each, and end
        with the iterator: close it, or leave it to be collected. Memory of each: while it makes an example, twice or,
        with pasted objects, four times ``max_masks * crop ** 2`` bytes; and two batches, masks as bits.

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

    def preview(self, count: int) -> tuple[Batch, list[tuple[int, int]]]:
        """The first ``count`` photographs with masks, whole, as they are; and the height and width of each within its
        padding. For pictures of what a model does.

        Raises:
            MasktreeError: see :meth:`example`.
        """
        examples, contents = [], []
        for i in range(min(count, len(self))):
            broken: list[tuple[str, str]] = []
            rng = np.random.default_rng([self.seed, _PREVIEW, i])
            record, image = self._read(i, broken)
            geometry = self.settings.whole(record.size)
            areas = geometry.mask_areas(record.rles)
            keep = choose_masks(areas, self.settings.min_area, self.settings.max_masks, rng)
            scene = see(image, record, geometry, keep)
            examples.append(_pack(scene, scene.image, self.settings, i, record.name, broken))
            contents.append(geometry.window)
        if not examples:
            raise InputError(f"expected at least one photograph to show; got {count}")
        return _unpack(_join(examples), self.settings.crop), contents

    def _batches(self, steps: _Steps, workers: int, on_broken: OnBroken) -> Generator[Batch, None, None]:
        loader = DataLoader(
            self,
            batch_sampler=steps,
            num_workers=workers,
            collate_fn=_collate,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_begin_worker if workers else None,
            prefetch_factor=_PREFETCH if workers else None,
            generator=torch.Generator(),  # its own: the loader would draw from the run's
        )
        reported: set[str] = set()
        with single_threads():
            packs = iter(loader)
        try:
            for pack in packs:
                if isinstance(pack, MasktreeError):
                    raise pack
                for name, error in pack.broken:
                    if name not in reported:
                        reported.add(name)
                        on_broken(name, error)
                yield _unpack(pack, self.settings.crop)
        finally:
            del packs  # and its workers with it, though the trace of an error may still hold this frame

    def _photo(self, epoch: int, place: int, broken: list[tuple[str, str]]) -> tuple[Record, np.ndarray]:
        """The photograph at that place of an epoch's order."""
        return self._read(place, broken, _order(self.seed, epoch, len(self)))

    def _read(
        self, place: int, broken: list[tuple[str, str]], order: np.ndarray | None = None
    ) -> tuple[Record, np.ndarray]:
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

    def _pixels(self, record: Record) -> np.ndarray:
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

    def _donor(self, k: int, onto: tuple[int, int], rng: np.random.Generator, broken: list[tuple[str, str]]) -> Scene:
        """Objects of a random photograph of the same epoch, laid over a scene of (height, width) ``onto``; they take
        at most half of the example's masks."""
        settings = self.settings
        record, image = self._photo(k // len(self), int(rng.integers(len(self))), broken)
        geometry = settings.draw_paste(record.size, onto, rng)
        areas, largest = geometry.mask_areas(record.rles), LARGEST_PASTED * onto[0] * onto[1]
        most = max(1, settings.max_masks // 2)
        keep = choose_objects(record.parents, areas, settings.min_area, largest, most, rng)
        return see(image, record, geometry, keep)


@dataclass(frozen=True)
class _Steps:
    """The examples of each step that are a process's own: ``own`` from place ``start`` of ``batch``."""

    first: int
    last: int
    batch: int
    start: int
    own: int

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            begin = step * self.batch + self.start
            yield list(range(begin, begin + self.own))


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
    broken: list[tuple[str, str]]


def _pack(
    scene: Scene, image: np.ndarray, settings: Augmentation, seed: int, name: str, broken: Sequence[tuple[str, str]]
) -> Example:
    """``image``: of the scene, in its final colours. Padding is added below and on the right."""
    crop, (H, W) = settings.crop, image.shape[:2]
    padded, masks, cues = np.zeros((3, crop, crop), np.uint8), scene.masks, None
    padded[:, :H, :W] = image.transpose(2, 0, 1)
    if min(H, W) < crop:
        masks = np.zeros((len(scene.masks), crop, crop), np.bool_)
        masks[:, :H, :W] = scene.masks
    if settings.cues:
        from masktree.backbones.texture import CUES, evidence

        cues = np.zeros((CUES, crop // 2, crop // 2), np.float32)
        cues[:, : -(-H // 2), : -(-W // 2)] = evidence(np.ascontiguousarray(image)).cues
    bits = np.packbits(masks.reshape(len(masks), crop * crop), axis=1)
    return Example(padded, cues, bits, scene.parents, scene.levels, seed, name, tuple(broken))


def _collate(examples: Sequence[Example | MasktreeError]) -> _Pack | MasktreeError:
    """All examples, or the first error."""
    good = []
    for example in examples:
        if isinstance(example, MasktreeError):
            return example
        good.append(example)
    return _join(good)


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
        broken=[pair for example in good for pair in example.broken],
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


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count,) the order of an epoch; kept, since it takes as long as an example when there are a million."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


def _ignore(name: str, error: str) -> None:
    pass


def _begin_worker(worker: int) -> None:
    """An interrupt at the terminal reaches every process of it; when to stop is for the one that trains to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
