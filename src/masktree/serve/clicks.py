"""Masks for clicks and boxes: a ``Predictor`` for each image that is clicked in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from masktree.errors import InputError
from masktree.serve.cache import BoundedCache
from masktree.serve.documents import Snapshot

if TYPE_CHECKING:
    from masktree.prompt.predictor import Predictor

MAX_POINTS = 100  # of a prompt (our choice)
_MAX_PREDICTORS = 4  # that are kept: each holds arrays of the size of its dendrogram (our choice)


class Clicks:
    """Answers clicks; the predictors of the last images that were clicked in are kept."""

    def __init__(self) -> None:
        self._predictors: BoundedCache[Predictor] = BoundedCache(_MAX_PREDICTORS)

    def warm(self, snapshot: Snapshot) -> None:
        """Make the predictor of an image before its first click."""
        self._predictor(snapshot)

    def answer(
        self,
        snapshot: Snapshot,
        points: list[Any],
        labels: list[Any],
        box: list[Any] | None,
        granularity: float | None,
    ) -> list[dict[str, Any]]:
        """Masks for a prompt, best first, without repetition; arguments as of ``Predictor.predict``.

        Raises:
            InputError: a prompt that makes no sense.
        """
        if len(points) > MAX_POINTS:
            raise InputError(f"expected at most {MAX_POINTS} clicks; got {len(points)}; start a new mask")
        masks, scores, _ = self._predictor(snapshot).predict(
            np.asarray(_numbers(points, 2)) if points else None,
            np.asarray(_numbers([labels], len(points))[0]) if points else None,
            None if box is None else np.asarray(_numbers([box], 4)[0]),
            granularity=granularity,
        )
        answers: list[dict[str, Any]] = []
        for mask, score in zip(masks, scores.tolist(), strict=True):
            answer = _describe(mask, score)
            if answer["area"] and all(answer["rle"] != other["rle"] for other in answers):
                answers.append(answer)
        return answers

    def _predictor(self, snapshot: Snapshot) -> Predictor:
        from masktree.prompt.predictor import Predictor

        dendrogram = snapshot.tree.dendrogram
        # Edits change masks, not the dendrogram: a predictor on masks is made anew for each version.
        key = (snapshot.key[:2], "dendrogram") if dendrogram is not None else snapshot.key
        return self._predictors.get(key, lambda: Predictor(snapshot.tree if dendrogram is None else dendrogram))


def _numbers(rows: list[Any], length: int) -> list[list[float]]:
    """Rows of numbers, checked, as anything may come from outside."""
    for row in rows:
        is_row = isinstance(row, list) and len(row) == length
        if not is_row or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in row):
            raise InputError(f"expected {length} numbers of each click or box; got {str(row)[:60]}")
    return [[float(value) for value in row] for row in rows]


def _describe(mask: np.ndarray, score: float) -> dict[str, Any]:
    """A mask as the interface tells it: run lengths, rings along its pixels' edges, score, area and box."""
    from masktree.trees import rle
    from masktree.trees.polygons import mask_to_polygons

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return {"rle": None, "outline": [], "score": score, "area": 0, "bbox": [0, 0, 0, 0]}
    top, left = int(rows[0]), int(columns[0])
    inside = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    size = (mask.shape[0], mask.shape[1])
    rings = [ring for polygon in mask_to_polygons(inside) for ring in (polygon.exterior, *polygon.holes)]
    return {
        "rle": {"size": list(size), "counts": rle.encode_at(inside, top, left, size).decode("ascii")},
        "outline": [(ring + np.array([left, top])).astype(int).tolist() for ring in rings],
        "score": round(score, 4),
        "area": int(inside.sum()),
        "bbox": [left, top, inside.shape[1], inside.shape[0]],
    }
