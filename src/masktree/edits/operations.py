"""The operations by name. Each is a function ``(state, edit)`` that checks the edit and returns what it changes, or
raises InputError; ``undo`` and ``redo``, which need the history, are those of ``EditedTree``."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

from masktree.edits import labels, shape, split, structure
from masktree.edits.state import Change, EditState
from masktree.errors import InputError

OPERATIONS: dict[str, Callable[[EditState, dict[str, Any]], Change]] = {
    "accept": labels.set_status,
    "reject": labels.set_status,
    "reset": labels.set_status,
    "rename": labels.rename,
    "class": labels.set_class,
    "classes": labels.set_classes,
    "delete": structure.delete,
    "merge": structure.merge,
    "create": structure.create,
    "split": split.split,
    "add": shape.add,
    "erase": shape.erase,
}


def operation_of(edit: Any) -> str:
    """The name of the operation, ``undo`` and ``redo`` included.

    Raises:
        InputError: not an object with a known ``op``.
    """
    name = edit.get("op") if isinstance(edit, dict) else None
    if not isinstance(name, str) or name not in (*OPERATIONS, "undo", "redo"):
        raise InputError(f"expected an edit with op of {', '.join(OPERATIONS)}, undo, redo; got {_short(edit)}")
    return name


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # a whole number of too many digits
        return "another value"
