"""Ranking of the candidate masks of an ambiguous click.

The functions take numpy arrays or torch tensors and use only operations that both have and that ONNX can express: the
prompters and the exported decoder rank alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Array = TypeVar("Array", np.ndarray, Tensor)

CLICK_AREA_EXPONENT = 0.5  # a click is as likely as area ** -CLICK_AREA_EXPONENT (our choice, see ``click_costs``)


def click_costs(areas: Array) -> Array:
    """(k,) negative log likelihood of a click if a region of (k,) ``areas`` pixels is meant, up to a constant.

    If users clicked uniformly, each pixel of a region would be as likely as 1 / area; if they always clicked its
    centre, the area would not matter. The square root lies between. Without this term a large region wins against an
    equally probable small one, although hardly any of a hundred clicks on the large one would fall into the small one.
    Mean IoU of the first mask with labels of three methods, for exponents 0, 1/4, 1/2, 3/4 and 1: .35, .47, .63, .62
    and .56 (docs/log.md; no human ground truth).
    """
    costs: Array = CLICK_AREA_EXPONENT * _namespace(areas).log(areas.clip(1))
    return costs


def probabilities(costs: Array) -> Array:
    """(k,) probabilities, proportional to exp(-cost)."""
    likelihoods = _namespace(costs).exp(costs.min() - costs)
    normalised: Array = likelihoods / likelihoods.sum()
    return normalised


def select_by_expected_iou(
    ious: Array, probabilities: Array, quality: Array, num_masks: int, first: int | None = None
) -> tuple[Array, Array, Array]:
    """Greedy choice of candidates with the highest expected IoU of the best of them with the mask that is meant.

    The first candidate has the highest score; each further one adds most to the expected IoU of the best mask chosen so
    far, so that the masks differ in size where the size is uncertain (our choice: the greedy maximum of a submodular
    function is within 1 - 1/e of the optimum, Nemhauser et al. 1978, doi 10.1007/BF01588971).

    Args:
        ious: (k, k) pairwise IoU of the candidates.
        probabilities: (k,) that a candidate is meant; they add up to 1.
        quality: (k,) in [0, 1]: factor on a candidate's expected IoU.
        num_masks: number of candidates to choose, at most k.
        first: index of the first candidate; None for the one with the highest score.

    Returns:
        (num_masks,) int64 indices in the order of choice; (num_masks,) gains in expected IoU, not above 0 for a
        candidate that only repeats others (of no meaning for the first); (k,) scores of all candidates in [0, 1]: their
        expected IoU times ``quality``.
    """
    xp = _namespace(ious)
    numbers = xp.arange(len(ious))
    scores = ((ious @ probabilities) * quality).clip(0, 1)
    index = scores.argmax() if first is None else xp.asarray(first)
    chosen = numbers == index
    best = xp.amax(xp.where(chosen[:, None], ious, 0.0), 0)  # indexing by a tensor could not be exported
    indices, gains = [index], [scores.max()]
    for _ in range(num_masks - 1):
        gain = (xp.maximum(ious, best) - best) @ probabilities * quality
        index = xp.where(chosen, -1.0, gain).argmax()
        indices.append(index)
        gains.append(xp.where(chosen, -1.0, gain).max())
        chosen = chosen | (numbers == index)
        best = xp.maximum(best, xp.amax(xp.where((numbers == index)[:, None], ious, 0.0), 0))
    return xp.stack(indices), xp.stack(gains), scores


def _namespace(array: np.ndarray | Tensor) -> Any:
    """The module, numpy or torch, that an array belongs to."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch
