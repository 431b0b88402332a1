"""Questions to learn from: where clicks fall on the masks of an image, what they may mean, and how they go on.

A question is asked about one target mask, by a click in it or a box around it, with its granularity or without. With
granularity, box or further clicks one mask is meant. A click alone means every mask that it lies in (Semantic-SAM, Li
et al. 2023, arXiv 2307.04767, section 3.2; UnSAM, arXiv 2406.20081, section 3.3). Then clicks follow where the answer
is wrong, with the answer as an earlier mask (SAM, Kirillov et al. 2023, arXiv 2304.02643, appendix A). A click may also
fall where no mask is: any answer to it has an IoU of 0 (our choice: without them what a network makes of the background
outranks the masks that it knows when it is clicked everywhere).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from masktree.models.cascade.boxes import boxes_of, clip
from masktree.models.promptable.prompt_encoder import MIN_GRANULARITY, PADDING, Prompts
from masktree.models.structures import Targets

BOXES = 0.25  # share of questions asked by a box (our choice; SAM: half)
MAX_BACKGROUND_FRACTION = (
    0.25  # largest share of open clicks where no mask is; their share of the image if less (our choice)
)
CENTRAL = 0.5  # share of first clicks near the middle of their mask (our choice: people click there)
DROPPED = 0.5  # chance that a further click comes without the granularity, and without the earlier mask (our choice:
# SAM's training always has the mask, but people, and the field's protocols, ask with all their clicks and no mask)
_TRIED = 16  # random pixels of which the one nearest to their mean is near the middle (our choice)
_SHAKEN = 0.1  # standard deviation of a box's edges in sides of it (arXiv 2304.02643, appendix A: at most 20 pixels)
_SHAKEN_MOST = 20.0


@dataclass(frozen=True)
class PromptBatch:
    """2k questions about an image of n target masks, the first k with granularity.

    ``targets`` (2k,) int64: the masks they are about. ``single`` (2k,) bool: one mask is meant, the target. ``open``
    (2k,) bool: asked without granularity from the start, so that there are masks of all granularities to find.
    ``candidate_masks`` (2k, n) bool: the masks that an open question may mean, none for a click where no mask is.
    """

    prompts: Prompts
    targets: Tensor
    single: Tensor
    open: Tensor
    candidate_masks: Tensor

    @classmethod
    def draw(cls, targets: Targets, count: int, generator: torch.Generator) -> PromptBatch:
        """``count`` questions with and as many without granularity about n > 0 masks.

        ``generator`` lives on the CPU; the same one asks the same on every device.
        """
        masks = targets.masks
        areas = masks.sum((1, 2)).cpu()
        about = draw_targets(areas, 2 * count, generator)
        points = draw_points(masks, about, generator)
        boxes = draw_boxes(masks, about, generator)
        boxed = (torch.rand(2 * count, generator=generator) < BOXES).to(masks.device)
        about = about.to(masks.device)
        is_open = torch.arange(2 * count, device=masks.device) >= count
        background = ~masks.any(0)
        elsewhere = torch.rand(2 * count, generator=generator).to(masks.device) < background.float().mean().clamp(
            max=MAX_BACKGROUND_FRACTION
        )
        elsewhere &= is_open & ~boxed
        if elsewhere.any():
            points[elsewhere] = draw_points(
                background[None], torch.zeros(int(elsewhere.sum()), dtype=torch.int64), generator
            )
        x, y = points.long().unbind(1)
        candidate_masks = masks[:, y, x].T & ~boxed[:, None]
        candidate_masks[torch.arange(2 * count, device=masks.device), about] = ~elsewhere
        g = granularities(areas, targets.parents.cpu()).to(masks.device)[about]
        prompts = Prompts(
            points[:, None],
            torch.where(boxed, PADDING, 1)[:, None],
            torch.where(boxed[:, None], boxes, torch.nan),
            None,
            torch.where(is_open, torch.nan, g),
        )
        return cls(prompts, about, boxed | ~is_open, is_open, candidate_masks)

    def add_correction_clicks(
        self, answers: Tensor, inside: Tensor, wanted: Tensor, points: Tensor, generator: torch.Generator
    ) -> PromptBatch:
        """The same questions with one more click each, at a random point where the answer is wrong; with none where it
        is wrong nowhere. Half of the clicks come with the answer as an earlier mask, half without.

        Args:
            answers: (2k, H/4, W/4) logits of the answers.
            inside: (2k, p) bool: whether the answers contain the points.
            wanted: (n, p) bool: whether the image's masks do.
            points: (p, 2) in [0, 1], evenly spread over the image.
        """
        draws = torch.rand(3, len(inside), generator=generator).to(inside.device)
        meant = wanted[self.targets]
        which, found = _draw_true(inside != meant, draws[0])
        positive = meant.gather(1, which[:, None])
        known = self.single | self.candidate_masks.any(1)  # what no mask is meant by is asked once more as it was
        labels = torch.where((found & known)[:, None], positive.long(), PADDING)
        size = points.new_tensor([answers.shape[2] * 4, answers.shape[1] * 4])
        old = self.prompts
        assert old.granularity is not None
        prompts = Prompts(
            torch.cat([old.points, (points[which] * size)[:, None]], 1),
            torch.cat([old.labels, labels], 1),
            old.boxes,
            torch.where((found & known & (draws[2] < DROPPED))[:, None, None], torch.nan, answers),
            torch.where(draws[1] < DROPPED, torch.nan, old.granularity),
        )
        candidate_masks = self.candidate_masks & ((wanted.T[which] == positive) | ~found[:, None])
        return replace(self, prompts=prompts, single=known, candidate_masks=candidate_masks)


def granularities(areas: Tensor, parents: Tensor) -> Tensor:
    """(n,) float32 in [0.1, 1]: 0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min), A_min and A_max the
    smallest and the largest area in the mask's own tree (UnSAMv2, arXiv 2511.13714, section 3); 1 where these are one.

    Args:
        areas: (n,) in pixels.
        parents: (n,) int64 of a forest, -1 for roots; both on the CPU.
    """
    roots = torch.arange(len(parents))
    for _ in range(len(parents)):
        above = parents[roots]
        if (above < 0).all():
            break
        roots = torch.where(above < 0, roots, above)
    sides = areas.double().sqrt()
    least = torch.full_like(sides, torch.inf).scatter_reduce(0, roots, sides, "amin")[roots]
    most = torch.zeros_like(sides).scatter_reduce(0, roots, sides, "amax")[roots]
    share = torch.where(most > least, (sides - least) / (most - least).clamp(min=1e-9), 1.0)
    return (MIN_GRANULARITY + (1 - MIN_GRANULARITY) * share).float()


def draw_targets(areas: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64: masks by their (n,) areas, on the CPU: first a size, then one of that size; sizes are octaves of
    length, those that occur being equally likely (our choice: most masks are small)."""
    octaves = torch.log2(areas.double().sqrt()).floor().long()
    sizes, own = octaves.unique(return_inverse=True)
    draws = torch.rand(2, count, generator=generator)
    size = (draws[0] * len(sizes)).long().clamp(max=len(sizes) - 1)
    order, numbers = own.argsort(stable=True), own.bincount()
    place = (draws[1] * numbers[size]).long().minimum(numbers[size] - 1)
    return order[(numbers.cumsum(0) - numbers)[size] + place]


