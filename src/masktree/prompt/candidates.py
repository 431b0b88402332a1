"""Ranking of the candidate regions of an ambiguous prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from masktree.models.config import MAX_GRANULARITY, MIN_GRANULARITY
from masktree.models.promptable import ranking
from masktree.prompt.prompt import LOW_RES_SIZE, MASK_LOGIT, Prompt, low_res_logits
from masktree.prompt.prompter import PromptResult
from masktree.types import checked

NUM_MASKS = 6  # masks for an ambiguous prompt, as in UnSAM (arXiv 2406.20081)
GRANULARITY_STD = 0.1  # standard deviation of the granularity: a likelier neighbour may win (our choice)
IOU_EXPONENT = 16  # of the IoU with a box or mask: .9 against .75 weighs 18 times as much (our choice)
MIN_PROBABILITY = 1e-6  # lower bound of scores and IoUs before the logarithm (our choice)
_BLOCK = 2**16  # segments per matrix product


@dataclass(frozen=True, eq=False)
class Candidates:
    """k candidate regions, each a union of some of s disjoint segments.

    Attributes:
        membership: (k, s) bool: which segments a region consists of; no region is empty.
        segment_areas: (s,) float64 pixels of each segment.
        costs: (k,) float64 negative log probability that the region is meant, up to a constant.
        agreement: (k,) float64 in [0, 1]: how well the region agrees with the prompt.
    """

    membership: np.ndarray
    segment_areas: np.ndarray
    costs: np.ndarray
    agreement: np.ndarray


class ChosenRegions(NamedTuple):
    """C regions, best first, each a union of some of s disjoint segments.

    Attributes:
        membership: (C, s) bool.
        scores: (C,) float32 expected IoU in [0, 1].
    """

    membership: np.ndarray
    scores: np.ndarray


def select_regions(candidates: Candidates, num_masks: int, granularity: float | None) -> ChosenRegions:
    """The regions that ``rank_candidates`` chooses; none if there is no candidate."""
    if len(candidates.costs) == 0:
        return ChosenRegions(candidates.membership[:0], np.zeros(0, np.float32))
    order, scores = rank_candidates(candidates, num_masks, granularity)
    return ChosenRegions(candidates.membership[order], scores.astype(np.float32))


def select_masks(
    candidates: Candidates,
    render: Callable[[np.ndarray], np.ndarray],
    size: tuple[int, int],
    num_masks: int,
    granularity: float | None,
) -> PromptResult:
    """The masks of the regions that are chosen; one empty mask of score 0 if there is no candidate.

    Args:
        candidates: regions to choose from; may be none.
        render: maps the (s,) bool segments of a region to its (H, W) bool mask.
        size: (height, width) of the image.
        num_masks: at most that many masks.
        granularity: in [0.1, 1], or None.
    """
    chosen = select_regions(candidates, num_masks, granularity)
    if len(chosen.scores) == 0:
        low_res = np.full((1, LOW_RES_SIZE, LOW_RES_SIZE), -MASK_LOGIT, np.float32)
        return PromptResult(np.zeros((1, *size), np.bool_), np.zeros(1, np.float32), low_res)
    masks = np.stack([render(region) for region in chosen.membership])
    return PromptResult(masks, chosen.scores, low_res_logits(masks))


def rank_candidates(candidates: Candidates, num_masks: int, granularity: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of at most ``num_masks`` of at least one candidate, best first, and their scores.

    A score is the expected IoU with the region that is meant, under the probabilities that the costs stand for, times
    the agreement. ``ranking.select_by_expected_iou`` chooses, and mere copies of chosen candidates are left out; after
    the first, candidates are sorted by score.

    With a granularity g the first candidate minimises cost + (g' - g)^2 / (2 GRANULARITY_STD^2), where g' is its
    ``relative_granularities`` among all candidates. Its area never decreases as g grows.

    Returns:
        (C,) int64 indices, C >= 1, and (C,) float64 scores in [0, 1].
    """
    intersections = pairwise_intersections(candidates.membership, candidates.membership, candidates.segment_areas)
    areas = np.diag(intersections)
    ious = intersections / (areas[:, None] + areas - intersections)
    first = None
    if granularity is not None:
        deviations = relative_granularities(areas) - granularity
        first = int(np.argmin(candidates.costs + deviations**2 / (2 * GRANULARITY_STD**2)))
    indices, gains, scores = ranking.select_by_expected_iou(
        ious, ranking.probabilities(candidates.costs), candidates.agreement, min(num_masks, len(areas)), first
    )
    others = indices[1:][gains[1:] > 0]
    order = np.array([indices[0], *sorted(others, key=lambda index: -scores[index])])
    return order, scores[order]


def click_costs(prompt: Prompt, areas: np.ndarray) -> np.ndarray:
    """``ranking.click_costs`` of regions of (k,) ``areas`` pixels.

    A box, an earlier mask or a granularity determines the size by itself: all costs are then 0.
    """
    size_is_given = prompt.box is not None or prompt.mask is not None or prompt.granularity is not None
    if size_is_given or not prompt.positive.any():
        return np.zeros(len(areas))
    return ranking.click_costs(areas)


def relative_granularities(areas: np.ndarray) -> np.ndarray:
    """(k,) 0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min) of k areas (UnSAMv2, arXiv 2511.13714); 1 if
    all areas are equal."""
    lengths = np.sqrt(areas)
    low, high = lengths.min(), lengths.max()
    if high == low:
        return np.full(len(lengths), MAX_GRANULARITY)
    return MIN_GRANULARITY + (MAX_GRANULARITY - MIN_GRANULARITY) * (lengths - low) / (high - low)


@checked
def pairwise_intersections(
    first: np.ndarray, second: np.ndarray, segment_areas: Float64[np.ndarray, " s"]
) -> Float64[np.ndarray, "k l"]:
    """Pixels that each of (k, s) regions shares with each of (l, s), in blocks of segments to bound memory."""
    result = np.zeros((len(first), len(second)))
    for start in range(0, len(segment_areas), _BLOCK):
        block = slice(start, start + _BLOCK)
        result += (first[:, block] * segment_areas[block]) @ second[:, block].T.astype(np.float64)
    return result


def iou_with_mask(
    membership: np.ndarray, segment_areas: np.ndarray, mask_areas: np.ndarray, mask_area: float
) -> np.ndarray:
    """(k,) IoU of each of (k, s) regions with a mask of ``mask_area`` pixels that covers ``mask_areas`` (s,) pixels of
    the segments."""
    intersections = membership @ mask_areas
    return intersections / np.maximum(membership @ segment_areas + mask_area - intersections, 1)
