"""The teacher of self-training: what the averaged model finds in one view becomes the targets of another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from masktree.segmenter.batch import Batch
from masktree.train.selection import Thresholds, Watch
from masktree.train.views import Views

Rule = Literal["sohes", "hassod"]
Reduce = Callable[[Tensor], Tensor]
COVER = {"sohes": 0.9, "hassod": 0.75}


@dataclass
class Teacher:
    rule: Rule
    thresholds: Thresholds
    cover: float
    max_masks: int
    min_area: int
    watch: Watch

    def teach(
        self,
        model: nn.Module,
        views: Views,
        device: torch.device,
        *,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        reduce: Reduce | None = None,
    ) -> tuple[Batch, dict[str, float]]:
        """The student's batch with the teacher's masks, on the CPU, and what to log."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds.state_dict(), "watch": self.watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.thresholds.load_state_dict(state["thresholds"])
        self.watch.load_state_dict(state["watch"])
