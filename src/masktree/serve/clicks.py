"""Masks for clicks and boxes: what answers prompts is kept for each image that is clicked in.

``Predictor`` renders its masks and makes low-resolution logits of them, which takes 100 ms for 16 megapixels. On a
dendrogram the regions that it would choose are encoded from the runs of the leaves instead.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from masktree.errors import InputError
from masktree.serve.cache import BoundedCache
from masktree.serve.documents import Snapshot

if TYPE_CHECKING:
    from masktree.prompt.prompt import Prompt
    from masktree.trees.dendrogram import PartitionTree
    from masktree.trees.masktree import MaskTree
    from masktree.trees.run_sets import RunSet

MAX_POINTS = 100  # of a prompt (our choice)
NUM_MASKS = 3  # for an ambiguous prompt, as of ``Predictor``
_CLOSE_SECONDS = 10  # compiling takes 4 (our choice)
_MAX_IMAGES = 4  # that are kept: each holds arrays of the size of its dendrogram (our choice)


class _Answerer(Protocol):
    """Answers prompts on one image."""

    def answer(self, prompt: Prompt, num_masks: int) -> list[tuple[RunSet, float]]:
        """The pixels and scores of masks, best first."""
        ...


class Clicks:
    """Answers clicks; what is needed for the last images that were clicked in is kept."""

    def __init__(self) -> None:
        self._images: BoundedCache[_Answerer] = BoundedCache(_MAX_IMAGES)
        self._preparing = threading.Thread()

    def answer(
        self,
        snapshot: Snapshot,
        points: list[Any],
        labels: list[Any],
        box: list[Any] | None,
        granularity: float | None,
    ) -> list[dict[str, Any]]:
        """Masks for a prompt, best first; arguments as of ``Predictor.predict``.

        Raises:
            InputError: a prompt that makes no sense.
        """
        from masktree.prompt.prompt import Prompt

        if len(points) > MAX_POINTS:
            raise InputError(f"expected at most {MAX_POINTS} clicks; got {len(points)}; start a new mask")
        prompt = Prompt.read(
            snapshot.tree.size,
            _numbers(points, 2) if points else None,
            _numbers([labels], len(points))[0] if points else None,
            None if box is None else _numbers([box], 4)[0],
            granularity=granularity,
        )
        answers = self._answerer(snapshot).answer(prompt, NUM_MASKS if granularity is None else 1)
        found = [_describe(runs, score, snapshot.tree.size) for runs, score in answers]
        return list({record["rle"]["counts"]: record for record in reversed(found)}.values())[::-1]

    def prepare(self, snapshot: Snapshot) -> None:
        """Make a click in the middle of an image, in a thread, so that the first one of the user does not wait for what
        is made once: kernels that are loaded, runs of the leaves."""
        if len(snapshot.tree) == 0 or self._preparing.is_alive():
            return
        height, width = snapshot.tree.size
        middle = [[width // 2, height // 2]]
        self._preparing = threading.Thread(target=self.answer, args=(snapshot, middle, [1], None, None), daemon=True)
        self._preparing.start()

    def close(self) -> None:
        """Wait for what is being prepared: a process must not end while it compiles."""
        if self._preparing.is_alive():
            self._preparing.join(timeout=_CLOSE_SECONDS)

    def _answerer(self, snapshot: Snapshot) -> _Answerer:
        dendrogram = snapshot.tree.dendrogram
        if dendrogram is None:  # edits change the masks, so this is made anew for each version
            return self._images.get(snapshot.key, lambda: _OnMasks(snapshot.tree))
        return self._images.get((snapshot.key[:2], "dendrogram"), lambda: _OnDendrogram(dendrogram))


class _OnDendrogram:
    """Prompts on a dendrogram."""

    def __init__(self, dendrogram: PartitionTree) -> None:
        from masktree.prompt.dendrogram_prompter import DendrogramPrompter

        self._prompter = DendrogramPrompter(dendrogram)
        _ = self._leaf_runs

    def answer(self, prompt: Prompt, num_masks: int) -> list[tuple[RunSet, float]]:
        """See ``_Answerer``."""
        from masktree.trees import rle

        tree = self._prompter.tree
        labels, regions = self._prompter.regions(prompt, num_masks)
        starts, values = self._leaf_runs if labels is tree.leaves else rle.label_runs(labels)
        return [
            (_chosen(starts, region[values]), score)
            for region, score in zip(regions.membership, regions.scores.tolist(), strict=True)
        ]

    @cached_property
    def _leaf_runs(self) -> tuple[np.ndarray, np.ndarray]:
        from masktree.trees import rle

        return rle.label_runs(self._prompter.tree.leaves)


class _OnMasks:
    """Prompts on masks without a dendrogram."""

    def __init__(self, tree: MaskTree) -> None:
        from masktree.prompt.tree_prompter import TreePrompter

        self._prompter = TreePrompter(tree)

    def answer(self, prompt: Prompt, num_masks: int) -> list[tuple[RunSet, float]]:
        """See ``_Answerer``; no mask where none contains a click."""
        from masktree.trees import rle
        from masktree.trees.run_sets import decode_set

        masks, scores, _ = self._prompter.predict(prompt, num_masks)
        found = zip(masks, scores.tolist(), strict=True)
        return [(decode_set(rle.encode(mask), mask.shape), score) for mask, score in found if mask.any()]


def _chosen(starts: np.ndarray, inside: np.ndarray) -> RunSet:
    """Those runs of a label map that are ``inside``."""
    from masktree.trees.run_sets import RunSet

    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    edges = np.concatenate([[0] if inside[0] else [], edges, [len(inside)] if inside[-1] else []]).astype(np.int64)
    borders = starts[edges].astype(np.int64)
    return RunSet(borders[::2], borders[1::2])


def _numbers(rows: list[Any], length: int) -> list[list[float]]:
    """Rows of numbers, checked, as anything may come from outside."""
    for row in rows:
        is_row = isinstance(row, list) and len(row) == length
        if not is_row or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in row):
            raise InputError(f"expected {length} numbers of each click or box; got {str(row)[:60]}")
    return [[float(value) for value in row] for row in rows]


def _describe(runs: RunSet, score: float, size: tuple[int, int]) -> dict[str, Any]:
    """A mask as the interface tells it: run lengths, rings along its pixels' edges, score, area and box."""
    from masktree.trees.polygons import run_rings

    return {
        "rle": {"size": list(size), "counts": runs.encode(size).decode("ascii")},
        "outline": [ring.tolist() for ring in run_rings(*runs, size[0])],
        "score": round(score, 4),
        "area": runs.area,
        "bbox": list(runs.box(size[0])),
    }
