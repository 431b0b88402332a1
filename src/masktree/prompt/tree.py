"""Prompts answered from a tree of masks: its masks, and their unions and differences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from masktree.prompt.candidates import LEAST, SHARPNESS, Answer, Candidates, answer, click_costs, overlap
from masktree.prompt.prompt import Prompt
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

CANDIDATES = 64  # masks that are looked at where no click says which (our choice)
_MISSED = -float(np.log(LEAST))  # cost of a click that is not obeyed


class _Plan(NamedTuple):
    """Masks ``plus`` without masks ``minus``, which disobey ``missed`` clicks."""

    plus: list[int]
    minus: list[int]
    missed: int


class Forest:
    """Clicks, boxes and masks on a ``MaskTree``, whose masks may overlap.

    Candidates are the masks with the first click inside that any mask has; without such a click those that fit box and
    mask best. For a click inside that it lacks, the mask of highest score with that click and none outside is added to
    a candidate; for a click outside that it holds, the one with that click and none inside is taken away. A candidate
    costs the sum of -log of the scores of its masks, what ``click_costs`` says, and a click that no mask can mend as
    much as the least score. This is the seeded cut of ``Dendrogram``, one click after the other, for masks that may
    overlap.

    Cost of an answer: that of the runs of the masks that have clicks; only what is returned is made dense.
    """

    def __init__(self, tree: MaskTree) -> None:
        self.tree = tree
        self.size = tree.size
        self._costs = -np.log(np.maximum(tree.scores.astype(np.float64), LEAST))

    def answer(self, prompt: Prompt, count: int) -> Answer:
        """As ``answer.Source``; masks are bool. An empty mask where no mask has a click inside."""
        holds = np.zeros((len(self.tree), len(prompt.labels)), np.bool_)
        for number, (x, y) in enumerate(prompt.points.tolist()):
            holds[self.tree.at(x, y), number] = True
        fit = None if prompt.box is None else self._box_fit(prompt.box)
        tops = self._tops(prompt, holds, fit)
        plans = [self._plan(int(top), holds, prompt.positive) for top in tops]
        used = sorted({index for plan in plans for index in (*plan.plus, *plan.minus)})
        pieces = _Pieces([self.tree.rles[index] for index in used], self.size)
        place = {index: number for number, index in enumerate(used)}
        inside = np.zeros((len(plans), len(pieces.lengths)), np.bool_)
        costs, missed = np.zeros(len(plans)), np.zeros(len(plans))
        for number, plan in enumerate(plans):
            inside[number] = pieces.inside[[place[index] for index in plan.plus]].any(0)
            inside[number] &= ~pieces.inside[[place[index] for index in plan.minus]].any(0)
            costs[number] = self._costs[plan.plus + plan.minus].sum() + plan.missed * _MISSED
            missed[number] = plan.missed / len(prompt.labels) if plan.missed else 0
        match = np.ones(len(plans)) if fit is None else fit[tops]
        if prompt.inside is not None:
            covered, total = pieces.covered(rle.encode(prompt.inside)), int(prompt.inside.sum())
            match = match * overlap(inside, covered, pieces.lengths, total)
        areas = inside @ pieces.lengths
        costs += click_costs(prompt, areas) - SHARPNESS * np.log(np.maximum(match, LEAST))
        agreement = match * (1 - missed)
        some = areas > 0
        known = Candidates(inside[some], pieces.lengths, costs[some], agreement[some])
        return answer(known, pieces.draw, self.size, count, prompt.granularity)

    def _tops(self, prompt: Prompt, holds: np.ndarray, fit: np.ndarray | None) -> np.ndarray:
        clicks = np.flatnonzero(prompt.positive & holds.any(0))
        if len(clicks):
            return np.flatnonzero(holds[:, clicks[0]])
        if prompt.box is None and prompt.mask is None:
            return np.zeros(0, np.int64)
        costs = self._costs.copy()
        if fit is not None:
            costs -= SHARPNESS * np.log(np.maximum(fit, LEAST))
        if prompt.inside is not None:
            seen = [rle.encode(prompt.inside)]
            shared = rle.cross_intersections(self.tree.rles, seen, self.size)[:, 0]
            ious = shared / np.maximum(self.tree.areas + prompt.inside.sum() - shared, 1)
            costs -= SHARPNESS * np.log(np.maximum(ious, LEAST))
        return np.argsort(costs, kind="stable")[:CANDIDATES]

    def _plan(self, top: int, holds: np.ndarray, positive: np.ndarray) -> _Plan:
        plan: tuple[list[int], list[int]] = ([top], [])
        missed = 0
        has = holds[top].copy()
        pure = ~holds[:, ~positive].any(1), ~holds[:, positive].any(1)  # masks without clicks of the other kind
        for click in np.argsort(~positive, kind="stable"):
            if has[click] == positive[click]:
                continue
            kind = 0 if positive[click] else 1
            options = np.flatnonzero(holds[:, click] & pure[kind])
            if len(options) == 0:
                missed += 1
                continue
            best = int(options[self._costs[options].argmin()])
            plan[kind].append(best)
            has = has | holds[best] if kind == 0 else has & ~holds[best]
        return _Plan(*plan, missed)

    def _box_fit(self, box: np.ndarray) -> np.ndarray:
        """(N,) IoU of each mask's box with a box."""
        left, top, width, height = self.tree.boxes.T
        across = np.minimum(left + width, box[2]) - np.maximum(left, box[0])
        down = np.minimum(top + height, box[3]) - np.maximum(top, box[1])
        shared = across.clip(0) * down.clip(0)
        return shared / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - shared)


class _Pieces:
    """The column-major intervals between all ends of runs of k masks: ``inside`` (k, a) bool, ``lengths`` (a,)."""

    def __init__(self, rles: list[bytes], size: tuple[int, int]) -> None:
        starts, ends, offsets = rle.runs(rles, size)
        self._size = size
        self._places = np.unique(np.concatenate([starts, ends]))
        self.lengths = np.diff(self._places).astype(np.float64)
        turns = np.zeros((len(rles), len(self._places)), np.int8)
        owners = np.repeat(np.arange(len(rles)), np.diff(offsets))
        np.add.at(turns, (owners, np.searchsorted(self._places, starts)), 1)
        np.add.at(turns, (owners, np.searchsorted(self._places, ends)), -1)
        self.inside = np.cumsum(turns, axis=1, dtype=np.int8)[:, : len(self.lengths)] > 0

    def covered(self, text: bytes) -> np.ndarray:
        """(a,) pixels of a mask in each piece; what lies outside all pieces is added to none."""
        starts, ends, _ = rle.runs([text], self._size)
        edges = np.stack([starts, ends], 1).ravel()
        sums = np.concatenate([[0], np.cumsum(ends - starts)])
        before = np.searchsorted(edges, self._places, side="right")  # odd: in a run
        whole = sums[before // 2]
        part = np.where(before % 2 == 1, self._places - edges[np.maximum(before - 1, 0)], 0) if len(edges) else 0
        return np.diff(whole + part).astype(np.float64)

    def draw(self, region: np.ndarray) -> np.ndarray:
        """(H, W) bool mask of (a,) bool pieces."""
        flat = np.zeros(self._size[0] * self._size[1], np.bool_)
        flat[self._places[0] : self._places[-1]] = np.repeat(region, np.diff(self._places))
        return np.ascontiguousarray(flat.reshape(self._size[1], self._size[0]).T)
