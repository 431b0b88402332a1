"""Trees that are open, with their edits: what the page reads of them, and the one place where edits are applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from masktree.errors import InputError
from masktree.serve.answers import RefusalError
from masktree.serve.cache import BoundedCache
from masktree.serve.folder import Entry, Folder, signature

if TYPE_CHECKING:
    from masktree.edits import EditedTree
    from masktree.trees.masktree import MaskTree

T = TypeVar("T")

_CACHE_BYTES = 2**29  # of open trees: eight of 12 megapixels with their dendrograms (our choice)
_MAX_EDIT_THREADS = 8  # they wait for the disk most of the time (our choice)


@dataclass(frozen=True)
class Snapshot:
    """A tree with its edits at one version; nothing of it changes.

    Attributes:
        key: the image and this opening of it, so that what is computed of it can be kept.
        version: number of edits.
        tree: the present masks, rejected ones too.
        ids, areas, boxes, status, names, classes: of each mask; None for no name or class.
        class_names: the user's list.
        can_undo, can_redo: whether there is anything to undo and to redo.
    """

    key: tuple[Any, ...]
    version: int
    tree: MaskTree
    ids: list[int]
    areas: list[int]
    boxes: list[list[int]]
    status: tuple[str, ...]
    names: tuple[str | None, ...]
    classes: tuple[str | None, ...]
    class_names: tuple[str, ...]
    can_undo: bool
    can_redo: bool

    def record(self) -> dict[str, Any]:
        """As the interface tells it."""
        return {**self.head, "masks": self.masks}

    @property
    def head(self) -> dict[str, Any]:
        """All but the masks."""
        return {
            "version": self.version,
            "size": list(self.tree.size),
            "classes": list(self.class_names),
            "undo": self.can_undo,
            "redo": self.can_redo,
            "regions": self.tree.dendrogram is not None,
        }

    @cached_property
    def masks(self) -> list[dict[str, Any]]:
        """The masks, as the interface tells them."""
        from masktree.trees.masktree import LEVELS

        tree, ids = self.tree, self.ids
        parents = [None if parent < 0 else ids[parent] for parent in tree.parents.tolist()]
        columns = {
            "id": ids,
            "parent": parents,
            "score": [round(score, 4) for score in tree.scores.tolist()],
            "granularity": [round(value, 5) for value in tree.granularities.tolist()],
            "stability": [round(value, 4) for value in tree.stabilities.tolist()],
            "level": [LEVELS[level] for level in tree.levels.tolist()],
            "area": self.areas,
            "bbox": self.boxes,
            "status": self.status,
            "class": self.classes,
            "name": self.names,
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Applied:
    """An edit that was made: the tree before and after it, and the XYWH box of the pixels that it has changed."""

    before: Snapshot
    after: Snapshot
    box: tuple[int, int, int, int] | None

    def record(self) -> dict[str, Any]:
        """What has changed, as the interface tells it: new and changed masks, and the ids of those that are gone."""
        known = dict(zip(self.before.ids, self.before.masks, strict=True))
        masks = [mask for mask in self.after.masks if known.get(mask["id"]) != mask]
        return {**self.after.head, "masks": masks, "removed": sorted(known.keys() - self.after.ids)}


@dataclass
class _Opened:
    """An open tree, the number of its opening, the state of its files after its last edit, and its last snapshot."""

    number: int
    document: EditedTree
    state: tuple[Any, ...]
    snapshot: Snapshot | None = None


class Documents:
    """The open trees of a folder; the least recently used are closed. Edits of one image are applied one after the
    other, each on disk before it is acknowledged."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._open: BoundedCache[_Opened] = BoundedCache(_CACHE_BYTES, _size_of)
        self._numbers = count()
        self._locks: dict[str, asyncio.Lock] = {}
        self._threads = CapacityLimiter(_MAX_EDIT_THREADS)

    async def read(self, entry: Entry) -> Snapshot:
        """The tree as it is now.

        Raises:
            RefusalError: there is none.
            MasktreeError: it is damaged, or its edits belong to another tree.
        """
        return await self._with_document(entry, lambda opened: _snapshot(entry, opened))

    async def apply(self, entry: Entry, version: int, edit: dict[str, Any]) -> Applied:
        """Apply an edit to a version of the tree; when this returns, the edit is on disk.

        Raises:
            RefusalError: another version is the present one.
            InputError: an edit that cannot be applied; everything stays as it was.
        """

        def work(opened: _Opened) -> Applied:
            document, before = opened.document, _snapshot(entry, opened)
            if version != document.version:
                raise RefusalError(
                    409,
                    f"expected an edit of version {document.version}; got one of {version}; load the tree again",
                    version=document.version,
                )
            box = document.apply(edit)
            opened.state = _state(entry)
            return Applied(before, _snapshot(entry, opened), box)

        return await self._with_document(entry, work)

    async def call(self, entry: Entry, function: Callable[[EditedTree], T]) -> T:
        """What a function that changes nothing returns of the open tree, in a thread."""
        return await self._with_document(entry, lambda opened: function(opened.document))

    def alone(self, entry: Entry) -> asyncio.Lock:
        """Held by whoever may not be disturbed by edits of an image, and by every edit."""
        return self._locks.setdefault(entry.id, asyncio.Lock())

    async def _with_document(self, entry: Entry, work: Callable[[_Opened], T]) -> T:
        """What ``work`` returns, in a thread, alone with the tree of an image."""
        async with self.alone(entry):
            # Neither may be abandoned when a client goes away: the edit may be half written.
            return await anyio.to_thread.run_sync(lambda: work(self._document(entry)), limiter=self._threads)

    def _document(self, entry: Entry) -> _Opened:
        from masktree.edits import EditedTree

        path = self._folder.tree(entry)

        def open_tree() -> _Opened:
            header = self._folder.header(entry) or {}
            if header.get("dendrogram") is not None:
                raise InputError(
                    f"expected an image of at most 150 megapixels; got {entry.label}, which was segmented in tiles; "
                    f"look at its picture {entry.name}.png, or use masktree.TiledTree"
                )
            state = _state(entry)
            return _Opened(next(self._numbers), EditedTree.open(path), state)

        opened = self._open.get(entry.id, open_tree)
        if opened.state == _state(entry):
            return opened
        self._open.remove(entry.id)  # it was segmented again, or another program has edited it
        return self._open.get(entry.id, open_tree)


def _state(entry: Entry) -> tuple[Any, ...]:
    return signature(entry.tree), signature(entry.log)


def _snapshot(entry: Entry, opened: _Opened) -> Snapshot:
    document = opened.document
    if opened.snapshot is not None and opened.snapshot.version == document.version:
        return opened.snapshot
    opened.snapshot = Snapshot(
        key=(entry.id, opened.number, document.version),
        version=document.version,
        tree=document.tree,
        ids=document.ids.tolist(),
        areas=document.areas.tolist(),
        boxes=document.boxes.tolist(),
        status=document.status,
        names=document.names,
        classes=document.classes,
        class_names=document.class_names,
        can_undo=document.can_undo,
        can_redo=document.can_redo,
    )
    return opened.snapshot


def _size_of(opened: _Opened) -> int:
    """Bytes of an open tree, about: its leaf map, and its run lengths four times (text, runs and caches)."""
    tree = opened.document.tree
    pixels = 0 if tree.dendrogram is None else tree.size[0] * tree.size[1]
    return 4 * pixels + 4 * sum(map(len, tree.rles)) + 1000 * len(tree)
