"""How weights move: optimiser, learning rate over the steps, clipping, and the average that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from masktree.errors import InputError

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_PLACES = ("pos_embed", "cls_token", "reg_token", "level_embed")  # learned positions, which decay would wash out


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """Everything about a run that is neither model nor data.

    Attributes:
        optimiser: adamw, or sgd with momentum 0.9.
        rate: learning rate after the warm-up.
        backbone_lr_factor: factor on ``rate`` for the parameters that begin pretrained; 0 keeps them as they are, which
            saves the time and memory of their gradients.
        decay: weight decay; norms, biases, embeddings and learned positions have none.
        steps: of the optimiser, in all.
        warmup_steps: steps over which the rate rises linearly from 0.
        schedule: after the warm-up. constant; cosine: to 0 at the last step; step: times ``drop`` at each of ``drops``.
        drops: shares of ``steps``, ascending; drop: factor at each.
        batch: images of one step, over all processes together.
        accumulation_steps: forward and backward passes per step and process, to save memory;
            the result is that of one pass.
        clip: largest norm of the gradient; 0 clips nothing. clip_per_parameter: of each parameter's gradient by itself.
        average: decay of the exponential moving average of the weights that are kept.

    Raises:
        InputError: a value out of range.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float
    backbone_lr_factor: float = 1.0
    weight_decay: float
    steps: int
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    batch_size: int
    accumulation_steps: int = 1
    clip_norm: float = 0.0
    clip_per_parameter: bool = False
    ema_decay: float

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} of at least 1; got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise InputError(f"expected a learning rate above 0; got {self.lr}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"expected a decay of the average in [0, 1); got {self.ema_decay}")
        for name in ("backbone_lr_factor", "weight_decay", "warmup_steps", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} of 0 or more; got {getattr(self, name)}")

    def check_processes(self, processes: int) -> None:
        """Raise InputError unless the images of a step can be dealt out evenly."""
        share = processes * self.accumulation_steps
        if self.batch_size % share:
            least = max(share, self.batch_size // share * share)
            raise InputError(
                f"expected a batch that {processes} processes with {self.accumulation_steps} accumulation steps "
                f"each can share evenly; got "
                f"{self.batch_size} images; give --batch-size {least}, say, or another number of --accumulation-steps"
            )


def lr_factor(step: int, settings: Optimisation) -> float:
    """Factor on the learning rate in step ``step``, counted from 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "cosine":
        length = max(1, settings.steps - settings.warmup_steps)
        return 0.5 + 0.5 * math.cos(math.pi * (step - settings.warmup_steps) / length)
    return settings.gamma ** sum(step >= share * settings.steps for share in settings.milestones)


def build_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """The optimiser of all parameters that want a gradient; each of its groups has ``scale``, its factor on the rate.

    ``model.pyramid.pretrained_parameters()``, where there is one, says what gets the backbone's smaller rate.
    """
    pretrained = {id(p) for p in pretrained_parameters(model)}
    fixed = _without_decay(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in pretrained, id(parameter) in fixed), []).append(parameter)
    listed = [
        {
            "params": parameters,
            "scale": settings.backbone_lr_factor if is_pretrained else 1.0,
            "weight_decay": 0.0 if is_fixed else settings.weight_decay,
        }
        for (is_pretrained, is_fixed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if not listed:
        raise InputError("expected a model with parameters that can be trained; got none")
    if settings.optimiser == "sgd":
        return torch.optim.SGD(listed, settings.lr, momentum=0.9)
    return torch.optim.AdamW(listed, settings.lr)


def freeze(model: nn.Module, settings: Optimisation) -> None:
    """Ask for no gradients of what is kept as it is."""
    if settings.backbone_lr_factor == 0:
        for parameter in pretrained_parameters(model):
            parameter.requires_grad_(False)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["scale"]


def clip_gradients(parameters: Iterable[nn.Parameter], settings: Optimisation) -> Tensor:
    """Clip in place; the norm of the whole gradient before."""
    wanted = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in wanted if p.grad is not None])
    if settings.clip_norm and settings.clip_per_parameter:
        for parameter in wanted:
            nn.utils.clip_grad_norm_([parameter], settings.clip_norm)
    elif settings.clip_norm:
        nn.utils.clip_grads_with_norm_(wanted, settings.clip_norm, norm)
    return norm


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, step: int | None, decay: float) -> None:
    """Move averaged weights towards those of ``model`` after ``step`` steps.

    The decay rises with (1 + step) / (10 + step), so that a short run's average is not that of its first weights;
    ``step`` None: it does not, for a run whose first weights are worth keeping.
    Numbers that are no fractions, as counters, are copied.
    """
    if step is not None:
        decay = min(decay, (1 + step) / (10 + step))
    old = [*averaged.parameters(), *averaged.buffers()]
    new = [*model.parameters(), *model.buffers()]
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)
    for a, b in zip(old, new, strict=True):
        if not a.is_floating_point():
            a.copy_(b)


def pretrained_parameters(model: nn.Module) -> Iterable[nn.Parameter]:
    """Those of the backbone that come with weights; none of a model without a pyramid."""
    pyramid = getattr(model, "pyramid", None)
    return () if pyramid is None else pyramid.pretrained_parameters()


def _without_decay(model: nn.Module) -> set[int]:
    """Which parameters (by id) are norms, biases, embeddings or learned positions."""
    fixed = {id(p) for name, p in model.named_parameters() if p.ndim < 2 or name.split(".")[-1] in _PLACES}
    for module in model.modules():
        if isinstance(module, (nn.Embedding, *_NORMS)):
            fixed |= {id(p) for p in module.parameters(recurse=False)}
    return fixed
