"""What edits change: the present masks of an image by id, and the user's classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.trees.rle import label_runs, runs
from masktree.trees.run_sets import RunSet, subtract

Status = Literal["none", "accepted", "rejected"]

_NODE = ("parent", "score", "granularity", "stability", "level")  # what a ``MaskTree`` says of a mask beside its pixels
_LABELS = ("status", "name", "class_name")


@dataclass(frozen=True, eq=False)
class EditedMask:
    """A mask; edits replace it by another one.

    Attributes:
        runs: its pixels.
        size: (height, width) of the image.
        parent: id of the parent mask, -1 for roots.
        score, granularity, stability: as of ``MaskTree``.
        level: 0 to 2 where the tree has levels of its own; -1 where they follow from the depth.
        status: what the user has decided.
        name: given by the user, or None.
        class_name: one of the user's classes, or None.
        text: run-length string of the pixels, or None where it was not made yet.
    """

    runs: RunSet
    size: tuple[int, int]
    parent: int
    score: float
    granularity: float
    stability: float
    level: int = -1
    status: Status = "none"
    name: str | None = None
    class_name: str | None = None
    text: bytes | None = None

    @cached_property
    def rle(self) -> bytes:
        """Run-length string of the pixels."""
        return self.runs.encode(self.size) if self.text is None else self.text

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return self.runs.area

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height)."""
        return self.runs.box(self.size[0])

    def with_runs(self, runs: RunSet) -> EditedMask:
        """The same mask with other pixels."""
        return replace(self, runs=runs, text=None)

    def is_same(self, other: EditedMask | None) -> bool:
        """Whether nothing tells the two masks apart."""
        return self.is_same_node(other) and all(getattr(self, key) == getattr(other, key) for key in _LABELS)

    def is_same_node(self, other: EditedMask | None) -> bool:
        """Whether they are the same but for what the user says of them: status, name and class."""
        if other is None or any(getattr(self, key) != getattr(other, key) for key in _NODE):
            return False
        if self.runs is other.runs:
            return True
        return np.array_equal(self.runs.starts, other.runs.starts) and np.array_equal(self.runs.ends, other.runs.ends)


class LeafRuns(NamedTuple):
    """The leaves of a dendrogram as runs of the image, see :func:`masktree.trees.rle.label_runs`."""

    starts: np.ndarray
    leaves: np.ndarray


@dataclass(frozen=True)
class Change:
    """What an edit does.

    Attributes:
        masks: the new state of masks by id; None for one that is removed.
        class_names: the new list of classes, or None if it stays.
        num_new: number of ids that were given out.
    """

    masks: Mapping[int, EditedMask | None] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    num_new: int = 0


