"""Simulated prompts for training: clicks and boxes on target masks, then correction clicks.

A prompt is a click in a target mask or a box around it, with the granularity of the mask or without. With a
granularity, a box or further clicks it means one mask. A click alone is ambiguous and means every mask that contains it
(Semantic-SAM, Li et al. 2023, arXiv 2307.04767, section 3.2; UnSAM, arXiv 2406.20081, section 3.3). Correction clicks
then follow where the prediction is wrong, with the prediction as an earlier mask (SAM, Kirillov et al. 2023, arXiv
2304.02643, appendix A). Some clicks fall on the background, where any prediction has an IoU of 0 (our choice: otherwise
masks of the background outrank known ones when all masks of an image are generated).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from masktree.models.cascade.boxes import mask_boxes
from masktree.models.config import MAX_GRANULARITY, MIN_GRANULARITY
from masktree.models.mask_maps import MASK_STRIDE
from masktree.models.promptable.prompt_encoder import PADDING, Prompts
from masktree.models.structures import Targets

BOX_FRACTION = 0.25  # of the prompts (our choice; SAM: half)
MAX_BACKGROUND_FRACTION = 0.25  # of ambiguous clicks; the background's share of the image if less (our choice)
CENTRAL_FRACTION = 0.5  # of first clicks are near the centre of their mask (our choice: people click there)
# Probability that a correction click comes without the granularity, and without the earlier mask (our choice: SAM's
# training always has the mask, but people, and the usual protocols, give all their clicks and no mask).
DROP_PROBABILITY = 0.5
_CENTRAL_TRIES = 16  # random pixels, of which the one nearest to their mean is near the centre (our choice)
_BOX_NOISE = 0.1  # standard deviation of a box's edges, in its sides (arXiv 2304.02643, appendix A: at most 20 pixels)
_MAX_BOX_NOISE = 20.0


@dataclass(frozen=True)
class PromptBatch:
    """2k prompts for an image of n target masks, the first k with a granularity.

    Attributes:
        prompts: the prompts.
        targets: (2k,) int64 index of the target mask.
        has_single_target: (2k,) bool: the prompt means one mask, the target.
        is_ambiguous: (2k,) bool: drawn without a granularity; the masks of all granularities are learned from it.
        candidate_masks: (2k, n) bool: the masks that an ambiguous prompt may mean; none for a background click.
    """

    prompts: Prompts
    targets: Tensor
    has_single_target: Tensor
    is_ambiguous: Tensor
    candidate_masks: Tensor

    @classmethod
    def draw(cls, targets: Targets, count: int, generator: torch.Generator) -> PromptBatch:
        """``count`` prompts with and as many without a granularity for n > 0 masks.

        ``generator`` is on the CPU: the same one draws the same prompts on every device.
        """
        masks = targets.masks
        areas = masks.sum((1, 2)).cpu()
        index = draw_targets(areas, 2 * count, generator)
        points = draw_points(masks, index, generator)
        boxes = draw_boxes(masks, index, generator)
        has_box = (torch.rand(2 * count, generator=generator) < BOX_FRACTION).to(masks.device)
        index = index.to(masks.device)
        rows = torch.arange(2 * count, device=masks.device)
        is_ambiguous = rows >= count
        background = ~masks.any(0)
        probability = background.float().mean().clamp(max=MAX_BACKGROUND_FRACTION)
        on_background = torch.rand(2 * count, generator=generator).to(masks.device) < probability
        on_background &= is_ambiguous & ~has_box
        if on_background.any():
            zeros = torch.zeros(int(on_background.sum()), dtype=torch.int64)
            points[on_background] = draw_points(background[None], zeros, generator)
        x, y = points.long().unbind(1)
        candidate_masks = masks[:, y, x].T & ~has_box[:, None]
        candidate_masks[rows, index] = ~on_background
        g = relative_granularities(areas, targets.parents.cpu()).to(masks.device)[index]
        prompts = Prompts(
            points[:, None],
            torch.where(has_box, PADDING, 1)[:, None],
            torch.where(has_box[:, None], boxes, torch.nan),
            None,
            torch.where(is_ambiguous, torch.nan, g),
        )
        return cls(prompts, index, has_box | ~is_ambiguous, is_ambiguous, candidate_masks)

    def add_correction_clicks(
        self, logits: Tensor, predicted: Tensor, point_targets: Tensor, points: Tensor, generator: torch.Generator
    ) -> PromptBatch:
        """The prompts with a click more each, at a random point where the prediction is wrong; without where it is
        right everywhere. Half of the clicks come with the prediction as an earlier mask.

        Args:
            logits: (2k, H/4, W/4) of the predictions.
            predicted: (2k, p) bool: whether the points lie in the predictions.
            point_targets: (n, p) bool: whether the points lie in the image's masks.
            points: (p, 2) in [0, 1], evenly spread over the image.
            generator: on the CPU.
        """
        draws = torch.rand(3, len(predicted), generator=generator).to(predicted.device)
        index, is_wrong = _draw_true(predicted != point_targets[self.targets], draws[0])
        positive = point_targets[self.targets].gather(1, index[:, None])
        has_target = self.has_single_target | self.candidate_masks.any(1)  # background clicks get no correction
        labels = torch.where((is_wrong & has_target)[:, None], positive.long(), PADDING)
        size = points.new_tensor([logits.shape[2] * MASK_STRIDE, logits.shape[1] * MASK_STRIDE])
        old = self.prompts
        assert old.granularity is not None
        prompts = Prompts(
            torch.cat([old.points, (points[index] * size)[:, None]], 1),
            torch.cat([old.labels, labels], 1),
            old.boxes,
            torch.where((is_wrong & has_target & (draws[2] < DROP_PROBABILITY))[:, None, None], torch.nan, logits),
            torch.where(draws[1] < DROP_PROBABILITY, torch.nan, old.granularity),
        )
        candidate_masks = self.candidate_masks & ((point_targets.T[index] == positive) | ~is_wrong[:, None])
        return replace(self, prompts=prompts, has_single_target=has_target, candidate_masks=candidate_masks)


def relative_granularities(areas: Tensor, parents: Tensor) -> Tensor:
    """(n,) float32 in [0.1, 1]: 0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min), with the smallest and the
    largest area of the mask's own tree (UnSAMv2, arXiv 2511.13714, section 3); 1 if these are equal.

    Args:
        areas: (n,) in pixels, on the CPU.
        parents: (n,) int64 of a forest, -1 for roots, on the CPU.
    """
    roots = torch.arange(len(parents))
    for _ in range(len(parents)):
        above = parents[roots]
        if (above < 0).all():
            break
        roots = torch.where(above < 0, roots, above)
    lengths = areas.double().sqrt()
    low = torch.full_like(lengths, torch.inf).scatter_reduce(0, roots, lengths, "amin")[roots]
    high = torch.zeros_like(lengths).scatter_reduce(0, roots, lengths, "amax")[roots]
    fractions = torch.where(high > low, (lengths - low) / (high - low).clamp(min=1e-9), 1.0)
    return (MIN_GRANULARITY + (MAX_GRANULARITY - MIN_GRANULARITY) * fractions).float()


def draw_targets(areas: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64 masks by their (n,) areas, on the CPU: first an octave of length, uniformly among those that
    occur, then a mask in it (our choice: most masks are small)."""
    octaves = torch.log2(areas.double().sqrt()).floor().long()
    sizes: Tensor
    size_of_mask: Tensor
    sizes, size_of_mask = octaves.unique(return_inverse=True)
    draws = torch.rand(2, count, generator=generator)
    size = (draws[0] * len(sizes)).long().clamp(max=len(sizes) - 1)
    order, counts = size_of_mask.argsort(stable=True), size_of_mask.bincount()
    rank = (draws[1] * counts[size]).long().minimum(counts[size] - 1)
    return order[(counts.cumsum(0) - counts)[size] + rank]


