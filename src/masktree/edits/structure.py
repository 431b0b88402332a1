"""Edits that make, join and remove masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from masktree.edits import fields
from masktree.edits.state import Change, EditedMask, EditState, boxes_overlap
from masktree.trees.run_sets import RunSet, shared_area, unite

_COVERAGE = 0.9  # of a mask by its parent, as in masktree.trees.hierarchy.parents_by_coverage
_T = TypeVar("_T")


def delete(state: EditState, edit: dict[str, Any]) -> Change:
    """``delete`` masks; their children move up to the nearest ancestor that stays."""
    fields.check_keys(edit, ["ids"])
    return Change(removal(state, fields.read_ids(edit["ids"], state)))


def removal(state: EditState, ids: Iterable[int]) -> dict[int, EditedMask | None]:
    """What removing masks changes: they go, and their children move up."""
    removed = set(ids)
    changed: dict[int, EditedMask | None] = dict.fromkeys(removed)
    for identity, mask in state.masks.items():
        if identity not in removed and mask.parent in removed:
            parent = next((above for above in state.ancestors(identity) if above not in removed), -1)
            changed[identity] = replace(mask, parent=parent)
    return changed


def merge(state: EditState, edit: dict[str, Any]) -> Change:
    """``merge`` masks to one new mask, their union, under their lowest common ancestor outside of them.

    Children of the merged become its children. It has their highest score, granularity and stability, and the class and
    name that they agree on.
    """
    fields.check_keys(edit, ["ids"])
    ids = fields.read_ids(edit["ids"], state, least=2)
    masks = [state.masks[identity] for identity in ids]
    runs = masks[0].runs
    for mask in masks[1:]:
        runs = unite(runs, mask.runs)
    changed = removal(state, ids)
    for identity in changed:
        if state.masks[identity].parent in ids and identity not in ids:
            changed[identity] = replace(state.masks[identity], parent=state.next_id)
    changed[state.next_id] = EditedMask(
        runs=runs,
        size=state.size,
        parent=_common_ancestor(state, ids),
        score=max(mask.score for mask in masks),
        granularity=max(mask.granularity for mask in masks),
        stability=max(mask.stability for mask in masks),
        level=min(mask.level for mask in masks),
        name=_agreed([mask.name for mask in masks]),
        class_name=_agreed([mask.class_name for mask in masks]),
    )
    state.raise_granularities(changed, state.next_id)
    return Change(changed, num_new=1)


def create(state: EditState, edit: dict[str, Any]) -> Change:
    """``create`` a mask of run lengths or a polygon, of score 1 unless given.

    Its parent is the smallest mask that covers it, masks that it covers become its children, by the rule of
    :func:`masktree.trees.hierarchy.parents_by_coverage`. Its granularity is sqrt(area / image area), at least that of
    its children and at most that of its parent.
    """
    shape = "rle" if "rle" in edit else "polygon"
    fields.check_keys(edit, [shape], ["score"])
    read = fields.read_rle if shape == "rle" else fields.read_polygon
    runs = read(edit[shape], state.size)
    parent, children = _place(state, runs)
    granularity = state.area_granularity(runs.area)
    if parent >= 0:
        granularity = min(granularity, state.masks[parent].granularity)
    new = EditedMask(
        runs=runs,
        size=state.size,
        parent=parent,
        score=fields.read_score(edit.get("score", 1.0)),
        granularity=max([granularity, *(state.masks[child].granularity for child in children)]),
        stability=1.0,
    )
    changed: dict[int, EditedMask | None] = {state.next_id: new}
    for child in children:
        changed[child] = replace(state.masks[child], parent=state.next_id)
    state.raise_granularities(changed, state.next_id)
    return Change(changed, num_new=1)


def _place(state: EditState, runs: RunSet) -> tuple[int, list[int]]:
    """Parent (-1 for none) and children of a new mask with these pixels."""
    area, box = runs.area, runs.box(state.size[0])
    parent, covered = -1, []
    for identity in state.ids:
        mask = state.masks[identity]
        if not boxes_overlap(box, mask.box):
            continue
        shared = shared_area(runs, mask.runs)
        if shared / area >= _COVERAGE > shared / mask.area:
            if parent < 0 or mask.area < state.masks[parent].area:
                parent = identity
        elif shared / mask.area >= _COVERAGE > shared / area:
            covered.append(identity)
    above = {parent, *(state.ancestors(parent) if parent >= 0 else [])}
    # A covered mask keeps a parent that is smaller than the new one.
    children = []
    for identity in covered:
        old = state.masks[identity].parent
        if identity not in above and (old < 0 or state.masks[old].area > area):
            children.append(identity)
    return parent, children


def _common_ancestor(state: EditState, ids: Sequence[int]) -> int:
    """The lowest mask above all of ``ids`` that is none of them, -1 for none."""
    chains = [[above for above in state.ancestors(identity) if above not in ids] for identity in ids]
    common = set(chains[0]).intersection(*chains[1:])
    return next((above for above in chains[0] if above in common), -1)


def _agreed(values: Sequence[_T | None]) -> _T | None:
    """The one value that all have, or that is the only one beside None."""
    found = {value for value in values if value is not None}
    return found.pop() if len(found) == 1 else None
