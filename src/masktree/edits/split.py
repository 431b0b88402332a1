"""Division of a mask, and of the parts that lie on both sides, along the dendrogram or a drawn line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from masktree.edits import fields
from masktree.edits.state import Change, EditedMask, EditState, LeafRuns, boxes_overlap
from masktree.errors import InputError
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.run_sets import (
    RunSet,
    components,
    intersect,
    line_set,
    nearest_owner,
    shared_area,
    split_columns,
    subtract,
    unite,
)

_MIN_PIECE = 16  # pixels of a piece beside a line: smaller ones are crumbs of its steps (our choice)
_MIN_PART = 0.25  # of a part, from which on what lies on another side is no crumb however small (our choice)
_MIN_SHARE = 0.01  # of a mask, that both sides of a merge have (our choice: merges of crumbs stand above true ones)


def split(state: EditState, edit: dict[str, Any]) -> Change:
    """``split`` a mask by the ``dendrogram`` or a ``line``. Pieces replace it under its parent, with its class and
    score; parts go to the piece that holds them, and are divided too where they lie in several."""
    by = edit.get("by")
    if by not in ("dendrogram", "line"):
        raise InputError("expected a split by dendrogram or line; got another way; choose one of them")
    fields.check_keys(edit, ["id", "by", "line"] if by == "line" else ["id", "by"])
    identity = fields.read_id(edit["id"], state)
    mask = state.masks[identity]
    if by == "line":
        line = line_set(fields.read_points(edit["line"], 2), state.size)
        pieces = pieces_beside(mask.runs, line, state.size)
        granularities = [mask.granularity] * len(pieces)
        remedy = "draw the line across the whole mask"
    else:
        if state.dendrogram is None or state.leaf_runs is None:
            raise InputError("expected a tree with a dendrogram; got masks only; split along a line")
        pieces, granularities = pieces_of_merge(mask, state.dendrogram, state.leaf_runs)
        remedy = "it is one leaf of the dendrogram; split along a line"
    if len(pieces) < 2:
        raise InputError(f"expected mask {identity} to fall into pieces; got one; {remedy}")
    return _replace_by(state, identity, pieces, granularities)


def pieces_beside(runs: RunSet, line: RunSet, size: tuple[int, int]) -> list[RunSet]:
    """The pieces of a mask on the sides of a line, largest first; fewer than two if it is not divided.

    They are the 4-connected components without the line that touch it, or, if fewer than two do, all components.
    Pixels of the line, and components that are no piece, go to the nearest piece.
    """
    height = size[0]
    rest = split_columns(subtract(runs, line), height)
    owners = components(rest, height)
    areas = np.bincount(owners, rest.ends - rest.starts).astype(np.int64)
    chosen = np.flatnonzero(_touches(rest, owners, line, len(areas), size))
    if len(chosen) < 2:
        chosen = np.arange(len(areas))
    chosen = chosen[np.argsort(-areas[chosen], kind="stable")]
    chosen = chosen[: max(2, int((areas[chosen] >= _MIN_PIECE).sum()))]
    if len(chosen) < 2:
        return []
    piece_of = np.full(len(areas), -1, np.int64)
    piece_of[chosen] = np.arange(len(chosen))
    is_kept = piece_of[owners] >= 0
    kept = RunSet(rest.starts[is_kept], rest.ends[is_kept])
    targets = piece_of[owners[is_kept]]
    _assign_components(piece_of, rest, owners, kept, targets, size)
    on_line = split_columns(intersect(runs, line), height)
    pixels = _positions(on_line)
    nearest, _ = nearest_owner(pixels, kept, targets, size)
    pieces = [_joined(rest, piece_of[owners] == piece) for piece in range(len(chosen))]
    return [unite(piece, _joined(RunSet(pixels, pixels + 1), nearest == index)) for index, piece in enumerate(pieces)]


def _touches(rest: RunSet, owners: np.ndarray, line: RunSet, count: int, size: tuple[int, int]) -> np.ndarray:
    """(count,) bool: the components with a pixel beside one of the line."""
    pixels = _positions(line)
    nearest = np.zeros(count, np.bool_)
    for step, is_inside in (
        (-1, pixels % size[0] > 0),
        (1, pixels % size[0] < size[0] - 1),
        (-size[0], pixels >= size[0]),
        (size[0], pixels < (size[1] - 1) * size[0]),
    ):
        beside = pixels[is_inside] + step
        index = np.searchsorted(rest.starts, beside, side="right") - 1
        is_hit = (index >= 0) & (beside < rest.ends[np.maximum(index, 0)]) if len(rest.starts) else index >= 0
        nearest[owners[index[is_hit]]] = True
    return nearest


def _assign_components(
    piece_of: np.ndarray, rest: RunSet, owners: np.ndarray, kept: RunSet, targets: np.ndarray, size: tuple[int, int]
) -> None:
    """Give each component that is no piece, as a whole, to the piece nearest to the ends of its runs."""
    is_other = piece_of[owners] < 0
    if not is_other.any():
        return
    ends = np.concatenate([rest.starts[is_other], rest.ends[is_other] - 1])
    belongs = np.concatenate([owners[is_other]] * 2)
    found, distances = nearest_owner(ends, kept, targets, size)
    order = np.lexsort((distances, belongs))
    first = order[np.concatenate([[True], belongs[order][1:] != belongs[order][:-1]])]
    piece_of[belongs[first]] = found[first]


def _positions(runs: RunSet) -> np.ndarray:
    """All pixels of runs, ascending."""
    lengths = runs.ends - runs.starts
    before = np.cumsum(lengths) - lengths
    return np.repeat(runs.starts - before, lengths) + np.arange(int(lengths.sum()))


def _joined(runs: RunSet, chosen: np.ndarray) -> RunSet:
    """The chosen ones of ascending runs, adjacent ones joined."""
    nothing = np.zeros(0, np.int64)
    return unite(RunSet(runs.starts[chosen], runs.ends[chosen]), RunSet(nothing, nothing))


def pieces_of_merge(mask: EditedMask, tree: PartitionTree, leaf_runs: LeafRuns) -> tuple[list[RunSet], list[float]]:
    """The two sides of the topmost merge that divides a mask, larger first, and their granularities.

    Sides of less than ``_MIN_SHARE`` of the mask count only where no merge has larger ones. If the mask is a node of
    the dendrogram these are thus its children. Fewer than two pieces if the mask lies in one leaf.
    """
    low, high = tree.intervals
    runs, position = _leaf_pieces(mask.runs, leaf_runs, low)
    sums = np.concatenate([[0], np.cumsum(np.bincount(position, runs.ends - runs.starts, tree.n_leaves))])
    inside = (sums[high] - sums[low]).astype(np.int64)
    node = _dividing_node(tree, inside, max(1, round(_MIN_SHARE * mask.area)))
    node = _dividing_node(tree, inside, 1) if node < 0 else node
    if node < 0:
        return [], []
    smaller, larger = sorted(tree.children[node - tree.n_leaves].tolist(), key=lambda child: (inside[child], child))
    piece = _joined(runs, (position >= low[smaller]) & (position < high[smaller]))
    other = subtract(mask.runs, piece)
    granularities = np.minimum(ceil_float32(tree.altitudes[[larger, smaller]]), np.float32(mask.granularity))
    return [other, piece], granularities.tolist()


def _leaf_pieces(runs: RunSet, leaf_runs: LeafRuns, low: np.ndarray) -> tuple[RunSet, np.ndarray]:
    """The runs of a mask cut where the leaf changes, and the position of each one's leaf in depth-first order."""
    first = np.searchsorted(leaf_runs.starts, runs.starts, side="right") - 1
    last = np.searchsorted(leaf_runs.starts, runs.ends, side="left")
    counts = last - first
    before = np.cumsum(counts) - counts
    index = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.maximum(leaf_runs.starts[index], runs.starts[owner]).astype(np.int64)
    ends = np.minimum(leaf_runs.starts[index + 1], runs.ends[owner]).astype(np.int64)
    return RunSet(starts, ends), low[leaf_runs.leaves[index]]


