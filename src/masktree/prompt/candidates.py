"""Which of many regions to answer with, when none is known to be meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64

from masktree.prompt.prompt import COARSEST, FINEST, SIDE, SURE, Prompt, low_resolution
from masktree.types import checked

ANSWERS = 6  # masks of one answer, as many as UnSAM gives (arXiv 2406.20081)
REACH = 0.1  # standard deviation of a wanted granularity: neighbours that are likelier may win (our choice)
SHARPNESS = 16  # exponent of the overlap with a box or mask: .9 against .75 weighs 18 times (our choice)
LEAST = 1e-6  # score of what would have none (our choice)
CLICKED = 0.5  # power of a region's area that clicks on it are the less likely by (our choice, see ``click_costs``)
_BLOCK = 2**16  # atoms whose shares are multiplied at a time


@dataclass(frozen=True, eq=False)
class Candidates:
    """k regions, each a union of some of a disjoint atoms.

    Attributes:
        inside: (k, a) bool; each region has a pixel.
        weights: (a,) float64 pixels of each atom.
        costs: (k,) float64: -log of how likely it is that the region is meant, up to a constant.
        agreement: (k,) float64 in [0, 1]: how well the region obeys the prompt.
    """

    inside: np.ndarray
    weights: np.ndarray
    costs: np.ndarray
    agreement: np.ndarray


class Answer(NamedTuple):
    """C >= 1 masks, best first.

    ``masks`` (C, H, W): float32 logits, inside above 0, or bool where a source knows no logits. ``scores`` (C,) float32
    in [0, 1]. ``low`` (C, SIDE, SIDE) float32 logits as ``mask_input`` takes them.
    """

    masks: np.ndarray
    scores: np.ndarray
    low: np.ndarray


class Source(Protocol):
    """What answers prompts on one image of (height, width) ``size``."""

    @property
    def size(self) -> tuple[int, int]: ...

    def answer(self, prompt: Prompt, count: int) -> Answer:
        """At most ``count`` masks."""
        ...


def answer(
    known: Candidates,
    draw: Callable[[np.ndarray], np.ndarray],
    size: tuple[int, int],
    count: int,
    granularity: float | None,
) -> Answer:
    """The answer by ``choose``, an empty mask of score 0 if there is no candidate.

    Args:
        draw: (a,) bool of a region to its (H, W) bool mask.
    """
    if len(known.costs) == 0:
        return Answer(np.zeros((1, *size), np.bool_), np.zeros(1, np.float32), np.full((1, SIDE, SIDE), -SURE, "f4"))
    order, scores = choose(known, count, granularity)
    masks = np.stack([draw(known.inside[index]) for index in order])
    return Answer(masks, scores.astype(np.float32), low_resolution(masks))


def choose(known: Candidates, count: int, granularity: float | None) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` of at least one candidate, best first, and their scores.

    The score is the expected IoU with what is meant, if that is one of the candidates with the probabilities that their
    costs say, times the agreement. The first answer has the highest score. Each further one adds most to the expected
    IoU of the best answer so far, so that sizes differ where they are uncertain (our choice: the greedy maximum of a
    submodular function is within 1 - 1/e of the best, Nemhauser et al. 1978, doi 10.1007/BF01588971).

    With a granularity g the first answer has the least cost + (g' - g)^2 / (2 REACH^2), g' being the candidate's
    place among all: 0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min) (UnSAMv2, arXiv 2511.13714). Its area
    never falls as g grows.

    Returns:
        (C,) int64 indices, C >= 1, and (C,) float64 scores in [0, 1].
    """
    shared = shares(known.inside, known.inside, known.weights)
    areas = np.diag(shared)
    ious = shared / (areas[:, None] + areas - shared)
    chances = np.exp(known.costs.min() - known.costs)
    chances /= chances.sum()
    scores = ((ious @ chances) * known.agreement).clip(0, 1)
    first = int(scores.argmax())
    if granularity is not None:
        first = int(np.argmin(known.costs + (places(areas) - granularity) ** 2 / (2 * REACH**2)))
    chosen, best = [first], ious[first]
    while len(chosen) < min(count, len(scores)):
        gains = (np.maximum(ious, best) - best) @ chances * known.agreement
        following = int(gains.argmax())
        if gains[following] <= 0:  # as of those chosen already
            break
        chosen.append(following)
        best = np.maximum(best, ious[following])
    order = np.array([first, *sorted(chosen[1:], key=lambda index: -scores[index])])
    return order, scores[order]


def click_costs(prompt: Prompt, areas: np.ndarray) -> np.ndarray:
    """(k,) -log of how likely it is, up to a constant, that who means a region of so many pixels clicks there.

    Of all pixels of a region each is as likely as 1 / area, the one in its middle as likely whatever the area: the
    square root lies between. Without it a large region wins against a small one that is as likely, although of a
    hundred clicks on the large one hardly any would be there. Powers 0, 1/4, 1/2, 3/4 and 1: mean IoU of the first
    answer with labels of three methods .35, .47, .63, .62, .56 (docs/log.md; no human truth). A box, an earlier mask or
    a granularity says by itself how large what is meant is: all costs are 0.
    """
    sized = prompt.box is not None or prompt.inside is not None or prompt.granularity is not None
    if sized or not prompt.positive.any():
        return np.zeros(len(areas))
    return CLICKED * np.log(np.maximum(areas, 1))


def places(areas: np.ndarray) -> np.ndarray:
    """(k,) granularity in [0.1, 1] of each of k areas among them; 1 if all are equal."""
    sides = np.sqrt(areas)
    low, high = sides.min(), sides.max()
    if high == low:
        return np.full(len(sides), COARSEST)
    return FINEST + (COARSEST - FINEST) * (sides - low) / (high - low)


@checked
def shares(first: np.ndarray, second: np.ndarray, weights: Float64[np.ndarray, " a"]) -> Float64[np.ndarray, "k l"]:
    """Pixels that each of (k, a) regions shares with each of (l, a); memory of a block of atoms."""
    result = np.zeros((len(first), len(second)))
    for start in range(0, len(weights), _BLOCK):
        part = slice(start, start + _BLOCK)
        result += (first[:, part] * weights[part]) @ second[:, part].T.astype(np.float64)
    return result


def overlap(inside: np.ndarray, covered: np.ndarray, weights: np.ndarray, total: float) -> np.ndarray:
    """(k,) IoU of each of (k, a) regions with a region of ``total`` pixels, of which ``covered`` (a,) lie in each atom:
    of whole atoms, or of those that lie in parts of them as if spread evenly."""
    shared = inside @ covered
    return shared / np.maximum(inside @ weights + total - shared, 1)
