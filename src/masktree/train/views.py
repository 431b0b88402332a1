"""Two views of a photograph: a mild one for the teacher, a strong one for the student."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from masktree.segmenter.batch import Batch
from masktree.train.augment import Augmentation
from masktree.train.photographs import OnBroken
from masktree.train.geometry import Geometry
from masktree.train.store import LabelStore


@dataclass(frozen=True)
class Views:
    """b photographs seen twice.

    ``weak``, ``strong``: batches of the teacher's and the student's view, in one order, with the same seeds and names
    and without targets. ``contents``: height and width of each weak view within its padding. ``weak_geometries``,
    ``strong_geometries``: where their pixels come from; ``size`` of each is that of the photograph.
    """

    weak: Batch
    strong: Batch
    contents: Sequence[tuple[int, int]]
    weak_geometries: Sequence[Geometry]
    strong_geometries: Sequence[Geometry]


class TwoViews:
    def __init__(
        self, store: LabelStore, root: str | Path, settings: Augmentation, seed: int, *, skip_broken: bool = False
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Photographs of an epoch."""
        raise NotImplementedError

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
    ) -> Generator[Views, None, None]:
        raise NotImplementedError
