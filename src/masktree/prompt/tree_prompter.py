"""Prompts on a tree of masks: its masks, and their unions and differences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from masktree.prompt.candidates import (
    IOU_EXPONENT,
    MIN_PROBABILITY,
    Candidates,
    click_costs,
    iou_with_mask,
    select_masks,
)
from masktree.prompt.prompt import Prompt
from masktree.prompt.prompter import PromptResult
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

MAX_CANDIDATES = 64  # masks that are ranked where there is no click inside (our choice)
_VIOLATION_COST = -float(np.log(MIN_PROBABILITY))  # of a click on the wrong side
_MIN_ODDS = 1e-3  # of a score of 0 against 1, and the inverse of the highest: together MIN_PROBABILITY (our choice)


class _Composition(NamedTuple):
    """The union of the masks ``added`` minus the masks ``removed``; ``violations`` clicks are on the wrong side."""

    added: list[int]
    removed: list[int]
    violations: int


class TreePrompter:
    """Clicks, boxes and masks on a ``MaskTree``, whose masks may overlap.

    There is one candidate for each mask that contains the first click inside that any mask contains; without such a
    click, for the ``MAX_CANDIDATES`` masks that match box and mask best. For each click inside that a candidate lacks,
    the best mask that contains it and no click outside is added; for each click outside that it contains, the best mask
    that contains it and no click inside is removed. A candidate costs the sum of the costs of its masks, its
    ``click_costs``, and for each remaining click on the wrong side as much as a mask that is out of the question. A
    mask costs -log of its odds, score / (1 - score), relative to those of the best mask of the tree (our choice):
    scores are agreements to expect, mostly between .5 and 1, whose logarithms hardly differ. This is the seeded cut of
    ``DendrogramPrompter``, greedy click by click, for masks that may overlap.

    The cost of a prompt is linear in the runs of the masks under the clicks; only returned masks are decoded.
    """

    def __init__(self, tree: MaskTree) -> None:
        self.tree = tree
        self.size = tree.size
        self._mask_costs = _odds_costs(tree.scores.astype(np.float64))

    def predict(self, prompt: Prompt, num_masks: int) -> PromptResult:
        """See ``Prompter``; the masks are bool. One empty mask where no mask contains a click inside."""
        contains = np.zeros((len(self.tree), len(prompt.labels)), np.bool_)
        for click, (x, y) in enumerate(prompt.points.tolist()):
            contains[self.tree.at(x, y), click] = True
        box_ious = None if prompt.box is None else self._box_ious(prompt.box)
        bases = self._base_masks(prompt, contains, box_ious)
        compositions = [self._compose(int(base), contains, prompt.positive) for base in bases]
        used = sorted({i for composition in compositions for i in (*composition.added, *composition.removed)})
        segments = _RunSegments([self.tree.rles[i] for i in used], self.size)
        row = {i: k for k, i in enumerate(used)}
        membership = np.zeros((len(compositions), len(segments.areas)), np.bool_)
        costs, violated = np.zeros(len(compositions)), np.zeros(len(compositions))
        for k, (added, removed, violations) in enumerate(compositions):
            membership[k] = segments.membership[[row[i] for i in added]].any(0)
            membership[k] &= ~segments.membership[[row[i] for i in removed]].any(0)
            costs[k] = self._mask_costs[added + removed].sum() + violations * _VIOLATION_COST
            violated[k] = violations / len(prompt.labels) if violations else 0
        match = np.ones(len(compositions)) if box_ious is None else box_ious[bases]
        if prompt.inside is not None:
            mask_areas = segments.areas_of(rle.encode(prompt.inside))
            match = match * iou_with_mask(membership, segments.areas, mask_areas, int(prompt.inside.sum()))
        areas = membership @ segments.areas
        costs += click_costs(prompt, areas) - IOU_EXPONENT * np.log(np.maximum(match, MIN_PROBABILITY))
        agreement = match * (1 - violated)
        valid = areas > 0
        candidates = Candidates(membership[valid], segments.areas, costs[valid], agreement[valid])
        return select_masks(candidates, segments.render, self.size, num_masks, prompt.granularity)

    def _base_masks(self, prompt: Prompt, contains: np.ndarray, box_ious: np.ndarray | None) -> np.ndarray:
        """Indices of the masks that a candidate starts from."""
        clicks = np.flatnonzero(prompt.positive & contains.any(0))
        if len(clicks):
            return np.flatnonzero(contains[:, clicks[0]])
        if prompt.box is None and prompt.mask is None:
            return np.zeros(0, np.int64)
        costs = self._mask_costs.copy()
        if box_ious is not None:
            costs -= IOU_EXPONENT * np.log(np.maximum(box_ious, MIN_PROBABILITY))
        if prompt.inside is not None:
            ious = rle.iou(self.tree.rles, [rle.encode(prompt.inside)], self.size)[:, 0]
            costs -= IOU_EXPONENT * np.log(np.maximum(ious, MIN_PROBABILITY))
        return np.argsort(costs, kind="stable")[:MAX_CANDIDATES]

    def _compose(self, base: int, contains: np.ndarray, positive: np.ndarray) -> _Composition:
        """The candidate that starts from mask ``base``, corrected click by click: clicks inside first."""
        added, removed = [base], []
        violations = 0
        covered = contains[base].copy()
        without_outside = ~contains[:, ~positive].any(1)
        without_inside = ~contains[:, positive].any(1)
        for click in np.argsort(~positive, kind="stable"):
            if covered[click] == positive[click]:
                continue
            usable = np.flatnonzero(contains[:, click] & (without_outside if positive[click] else without_inside))
            if len(usable) == 0:
                violations += 1
                continue
            best = int(usable[self._mask_costs[usable].argmin()])
            if positive[click]:
                added.append(best)
                covered |= contains[best]
            else:
                removed.append(best)
                covered &= ~contains[best]
        return _Composition(added, removed, violations)

    def _box_ious(self, box: np.ndarray) -> np.ndarray:
        """(N,) IoU of each mask's bounding box with a box (left, top, right, bottom)."""
        left, top, width, height = self.tree.boxes.T
        overlap_width = np.minimum(left + width, box[2]) - np.maximum(left, box[0])
        overlap_height = np.minimum(top + height, box[3]) - np.maximum(top, box[1])
        intersection = overlap_width.clip(0) * overlap_height.clip(0)
        return intersection / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - intersection)


