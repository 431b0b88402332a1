"""``EditedTree``: a tree file with the corrections that were made to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from masktree.arguments import check_path, check_type
from masktree.edits.log import EditLog, encode
from masktree.edits.operations import OPERATIONS, operation_of
from masktree.edits.state import Change, EditedMask, EditState, changed_box
from masktree.errors import InputError
from masktree.trees.file import read_tree_and_classes
from masktree.trees.masktree import MaskTree


@dataclass(frozen=True)
class _Step:
    """A change that was made, forth and back."""

    forth: Change
    back: Change


class EditedTree:
    """A tree of masks with a log of edits, which can be undone without limit.

    The machine's masks have the ids 0 to n - 1, their indices in its tree; a new mask gets the next number that none
    has had. Ids never change, and a removed mask that comes back by ``undo`` has its id again.

    >>> edited = EditedTree.open("out/photo.json")  # doctest: +SKIP
    >>> edited.apply({"op": "merge", "ids": [3, 7]})  # doctest: +SKIP
    """

    def __init__(self, tree: MaskTree, classes: tuple[str, ...] | None, log: EditLog) -> None:
        """See :meth:`open`."""
        self._machine = tree
        self._log = log
        self._state = EditState.of_tree(tree, classes)
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self._version = 0
        self._ids: list[int] | None = list(range(len(tree)))
        self._tree: MaskTree | None = tree

    @classmethod
    def open(cls, tree_file: str | Path) -> EditedTree:
        """The tree of a file with the edits beside it, in ``NAME.edits.jsonl`` for ``NAME.json``; none is fine.

        Combinations of nodes are left out: what is edited is the hierarchy. A last line that a killed process has left
        half written is dropped with a warning.

        Raises:
            FormatError: a damaged tree.
            FileNotFoundError: no tree there.
            InputError: damaged edits, or those of another tree.
        """
        check_path(tree_file)
        path = Path(tree_file)
        log = EditLog(path)
        read, classes = read_tree_and_classes(path)
        tree = read.nodes
        if classes is not None:
            classes = tuple(name for name, kind in zip(classes, read.kinds, strict=True) if kind == 0)
        edited = cls(tree, classes, log)
        for number, edit in enumerate(log.edits, start=2):
            try:
                edited._make(edit, edited._evaluate(edit))
            except InputError as error:
                raise InputError(f"{log.path}, line {number}: {error}; correct the file or move it away") from error
        return edited

    def apply(self, edit: dict[str, Any]) -> tuple[int, int, int, int] | None:
        """Make an edit, and write it to the log. One that changes nothing is not written.

        Args:
            edit: ``op`` and the values of the operation, see the guide "Correct masks".

        Returns:
            (x, y, width, height) of a box outside of which every pixel has the masks that it had, in the same order of
            size; None if that is so everywhere.

        Raises:
            InputError: not a proper edit, or it cannot be written; the tree and its log stay as they were.
        """
        check_type(edit, dict, "an edit")
        edit = json.loads(encode(edit))  # as it will be read again
        step = self._evaluate(edit)
        if step is None:
            return None
        self._log.append(edit)
        before = self._state.masks.copy()
        self._make(edit, step)
        return changed_box(before, self._state.masks, self._machine.size[0])

    # --- what there is ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Of the file of edits, which the first edit makes."""
        return self._log.path

    @property
    def version(self) -> int:
        """Number of edits in the log, ``undo`` and ``redo`` included."""
        return self._version

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64: of the present masks, ascending."""
        return np.array(self._order, np.int64)

    @property
    def tree(self) -> MaskTree:
        """The N present masks, rejected ones included, in the order of ``ids``."""
        if self._tree is None:
            self._tree = self._state.to_tree(self._machine, self._order)
        return self._tree

    @property
    def machine_tree(self) -> MaskTree:
        """The tree without any edit."""
        return self._machine

    @property
    def areas(self) -> np.ndarray:
        """(N,) int64 areas in pixels; quicker than ``tree.areas``."""
        return np.array([mask.area for mask in self._masks], np.int64)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) int64 XYWH boxes in pixels; quicker than ``tree.boxes``."""
        return np.array([mask.box for mask in self._masks], np.int64).reshape(-1, 4)

    @property
    def status(self) -> tuple[str, ...]:
        """``accepted``, ``rejected`` or ``none`` of each mask."""
        return tuple(mask.status for mask in self._masks)

    @property
    def names(self) -> tuple[str | None, ...]:
        """The name of each mask, None for most."""
        return tuple(mask.name for mask in self._masks)

    @property
    def classes(self) -> tuple[str | None, ...]:
        """The class of each mask, one of ``class_names``, or None."""
        return tuple(mask.class_name for mask in self._masks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The user's list of classes; at first those of the tree file, in the order of their first masks."""
        return self._state.class_names

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether an edit was taken back, and none was made since."""
        return bool(self._undone)

    def result(self) -> tuple[MaskTree, tuple[str | None, ...], tuple[str | None, ...]]:
        """The tree that the edits come to, without rejected masks, with the class and the name of each mask. Children
        of rejected masks have the nearest ancestor that is not.

        If masks have changed it has no dendrogram, which does not know of that: its cuts are those of the masks.
        """
        keep = self.kept
        kept = np.flatnonzero(keep).tolist()
        tree = self.tree if keep.all() else self.tree[keep]
        if tree.rles != self._machine.rles:
            tree = replace(tree, dendrogram=None)
        return tree, tuple(self.classes[i] for i in kept), tuple(self.names[i] for i in kept)

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: the masks that are not rejected, those of ``result``."""
        return np.array([status != "rejected" for status in self.status], np.bool_)

    # --- how it changes --------------------------------------------------------------------------------------------

    @property
    def _order(self) -> list[int]:
        if self._ids is None:
            self._ids = self._state.ids
        return self._ids

    @property
    def _masks(self) -> list[EditedMask]:
        return [self._state.masks[identity] for identity in self._order]

    def _evaluate(self, edit: Any) -> _Step | None:
        """The step of an edit, None if it changes nothing; raises InputError."""
        name = operation_of(edit)
        if name in ("undo", "redo"):
            steps = self._done if name == "undo" else self._undone
            if set(edit) != {"op"}:
                raise InputError(f"expected {name} with nothing else; got more keys; leave them out")
            if not steps:
                raise InputError(f"expected an edit to {name}; got none; there is nothing left to {name}")
            return steps[-1]
        return self._step_of(OPERATIONS[name](self._state, edit))

    def _step_of(self, change: Change) -> _Step | None:
        before = self._state.masks
        masks = {
            identity: mask
            for identity, mask in change.masks.items()
            if not (mask.is_same(before.get(identity)) if mask is not None else identity not in before)
        }
        class_names = None if change.class_names == self._state.class_names else change.class_names
        if not masks and class_names is None:
            return None
        back = Change(
            {identity: before.get(identity) for identity in masks},
            None if class_names is None else self._state.class_names,
        )
        return _Step(Change(masks, class_names, change.num_new), back)

    def _make(self, edit: dict[str, Any], step: _Step | None) -> None:
        self._version += 1
        if step is None:
            return
        change = step.back if edit["op"] == "undo" else step.forth
        if edit["op"] == "undo":
            self._undone.append(self._done.pop())
        elif edit["op"] == "redo":
            self._done.append(self._undone.pop())
        else:
            self._state.next_id += change.num_new
            self._done.append(step)
            self._undone.clear()
        self._put(change)

    def _put(self, change: Change) -> None:
        before = self._state.masks
        if any(mask is None or not mask.is_same_node(before.get(identity)) for identity, mask in change.masks.items()):
            self._ids = self._tree = None
        for identity, mask in change.masks.items():
            if mask is None:
                del self._state.masks[identity]
            else:
                self._state.masks[identity] = mask
        if change.class_names is not None:
            self._state.class_names = change.class_names
