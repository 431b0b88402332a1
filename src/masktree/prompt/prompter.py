"""What answers prompts on one image: the interface between ``Predictor`` and the prompters."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from masktree.prompt.prompt import Prompt


class PromptResult(NamedTuple):
    """C >= 1 masks, best first.

    Attributes:
        masks: (C, H, W) float32 logits, positive inside; bool from prompters that have no logits.
        scores: (C,) float32 expected IoU in [0, 1].
        low_res_logits: (C, LOW_RES_SIZE, LOW_RES_SIZE) float32, to be passed on as ``mask_input``.
    """

    masks: np.ndarray
    scores: np.ndarray
    low_res_logits: np.ndarray


class Prompter(Protocol):
    """Answers prompts on one image."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        ...

    def predict(self, prompt: Prompt, num_masks: int) -> PromptResult:
        """At most ``num_masks`` masks for a prompt; one empty mask of score 0 where nothing matches."""
        ...