def draw_points(masks: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """(k, 2) float32 x and y of a pixel centre in mask ``index`` (k,) of (n, H, W) bool: any, or near the middle."""
    draws = torch.rand(len(index), _CENTRAL_TRIES + 1, generator=generator).to(masks.device)
    points = torch.empty(len(index), 2, device=masks.device)
    for target in index.unique().tolist():
        rows = (index == target).nonzero()[:, 0].to(masks.device)
        y, x = masks[target].nonzero().unbind(1)
        pixels = (draws[rows, :-1] * len(x)).long().clamp(max=len(x) - 1)
        tries = torch.stack([x[pixels], y[pixels]], 2).float()
        central = (tries - tries.mean(1, keepdim=True)).norm(dim=2).argmin(1)
        chosen = torch.where(draws[rows, -1] < CENTRAL_FRACTION, central, 0)
        points[rows] = tries[torch.arange(len(rows), device=masks.device), chosen] + 0.5
    return points


def draw_boxes(masks: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """(k, 4) boxes of the masks ``index`` (k,) with noise on their edges, at least a pixel wide and high."""
    boxes = mask_boxes(masks)[index.to(masks.device)]
    noise = torch.randn(len(index), 4, generator=generator).to(masks.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    limit = (sides / 4).clamp(max=_MAX_BOX_NOISE)  # opposite edges never meet (our choice)
    noisy = boxes + (noise * _BOX_NOISE * sides).clamp(-limit, limit)
    noisy = clip_boxes_to_image(noisy, (masks.shape[1], masks.shape[2]))
    return torch.cat([noisy[:, :2], torch.maximum(noisy[:, 2:], noisy[:, :2] + 1)], 1)


def select_diverse_areas(candidate_masks: Tensor, areas: Tensor, max_count: int) -> tuple[Tensor, Tensor]:
    """At most ``max_count`` of each prompt's candidates, those that differ most in area.

    If there are more: the largest, then repeatedly the one whose area is least similar to any chosen one, by the ratio
    of areas; of equal ones the first (our choice: Semantic-SAM has at most six).

    Args:
        candidate_masks: (k, n) bool.
        areas: (n,) above 0.
        max_count: number of columns of the result.

    Returns:
        (k, max_count) int64 indices, and (k, max_count) bool: whether there is one.
    """
    log_areas = areas.double().log().cpu()
    index = torch.zeros(len(candidate_masks), max_count, dtype=torch.int64)
    exists = torch.zeros(len(candidate_masks), max_count, dtype=torch.bool)
    for row, is_candidate in enumerate(candidate_masks.cpu()):
        candidates = is_candidate.nonzero()[:, 0]
        if len(candidates) > max_count:
            candidates = candidates[_farthest_first(log_areas[candidates], max_count)]
        index[row, : len(candidates)], exists[row, : len(candidates)] = candidates, True
    return index.to(candidate_masks.device), exists.to(candidate_masks.device)


def _farthest_first(values: Tensor, count: int) -> Tensor:
    """Sorted indices of the largest value and of the farthest ones from those before."""
    chosen = [int(values.argmax())]
    distances = torch.full_like(values, torch.inf)
    while len(chosen) < count:
        distances = distances.minimum((values - values[chosen[-1]]).abs())
        distances[chosen] = -1  # equal values are not chosen twice
        chosen.append(int(distances.argmax()))
    return torch.tensor(sorted(chosen))


def _draw_true(mask: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (k, p) bool the index of a random True, by (k,) numbers in [0, 1), and whether there is one."""
    counts = mask.sum(1)
    rank = (draws * counts).long().minimum((counts - 1).clamp(min=0))
    return (mask.cumsum(1) > rank[:, None]).int().argmax(1), counts > 0
