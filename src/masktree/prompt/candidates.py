"""Ranking of the candidate regions of an ambiguous prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from masktree.prompt.prompt import LOW_RES_SIZE, MASK_LOGIT, MAX_GRANULARITY, MIN_GRANULARITY, Prompt, low_res_logits
from masktree.prompt.prompter import PromptResult
from masktree.types import checked

NUM_MASKS = 6  # masks for an ambiguous prompt, as in UnSAM (arXiv 2406.20081)
GRANULARITY_STD = 0.1  # standard deviation of the granularity: a likelier neighbour may win (our choice)
IOU_EXPONENT = 16  # of the IoU with a box or mask: .9 against .75 weighs 18 times as much (our choice)
MIN_PROBABILITY = 1e-6  # lower bound of scores and IoUs before the logarithm (our choice)
CLICK_AREA_EXPONENT = 0.5  # a click is as likely as area ** -CLICK_AREA_EXPONENT (our choice, see ``click_costs``)
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


def select_masks(
    candidates: Candidates,
    render: Callable[[np.ndarray], np.ndarray],
    size: tuple[int, int],
    num_masks: int,
    granularity: float | None,
) -> PromptResult:
    """The masks that ``rank_candidates`` chooses; one empty mask of score 0 if there is no candidate.

    Args:
        candidates: regions to choose from; may be none.
        render: maps the (s,) bool segments of a region to its (H, W) bool mask.
        size: (height, width) of the image.
        num_masks: at most that many masks.
        granularity: in [0.1, 1], or None.
    """
    if len(candidates.costs) == 0:
        low_res = np.full((1, LOW_RES_SIZE, LOW_RES_SIZE), -MASK_LOGIT, np.float32)
        return PromptResult(np.zeros((1, *size), np.bool_), np.zeros(1, np.float32), low_res)
    order, scores = rank_candidates(candidates, num_masks, granularity)
    masks = np.stack([render(candidates.membership[index]) for index in order])
    return PromptResult(masks, scores.astype(np.float32), low_res_logits(masks))


def rank_candidates(candidates: Candidates, num_masks: int, granularity: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of at most ``num_masks`` of at least one candidate, best first, and their scores.

    A score is the expected IoU with the region that is meant, under the probabilities that the costs stand for, times
    the agreement. The first candidate has the highest score. Each further one adds most to the expected IoU of the best
    mask chosen so far, so that the masks differ in size where the size is uncertain (our choice: the greedy maximum of
    a submodular function is within 1 - 1/e of the optimum, Nemhauser et al. 1978, doi 10.1007/BF01588971).

    With a granularity g the first candidate minimises cost + (g' - g)^2 / (2 GRANULARITY_STD^2), where g' is its
    ``relative_granularities`` among all candidates. Its area never decreases as g grows.

    Returns:
        (C,) int64 indices, C >= 1, and (C,) float64 scores in [0, 1].
    """
    intersections = pairwise_intersections(candidates.membership, candidates.membership, candidates.segment_areas)
    areas = np.diag(intersections)
    ious = intersections / (areas[:, None] + areas - intersections)
    probabilities = np.exp(candidates.costs.min() - candidates.costs)
    probabilities /= probabilities.sum()
    scores = ((ious @ probabilities) * candidates.agreement).clip(0, 1)
    first = int(scores.argmax())
    if granularity is not None:
        deviations = relative_granularities(areas) - granularity
        first = int(np.argmin(candidates.costs + deviations**2 / (2 * GRANULARITY_STD**2)))
    chosen, best_ious = [first], ious[first]
    while len(chosen) < min(num_masks, len(scores)):
        gains = (np.maximum(ious, best_ious) - best_ious) @ probabilities * candidates.agreement
        following = int(gains.argmax())
        if gains[following] <= 0:  # only copies of chosen candidates are left
            break
        chosen.append(following)
        best_ious = np.maximum(best_ious, ious[following])
    order = np.array([first, *sorted(chosen[1:], key=lambda index: -scores[index])])
    return order, scores[order]


def click_costs(prompt: Prompt, areas: np.ndarray) -> np.ndarray:
    """(k,) negative log likelihood of the clicks if a region of so many pixels is meant, up to a constant.

    If users clicked uniformly, each pixel of a region would be as likely as 1 / area; if they always clicked its
    centre, the area would not matter. The square root lies between. Without this term a large region wins against an
    equally probable small one, although hardly any of a hundred clicks on the large one would fall into the small one.
    Mean IoU of the first mask with labels of three methods, for exponents 0, 1/4, 1/2, 3/4 and 1: .35, .47, .63, .62
    and .56 (docs/log.md; no human ground truth). A box, an earlier mask or a granularity determines the size by itself:
    all costs are then 0.
    """
    size_is_given = prompt.box is not None or prompt.mask is not None or prompt.granularity is not None
    if size_is_given or not prompt.positive.any():
        return np.zeros(len(areas))
    return CLICK_AREA_EXPONENT * np.log(np.maximum(areas, 1))


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