def draw_points(masks: Tensor, which: Tensor, generator: torch.Generator) -> Tensor:
    """(k, 2) float32 x and y of a pixel's centre in mask ``which`` (k,) of (n, H, W) bool: any, or near the middle."""
    draws = torch.rand(len(which), _TRIED + 1, generator=generator).to(masks.device)
    points = torch.empty(len(which), 2, device=masks.device)
    for target in which.unique().tolist():
        rows = (which == target).nonzero()[:, 0].to(masks.device)
        y, x = masks[target].nonzero().unbind(1)
        tried = (draws[rows, :-1] * len(x)).long().clamp(max=len(x) - 1)
        places = torch.stack([x[tried], y[tried]], 2).float()
        central = (places - places.mean(1, keepdim=True)).norm(dim=2).argmin(1)
        chosen = torch.where(draws[rows, -1] < CENTRAL, central, 0)
        points[rows] = places[torch.arange(len(rows), device=masks.device), chosen] + 0.5
    return points


def draw_boxes(masks: Tensor, which: Tensor, generator: torch.Generator) -> Tensor:
    """(k, 4) boxes of the masks ``which`` (k,), their edges shaken, at least a pixel wide and high."""
    boxes = boxes_of(masks)[which.to(masks.device)]
    noise = torch.randn(len(which), 4, generator=generator).to(masks.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    limit = (sides / 4).clamp(max=_SHAKEN_MOST)  # opposite edges never meet (our choice)
    shaken = boxes + (noise * _SHAKEN * sides).clamp(-limit, limit)
    shaken = clip(shaken, (masks.shape[1], masks.shape[2]))
    return torch.cat([shaken[:, :2], torch.maximum(shaken[:, 2:], shaken[:, :2] + 1)], 1)


def pick(candidate_masks: Tensor, areas: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` of each question's masks, those that differ most in area: (k, most) int64, and bool where one
    is.

    Of more the largest, then again and again the one whose area is least like any that was taken, by the ratio of
    areas: first the smallest; of equal ones the first (our choice: Semantic-SAM has no more than six).

    Args:
        candidate_masks: (k, n) bool.
        areas: (n,) above 0.
    """
    sizes = areas.double().log().cpu()
    index = torch.zeros(len(candidate_masks), most, dtype=torch.int64)
    exists = torch.zeros(len(candidate_masks), most, dtype=torch.bool)
    for row, own in enumerate(candidate_masks.cpu()):
        members = own.nonzero()[:, 0]
        if len(members) > most:
            members = members[_spread(sizes[members], most)]
        index[row, : len(members)], exists[row, : len(members)] = members, True
    return index.to(candidate_masks.device), exists.to(candidate_masks.device)


def _spread(sizes: Tensor, most: int) -> Tensor:
    taken = [int(sizes.argmax())]
    apart = torch.full_like(sizes, torch.inf)
    while len(taken) < most:
        apart = apart.minimum((sizes - sizes[taken[-1]]).abs())
        apart[taken] = -1  # among equal sizes nothing is taken twice
        taken.append(int(apart.argmax()))
    return torch.tensor(sorted(taken))


def _draw_true(among: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (k, p) bool the index of a random True, by (k,) numbers in [0, 1), and whether there is one."""
    counts = among.sum(1)
    rank = (draws * counts).long().minimum((counts - 1).clamp(min=0))
    return (among.cumsum(1) > rank[:, None]).int().argmax(1), counts > 0
