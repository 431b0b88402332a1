"""Optimiser, learning-rate schedule, gradient clipping and moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from masktree.errors import InputError

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_WARMUP_START = 0.001  # factor of the first step of a whole cosine (Detectron2)
_POSITION_NAMES = ("pos_embed", "cls_token", "reg_token", "level_embed")  # learned positions are not decayed


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """All settings of a run that concern neither model nor data.

    Attributes:
        optimiser: adamw, or sgd with momentum 0.9.
        lr: learning rate after the warm-up.
        backbone_lr_factor: multiplies ``lr`` for pretrained parameters; 0 freezes them, which saves the time and memory
            of their gradients.
        weight_decay: of all parameters but norms, biases, embeddings and learned positions.
        decay_biases: of biases too, but those of norms (the released codes of Mask2Former, CutLER and HASSOD).
        steps: optimiser steps in total.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: after the warm-up. constant; cosine: to 0 at the last step; step: times ``gamma`` at each milestone;
            whole_cosine: a cosine over all steps, the first of which the warm-up replaces, so that the rate rises to
            what the cosine has left at its end only (Detectron2).
        milestones: fractions of ``steps``, ascending.
        gamma: factor at each milestone.
        batch_size: images per step, over all processes.
        accumulation_steps: gradient-accumulation steps per process; the result is that of 1.
        clip_norm: maximum norm of the gradient; 0 does not clip.
        clip_per_parameter: clip the gradient of each parameter on its own.
        ema_decay: decay of the exponential moving average of the weights.
        result: which weights the run's model has at the end: the average, or those of the last step.

    Raises:
        InputError: a value out of range.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float
    backbone_lr_factor: float = 1.0
    weight_decay: float
    decay_biases: bool = False
    steps: int
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step", "whole_cosine"] = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    batch_size: int
    accumulation_steps: int = 1
    clip_norm: float = 0.0
    clip_per_parameter: bool = False
    ema_decay: float
    result: Literal["average", "last"] = "average"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} of at least 1; got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise InputError(f"expected a finite learning rate above 0; got {self.lr}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"expected ema_decay in [0, 1); got {self.ema_decay}")
        for name in ("backbone_lr_factor", "weight_decay", "warmup_steps", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} of 0 or more; got {getattr(self, name)}")

    def check_divisible(self, processes: int) -> None:
        """Raise InputError unless the batch divides evenly over processes and accumulation steps."""
        divisor = processes * self.accumulation_steps
        if self.batch_size % divisor:
            nearest = max(divisor, self.batch_size // divisor * divisor)
            raise InputError(
                f"expected a batch size divisible by {processes} processes x {self.accumulation_steps} accumulation "
                f"steps; got {self.batch_size}; use --batch-size {nearest}, or another number of --accumulation-steps"
            )


def lr_factor(step: int, settings: Optimisation) -> float:
    """Factor on the learning rate in step ``step``, counted from 0.

    A function of the step alone: torch's schedulers accumulate rounding and need a state in the checkpoint, timm's
    spend the first step of a warm-up at rate 0.
    """
    if settings.schedule == "whole_cosine":
        at = max(step, settings.warmup_steps)
        factor = 0.5 + 0.5 * math.cos(math.pi * at / settings.steps)
        rise = min(1.0, step / max(1, settings.warmup_steps))
        return _WARMUP_START + (factor - _WARMUP_START) * rise
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "cosine":
        length = max(1, settings.steps - settings.warmup_steps)
        return 0.5 + 0.5 * math.cos(math.pi * (step - settings.warmup_steps) / length)
    return settings.gamma ** sum(step >= fraction * settings.steps for fraction in settings.milestones)


def build_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """The optimiser of all parameters that require a gradient. ``lr_factor`` of each group multiplies its rate.

    Raises:
        InputError: no parameter requires a gradient.
    """
    pretrained = {id(p) for p in pretrained_parameters(model)}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    not_decayed = [
        name for name, p in model.named_parameters() if id(p) in embeddings or name.split(".")[-1] in _POSITION_NAMES
    ]
    groups = []
    by_decay = param_groups_weight_decay(model, settings.weight_decay, no_weight_decay_list=not_decayed)
    if settings.decay_biases:
        by_decay = _with_decayed_biases(by_decay, model, settings.weight_decay)
    for group in by_decay:
        for factor, is_pretrained in ((1.0, False), (settings.backbone_lr_factor, True)):
            parameters = [p for p in group["params"] if (id(p) in pretrained) == is_pretrained]
            if parameters:
                groups.append({**group, "params": parameters, "lr_factor": factor})
    if not groups:
        raise InputError("expected a model with trainable parameters; got none")
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, settings.lr)


def _with_decayed_biases(groups: list[dict[str, Any]], model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The groups with the biases of all layers but norms in one that decays."""
    biases = {
        id(p)
        for module in model.modules()
        if not isinstance(module, _NORMS)
        for name, p in module.named_parameters(recurse=False)
        if name.endswith("bias")
    }
    moved = [p for group in groups for p in group["params"] if id(p) in biases and group["weight_decay"] == 0]
    kept = [
        {**group, "params": [p for p in group["params"] if group["weight_decay"] or id(p) not in biases]}
        for group in groups
    ]
    return [*kept, {"params": moved, "weight_decay": weight_decay}]


def freeze_pretrained(model: nn.Module, settings: Optimisation) -> None:
    """Switch the gradients of pretrained parameters off if their learning rate is 0."""
    if settings.backbone_lr_factor == 0:
        for parameter in pretrained_parameters(model):
            parameter.requires_grad_(False)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each parameter group to ``lr`` times its factor."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip_gradients(parameters: Iterable[nn.Parameter], settings: Optimisation) -> Tensor:
    """Clip gradients in place; returns the norm of the whole gradient before clipping."""
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if settings.clip_norm and settings.clip_per_parameter:
        for parameter in with_gradient:
            nn.utils.clip_grad_norm_([parameter], settings.clip_norm)
    elif settings.clip_norm:
        nn.utils.clip_grads_with_norm_(with_gradient, settings.clip_norm, norm)
    return norm


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, step: int | None, decay: float) -> None:
    """Move the averaged weights and floating-point buffers towards those of ``model``; copy integer buffers.

    torch's averaging function without its ``AveragedModel``, whose first update overwrites the average: a teacher that
    starts from trained weights would be lost.

    Args:
        ema_model, model: of the same structure.
        step: steps done; the decay is at most (1 + step) / (10 + step), so that the average of a short run forgets its
            first weights. None for a constant decay, where the first weights are trained ones.
        decay: in [0, 1).
    """
    if step is not None:
        decay = min(decay, (1 + step) / (10 + step))
    pairs = list(
        zip(
            [*ema_model.parameters(), *ema_model.buffers()],
            [*model.parameters(), *model.buffers()],
            strict=True,
        )
    )
    floating = [(average, current) for average, current in pairs if average.is_floating_point()]
    average_fn = get_ema_multi_avg_fn(decay)
    average_fn([average for average, _ in floating], [current for _, current in floating], 0)
    for average, current in pairs:
        if not average.is_floating_point():
            average.copy_(current)


def pretrained_parameters(model: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters of the backbone that come with weights; none for a model without feature pyramid."""
    pyramid = getattr(model, "pyramid", None)
    return () if pyramid is None else pyramid.pretrained_parameters()