def _odds_costs(scores: np.ndarray) -> np.ndarray:
    """(n,) costs of masks with scores in [0, 1], from 0 of the best one to ``_VIOLATION_COST``."""
    costs = -np.log((scores + _MIN_ODDS) / (1 - scores + _MIN_ODDS))
    relative: np.ndarray = costs - costs.min(initial=np.inf)
    return relative


class _RunSegments:
    """The column-major intervals between all ends of runs of k masks, of which each mask is a union.

    Attributes:
        membership: (k, s) bool.
        areas: (s,) float64 pixels.
    """

    def __init__(self, rles: list[bytes], size: tuple[int, int]) -> None:
        starts, ends, offsets = rle.runs(rles, size)
        self._size = size
        self._bounds = np.unique(np.concatenate([starts, ends]))
        self.areas = np.diff(self._bounds).astype(np.float64)
        changes = np.zeros((len(rles), len(self._bounds)), np.int8)
        rows = np.repeat(np.arange(len(rles)), np.diff(offsets))
        np.add.at(changes, (rows, np.searchsorted(self._bounds, starts)), 1)
        np.add.at(changes, (rows, np.searchsorted(self._bounds, ends)), -1)
        self.membership = np.cumsum(changes, axis=1, dtype=np.int8)[:, : len(self.areas)] > 0

    def areas_of(self, text: bytes) -> np.ndarray:
        """(s,) float64 pixels of another run-length mask in each segment."""
        starts, ends, _ = rle.runs([text], self._size)
        edges = np.stack([starts, ends], 1).ravel()
        cumulative = np.concatenate([[0], np.cumsum(ends - starts)])
        edges_before = np.searchsorted(edges, self._bounds, side="right")  # odd within a run
        complete_runs = cumulative[edges_before // 2]
        open_run = np.zeros(len(self._bounds), np.int64)
        if len(edges):
            open_run = np.where(edges_before % 2 == 1, self._bounds - edges[np.maximum(edges_before - 1, 0)], 0)
        return np.diff(complete_runs + open_run).astype(np.float64)

    def render(self, region: np.ndarray) -> np.ndarray:
        """(H, W) bool mask of (s,) bool segments."""
        flat = np.zeros(self._size[0] * self._size[1], np.bool_)
        flat[self._bounds[0] : self._bounds[-1]] = np.repeat(region, np.diff(self._bounds))
        return np.ascontiguousarray(flat.reshape(self._size[1], self._size[0]).T)