def _dividing_node(tree: PartitionTree, inside: np.ndarray, least: int) -> int:
    """The topmost merge, down the larger side from the root, both sides of which have ``least`` pixels inside; -1 for
    none."""
    node = len(tree.parents) - 1
    while node >= tree.n_leaves:
        first, second = tree.children[node - tree.n_leaves].tolist()
        if min(inside[first], inside[second]) >= least:
            return int(node)
        node = first if inside[first] >= inside[second] else second
    return -1


def _without(runs: RunSet, pieces: Sequence[RunSet], kept: int) -> RunSet:
    """The pixels that lie in no piece but one."""
    for number, piece in enumerate(pieces):
        if number != kept:
            runs = subtract(runs, piece)
    return runs


def _replace_by(state: EditState, identity: int, pieces: Sequence[RunSet], granularities: Sequence[float]) -> Change:
    """Put pieces in the place of a mask, and divide its descendants among them.

    A descendant in one piece keeps its id, and loses what crumbs it has in others; one in several is replaced by new
    masks. What reaches out of all pieces stays with the largest part.
    """
    mask = state.masks[identity]
    new_ids = iter(range(state.next_id, state.next_id + len(pieces) * (len(state.masks) + 1)))
    changed: dict[int, EditedMask | None] = {identity: None}
    piece_ids: dict[int, dict[int, int]] = {identity: {}}  # ids of the part of each mask in each piece
    for number, (runs, granularity) in enumerate(zip(pieces, granularities, strict=True)):
        piece_ids[identity][number] = new = next(new_ids)
        changed[new] = replace(mask, runs=runs, text=None, granularity=granularity, status="none", name=None)
    boxes = [piece.box(state.size[0]) for piece in pieces]
    for below in state.descendants(identity):
        part = state.masks[below]
        near = [boxes_overlap(part.box, box) for box in boxes]
        areas = [shared_area(part.runs, piece) if is_near else 0 for piece, is_near in zip(pieces, near, strict=True)]
        main = areas.index(max(areas))
        least = min(_MIN_PIECE, _MIN_PART * part.area)
        held = [number for number, area in enumerate(areas) if number == main or area > least]
        above = piece_ids[part.parent]
        for number in held:
            if areas[number] == part.area and above.get(number) == part.parent:  # nothing changes
                piece_ids[below] = {number: below}
                continue
            runs = _without(part.runs, pieces, main) if number == main else intersect(part.runs, pieces[number])
            parent = above.get(number, piece_ids[identity][number])
            if len(held) == 1:
                piece_ids[below] = {number: below}
                changed[below] = replace(part, runs=runs, text=None, parent=parent)
            else:
                new = next(new_ids)
                piece_ids.setdefault(below, {})[number] = new
                changed[new] = replace(part, runs=runs, text=None, parent=parent, status="none", name=None)
        if len(held) > 1:
            changed[below] = None
    num_new = next(new_ids) - state.next_id
    for new, piece in list(changed.items()):
        if piece is not None:
            state.raise_granularities(changed, new)
    return Change(changed, num_new=num_new)
