"""What the answers to questions are taught: the mask that was meant, the masks of all granularities, and how good each
mask is."""

from __future__ import annotations

import torch
from torch import Tensor

from masktree.models.mask2former.losses import LossPoints, dice_loss, mask_loss, select_loss_points
from masktree.models.mask2former.matching import assign, pair_costs
from masktree.models.promptable.predictions import NUM_MULTIMASK_OUTPUTS
from masktree.models.promptable.simulated_prompts import PromptBatch, pick

COSTS = (0.0, 5.0, 5.0)  # of class, cross-entropy and dice in the assignment: those of the objectives, without a class
_ABSENT = 1e4  # cost of a mask that does not exist: the same for all, so that it changes nothing


def target_mask_losses(
    logits: Tensor, ious: Tensor, questions: PromptBatch, wanted: Tensor, points: LossPoints
) -> Tensor:
    """(3,): cross-entropy, dice and error of the expected IoU of answer 0, means over the questions that mean one mask.

    Args:
        logits: (q, 7, p) of all answers at ``points.all``.
        ious: (q, 7), as the network expects them.
        wanted: (n, p) bool: whether the image's masks contain the points.
    """
    rows = questions.single.nonzero()[:, 0]
    if not len(rows):
        return logits.sum() * logits.new_zeros(3)
    own, meant = logits[rows, 0], wanted[questions.targets[rows]]
    at_points = select_loss_points(own, meant, points)
    error = (ious[rows, 0] - mask_ious(own > 0, meant)).square()  # as SAM (arXiv 2304.02643, appendix A)
    return torch.stack([mask_loss(*at_points).mean(), dice_loss(*at_points).mean(), error.mean()])


def multimask_losses(
    logits: Tensor, ious: Tensor, questions: PromptBatch, wanted: Tensor, points: LossPoints, areas: Tensor
) -> Tensor:
    """(3,): the same of answers 1 to 6, for the open questions.

    Of the masks that a question may mean, at most six (see ``pick``), each is learned by the answer that is assigned to
    it (Hungarian, Semantic-SAM, arXiv 2307.04767, section 3.2); the mean is over these pairs. Every answer learns what
    IoU it has, one without a mask the best that it has with any.
    """
    rows = questions.open.nonzero()[:, 0]
    own, known = logits[rows, 1:], ious[rows, 1:]
    index, exists = pick(questions.candidate_masks[rows], areas, NUM_MULTIMASK_OUTPUTS)
    meant = wanted[index] & exists[..., None]  # (r, 6, p)
    with torch.no_grad():
        even = len(points.uniform)
        some = own[..., :even]
        costs = pair_costs(some.new_zeros(*some.shape[:2], 2), some, meant[..., :even].to(some.dtype), COSTS)
        pairs = assign(torch.where(exists[:, None], costs, _ABSENT))
        column = torch.stack([masks for _, masks in pairs])  # (r, 6): of each answer, in order
        matched = exists.gather(1, column)
        every = mask_ious((own > 0)[:, :, None], meant[:, None])  # (r, 6, 6)
        best = torch.where(matched, every.gather(2, column[..., None])[..., 0], every.amax(2))
    question, answer = matched.nonzero().unbind(1)
    at_points = select_loss_points(own[question, answer], meant[question, column[question, answer]], points)
    error = (known - best).square()
    count = max(len(question), 1)  # no pair where every click fell where no mask is
    return torch.stack([mask_loss(*at_points).sum() / count, dice_loss(*at_points).sum() / count, error.mean()])


def best_mask_index(logits: Tensor, questions: PromptBatch, wanted: Tensor) -> Tensor:
    """(q,) int64: the answer that further clicks correct: number 0 where one mask is meant, else that of the others
    which fits the target best."""
    meant = wanted[questions.targets]
    best = 1 + mask_ious(logits[:, 1:] > 0, meant[:, None]).argmax(1)
    return torch.where(questions.single, 0, best)


def mask_ious(inside: Tensor, meant: Tensor) -> Tensor:
    """(...) IoU of (..., p) bool answers and masks by the points that are in them; 0 where both have none."""
    both, either = (inside & meant).sum(-1), (inside | meant).sum(-1)
    return both / either.clamp(min=1)