@dataclass
class EditState:
    """The masks and classes of an image after some edits.

    Attributes:
        size: (height, width).
        masks: by id.
        class_names: the user's list.
        next_id: that no mask has had yet.
        dendrogram: of the machine's tree, or None.
    """

    size: tuple[int, int]
    masks: dict[int, EditedMask]
    class_names: tuple[str, ...]
    next_id: int
    dendrogram: PartitionTree | None

    @classmethod
    def of_tree(cls, tree: MaskTree, classes: Sequence[str | None] | None) -> EditState:
        """The masks of a tree, whose ids are their indices; classes in the order of their first mask."""
        every = runs(tree.rles, tree.size)
        by_depth = bool(np.array_equal(tree.levels, np.minimum(tree.depths, 2)))
        names = [name or None for name in classes] if classes is not None else [None] * len(tree)
        offsets = every.offsets.tolist()
        columns = zip(
            *(getattr(tree, key).tolist() for key in ("parents", "scores", "granularities", "stabilities", "levels")),
            strict=True,
        )
        masks = {
            index: EditedMask(
                runs=RunSet(every.starts[first:last], every.ends[first:last]),
                size=tree.size,
                parent=parent,
                score=score,
                granularity=granularity,
                stability=stability,
                level=-1 if by_depth else level,
                class_name=names[index],
                text=tree.rles[index],
            )
            for index, ((parent, score, granularity, stability, level), first, last) in enumerate(
                zip(columns, offsets[:-1], offsets[1:], strict=True)
            )
        }
        used = tuple(dict.fromkeys(name for name in names if name))
        return cls(tree.size, masks, used, len(tree), tree.dendrogram)

    @cached_property
    def leaf_runs(self) -> LeafRuns | None:
        """The leaves of the dendrogram as runs; made once, at the first edit that needs them."""
        return None if self.dendrogram is None else LeafRuns(*label_runs(self.dendrogram.leaves))

    @property
    def ids(self) -> list[int]:
        """Of the present masks, ascending."""
        return sorted(self.masks)

    def ancestors(self, identity: int) -> list[int]:
        """Ids of the parent, its parent and so on."""
        found = []
        parent = self.masks[identity].parent
        while parent >= 0:
            found.append(parent)
            parent = self.masks[parent].parent
        return found

    def children(self) -> dict[int, list[int]]:
        """Ids of the children by id of the parent, ascending; those of -1 are the roots."""
        found: dict[int, list[int]] = {}
        for identity in self.ids:
            found.setdefault(self.masks[identity].parent, []).append(identity)
        return found

    def descendants(self, identity: int) -> list[int]:
        """Ids of all masks below a mask, parents before their children."""
        children = self.children()
        found = list(children.get(identity, []))
        for below in found:  # grows while it is walked
            found += children.get(below, [])
        return found

    def raise_granularities(self, changed: dict[int, EditedMask | None], identity: int) -> None:
        """In ``changed``, raise the granularities of the ancestors of a mask to at least its own."""
        mask = changed.get(identity) or self.masks[identity]
        parent = mask.parent
        while parent >= 0:
            above = changed.get(parent) or self.masks[parent]
            if above.granularity >= mask.granularity:
                return
            changed[parent] = replace(above, granularity=mask.granularity)
            parent = above.parent

    def area_granularity(self, area: int) -> float:
        """Granularity of a mask that is in no dendrogram, as of ``MaskTree.from_rles``: sqrt(area / image area)."""
        share = np.array(np.sqrt(area / (self.size[0] * self.size[1])))
        return float(ceil_float32(share))

    def to_tree(self, machine: MaskTree, ids: Iterable[int]) -> MaskTree:
        """The masks with these ids, which hold the parent of each, as a tree; the rest is that of the machine's."""
        order = list(ids)
        index_of = {identity: index for index, identity in enumerate(order)} | {-1: -1}
        masks = [self.masks[identity] for identity in order]
        parents = np.array([index_of[mask.parent] for mask in masks], np.int32)
        tree = MaskTree(
            size=self.size,
            rles=tuple(mask.rle for mask in masks),
            parents=parents,
            scores=np.array([mask.score for mask in masks], np.float32),
            granularities=np.array([mask.granularity for mask in masks], np.float32),
            stabilities=np.array([mask.stability for mask in masks], np.float32),
            levels=np.zeros(len(masks), np.int8),
            dendrogram=self.dendrogram,
            omitted=machine.omitted,
        )
        own = np.array([mask.level for mask in masks], np.int8)
        return replace(tree, levels=np.where(own >= 0, own, np.minimum(tree.depths, 2)).astype(np.int8))


def boxes_overlap(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two XYWH boxes share a pixel."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def changed_box(
    before: Mapping[int, EditedMask], after: Mapping[int, EditedMask], height: int
) -> tuple[int, int, int, int] | None:
    """XYWH box outside of which every pixel has the same masks in two states, in the same order of size.

    That order changes also where a mask that has grown or shrunk overlaps another one of a size between.

    Args:
        before, after: all masks by id.
        height: of the image.

    Returns:
        None if the masks have the same pixels.
    """
    empty = RunSet(np.zeros(0, np.int64), np.zeros(0, np.int64))
    boxes: list[tuple[int, int, int, int]] = []
    for identity in before.keys() | after.keys():
        old, new = before.get(identity), after.get(identity)
        a, b = (empty if mask is None else mask.runs for mask in (old, new))
        if a is b:
            continue
        boxes += [pixels.box(height) for pixels in (subtract(a, b), subtract(b, a)) if len(pixels.starts)]
        if old is not None and new is not None:
            least, most = sorted((old.area, new.area))
            for state, mask in ((before, old), (after, new)):
                others = (other for key, other in state.items() if key != identity and least <= other.area <= most)
                boxes += [_shared_box(mask.box, other.box) for other in others]
    boxes = [box for box in boxes if min(box[2:]) > 0]
    if not boxes:
        return None
    corners = np.array(boxes)
    corners[:, 2:] += corners[:, :2]
    left, top = corners[:, :2].min(0).tolist()
    right, bottom = corners[:, 2:].max(0).tolist()
    return left, top, right - left, bottom - top


def _shared_box(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Where two boxes overlap; width or height are not positive if they do not."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    return left, top, min(a[0] + a[2], b[0] + b[2]) - left, min(a[1] + a[3], b[1] + b[3]) - top
