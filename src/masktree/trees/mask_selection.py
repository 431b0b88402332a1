"""Which masks of a tree go to another program: by level, granularity, score and area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.arguments import check_number
from masktree.errors import InputError
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.trees.scores import check_limits


def check_selection(
    levels: Sequence[str], granularity_range: tuple[float, float], min_area: float, min_score: float
) -> None:
    """Raise InputError unless there are levels, all known, and the other values are in their ranges."""
    wrong = [level for level in levels if level not in LEVELS]
    if wrong or not levels or isinstance(levels, str):
        raise InputError(f"expected levels of {', '.join(LEVELS)}; got {wrong[0] if wrong else levels or 'none'}")
    for value in granularity_range:
        check_number(value, "a granularity", 0, 1)
    if granularity_range[0] > granularity_range[1]:
        raise InputError(f"expected a range from low to high; got {granularity_range}; exchange the numbers")
    check_number(min_score, "min_score", 0, 1)
    check_number(min_area, "min_area", 0, float("inf"))


def select_masks(
    tree: MaskTree,
    *,
    levels: Sequence[str] = LEVELS,
    granularity_range: tuple[float, float] = (0.0, 1.0),
    min_area: float = 0,
    min_score: float = 0.0,
    max_masks: int | None = None,
) -> np.ndarray:
    """Boolean array (N,) of the masks of certain levels, granularities, areas and scores; empty masks are left out.

    Args:
        tree: N masks.
        levels: of whole, part and subpart.
        granularity_range: lowest and highest granularity, in [0, 1].
        min_area: smallest area in pixels, at least 0.
        min_score: lowest score, in [0, 1].
        max_masks: of those, as many as this of highest score; None for all.

    Raises:
        InputError: no level or an unknown one, or a value out of range.
    """
    check_selection(levels, granularity_range, min_area, min_score)
    check_limits(min_score, max_masks)
    low, high = granularity_range
    keep: np.ndarray = (tree.areas >= max(min_area, 1)) & (tree.scores >= min_score)
    keep &= (tree.granularities >= low) & (tree.granularities <= high)
    keep &= np.isin(tree.levels, [LEVELS.index(level) for level in levels])
    if max_masks is not None:
        chosen = np.flatnonzero(keep)
        keep[chosen[np.argsort(-tree.scores[chosen], kind="stable")[max_masks:]]] = False
    return keep
