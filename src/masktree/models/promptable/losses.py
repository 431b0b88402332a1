"""Losses of mask predictions: the target mask, the masks of all granularities, and the predicted IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from masktree.models.mask2former.losses import (
    LossPoints,
    assign,
    dice_loss,
    mask_loss,
    pair_costs,
    select_loss_points,
)
from masktree.models.promptable.box_losses import PromptBoxes, box_costs, box_losses
from masktree.models.promptable.predictions import NUM_MULTIMASK_OUTPUTS
from masktree.models.promptable.simulated_prompts import PromptBatch, select_diverse_areas

# Of class, cross-entropy and dice in the assignment: the weights of the losses, without a class.
COST_WEIGHTS = (0.0, 5.0, 5.0)
_NO_MASK_COST = 1e4  # the same for all predictions, so that it does not influence the assignment


def target_mask_losses(
    logits: Tensor,
    ious: Tensor,
    prompts: PromptBatch,
    point_targets: Tensor,
    points: LossPoints,
    boxes: PromptBoxes | None = None,
) -> Tensor:
    """(3,) cross-entropy, dice loss and squared error of the predicted IoU of mask 0: means over the prompts that mean
    one mask. With ``boxes`` (5,), the last two ``box_losses``.

    Args:
        logits: (q, 7, p) of all masks at ``points.all``.
        ious: (q, 7) predicted.
        prompts: of the image.
        point_targets: (n, p) bool: whether the points lie in the image's masks.
        points: of the image.
        boxes: predicted and of the image's masks.
    """
    rows = prompts.has_single_target.nonzero()[:, 0]
    if not len(rows):
        zero = logits.sum() if boxes is None else logits.sum() + boxes.predicted.sum()
        return zero * logits.new_zeros(3 if boxes is None else 5)
    predicted, targets = logits[rows, 0], point_targets[prompts.targets[rows]]
    selected = select_loss_points(predicted, targets, points)
    error = (ious[rows, 0] - mask_ious(predicted > 0, targets)).square()  # as SAM (arXiv 2304.02643, appendix A)
    losses = torch.stack([mask_loss(*selected).mean(), dice_loss(*selected).mean(), error.mean()])
    if boxes is None:
        return losses
    own = box_losses(boxes.predicted[rows, 0], boxes.targets[prompts.targets[rows]]) / len(rows)
    return torch.cat([losses, own])


def multimask_losses(
    logits: Tensor,
    ious: Tensor,
    prompts: PromptBatch,
    point_targets: Tensor,
    points: LossPoints,
    areas: Tensor,
    boxes: PromptBoxes | None = None,
) -> Tensor:
    """(3,) the same losses of masks 1 to 6 for the ambiguous prompts; with ``boxes`` (5,), which take part in the
    assignment.

    Each of at most six candidate masks of a prompt (see ``select_diverse_areas``) is learned by the prediction assigned
    to it (Hungarian matching, Semantic-SAM, arXiv 2307.04767, section 3.2); mask losses are means over these pairs.
    Every prediction learns its IoU; one without a mask learns the highest IoU that it has with any candidate.

    Args:
        logits, ious, prompts, point_targets, points, boxes: as in ``target_mask_losses``.
        areas: (n,) pixels of the image's masks.
    """
    rows = prompts.is_ambiguous.nonzero()[:, 0]
    predicted, predicted_ious = logits[rows, 1:], ious[rows, 1:]
    index, exists = select_diverse_areas(prompts.candidate_masks[rows], areas, NUM_MULTIMASK_OUTPUTS)
    targets = point_targets[index] & exists[..., None]  # (r, 6, p)
    with torch.no_grad():
        num_uniform = len(points.uniform)
        uniform = predicted[..., :num_uniform]
        class_logits = uniform.new_zeros(*uniform.shape[:2], 2)
        costs = pair_costs(class_logits, uniform, targets[..., :num_uniform].to(uniform.dtype), COST_WEIGHTS)
        if boxes is not None:
            costs = costs + box_costs(boxes.predicted[rows, 1:], boxes.targets[index])
        pairs = assign(torch.where(exists[:, None], costs, _NO_MASK_COST))
        assigned = torch.stack([masks for _, masks in pairs])  # (r, 6) candidate of each prediction
        matched = exists.gather(1, assigned)
        all_ious = mask_ious((predicted > 0)[:, :, None], targets[:, None])  # (r, 6, 6)
        true_ious = torch.where(matched, all_ious.gather(2, assigned[..., None])[..., 0], all_ious.amax(2))
    prompt, mask = matched.nonzero().unbind(1)
    selected = select_loss_points(predicted[prompt, mask], targets[prompt, assigned[prompt, mask]], points)
    error = (predicted_ious - true_ious).square()
    count = max(len(prompt), 1)  # no pair if all clicks lie on the background
    losses = torch.stack([mask_loss(*selected).sum() / count, dice_loss(*selected).sum() / count, error.mean()])
    if boxes is None:
        return losses
    predicted_boxes, target_boxes = boxes.predicted[rows, 1:], boxes.targets[index[prompt, assigned[prompt, mask]]]
    return torch.cat([losses, box_losses(predicted_boxes[prompt, mask], target_boxes) / count])


def best_mask_index(logits: Tensor, prompts: PromptBatch, point_targets: Tensor) -> Tensor:
    """(q,) int64 index of the mask that further clicks correct: 0 for prompts that mean one mask, else that of masks 1
    to 6 with the highest IoU with the target."""
    targets = point_targets[prompts.targets]
    best = 1 + mask_ious(logits[:, 1:] > 0, targets[:, None]).argmax(1)
    return torch.where(prompts.has_single_target, 0, best)


def mask_ious(predicted: Tensor, targets: Tensor) -> Tensor:
    """(...) IoU of (..., p) bool masks by the points that lie in them; 0 if neither has a point."""
    intersections, unions = (predicted & targets).sum(-1), (predicted | targets).sum(-1)
    return intersections / unions.clamp(min=1)
