"""Edits of the pixels of a mask by a lasso."""

from __future__ import annotations

from typing import Any

from masktree.edits import fields
from masktree.edits.state import Change, EditedMask, EditState
from masktree.edits.structure import removal
from masktree.errors import InputError
from masktree.trees.run_sets import shared_area, subtract, unite


def add(state: EditState, edit: dict[str, Any]) -> Change:
    """``add`` the pixels of a polygon to a mask and to its ancestors, so that they still hold it."""
    fields.check_keys(edit, ["id", "polygon"])
    identity = fields.read_id(edit["id"], state)
    pixels = fields.read_polygon(edit["polygon"], state.size)
    if shared_area(state.masks[identity].runs, pixels) == pixels.area:
        raise InputError(
            f"expected a polygon with pixels outside of mask {identity}; got none; draw it over its border"
        )
    changed: dict[int, EditedMask | None] = {}
    for grown in [identity, *state.ancestors(identity)]:
        mask = state.masks[grown]
        changed[grown] = mask.with_runs(unite(mask.runs, pixels))
    return Change(changed)


def erase(state: EditState, edit: dict[str, Any]) -> Change:
    """``erase`` the pixels of a polygon from a mask and from its descendants; one that has none left is removed."""
    fields.check_keys(edit, ["id", "polygon"])
    identity = fields.read_id(edit["id"], state)
    pixels = fields.read_polygon(edit["polygon"], state.size)
    if shared_area(state.masks[identity].runs, pixels) == 0:
        raise InputError(f"expected a polygon with pixels of mask {identity}; got none; draw it over the mask")
    smaller: dict[int, EditedMask] = {}
    for below in [identity, *state.descendants(identity)]:
        mask = state.masks[below]
        if shared_area(mask.runs, pixels):
            smaller[below] = mask.with_runs(subtract(mask.runs, pixels))
    changed = removal(state, [below for below, mask in smaller.items() if len(mask.runs.starts) == 0])
    for below, mask in smaller.items():
        kept = changed.get(below, mask)
        if kept is not None:  # its parent may be another now
            changed[below] = kept.with_runs(mask.runs)
    return Change(changed)
