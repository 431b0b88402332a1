"""Ends self-training whose teacher no longer finds objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masktree.errors import FormatError, InputError, TrainingError

MIN_MASKS_PER_IMAGE = 0.1  # fewer pseudo-labels end the run (our choice)
MAX_COLLAPSED_FRACTION = 0.95  # of the images; more end the run (our choice)


class CollapseMonitor:
    """Detects a teacher that finds nothing, or a single mask of the whole image.

    Such an image is called collapsed. Means over the last ``window`` steps decide, the same in all processes.

    Attributes:
        window: steps (100 is our choice).
        origin: the run that training started from, for the error message.
    """

    def __init__(self, window: int = 100, origin: str = "the run it started from") -> None:
        """
        Raises:
            InputError: a window below 1.
        """
        if window < 1:
            raise InputError(f"expected a window of at least 1 step; got {window}")
        self.window, self.origin = window, origin
        self._history = torch.zeros(window, 3, dtype=torch.float64)  # images, masks, collapsed images of each step
        self._steps, self._first_mean, self._has_warned = 0, 0.0, False
        self._warning: str | None = None

    def update(self, images: float, masks: float, collapsed: float) -> None:
        """Count a step over all processes: its images, their pseudo-labels, and its collapsed images.

        Raises:
            TrainingError: over a full window, fewer than ``MIN_MASKS_PER_IMAGE`` pseudo-labels per image, or at least
                ``MAX_COLLAPSED_FRACTION`` of the images collapsed.
        """
        self._history[self._steps % self.window] = torch.tensor([images, masks, collapsed], dtype=torch.float64)
        self._steps += 1
        if self._steps < self.window:
            return
        num_images, num_masks, num_collapsed = self._history.sum(0).tolist()
        mean, fraction = num_masks / num_images, num_collapsed / num_images
        if self._steps == self.window:
            self._first_mean = mean
        if mean < MIN_MASKS_PER_IMAGE or fraction >= MAX_COLLAPSED_FRACTION:
            raise TrainingError(self._error(mean, fraction))
        if mean < self._first_mean / 2 and not self._has_warned:
            self._has_warned = True
            self._warning = (
                f"the teacher finds fewer and fewer masks: {mean:.1f} per image now, {self._first_mean:.1f} at first; "
                "it may be collapsing"
            )

    def pop_warning(self) -> str | None:
        """A warning, returned once, if pseudo-labels have halved since the first window; else None."""
        warning, self._warning = self._warning, None
        return warning

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "history": self._history.clone(),
            "steps": self._steps,
            "first_mean": self._first_mean,
            "has_warned": self._has_warned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            FormatError: something else, or the state of another window.
        """
        history = state.get("history")
        if (
            not isinstance(history, Tensor)
            or history.shape != self._history.shape
            or not {"steps", "first_mean", "has_warned"} <= set(state)
        ):
            raise FormatError(
                f"expected the state of a collapse monitor over {self.window} steps; got another; restart the run with "
                "--overwrite"
            )
        self._history = history.to("cpu", torch.float64, copy=True)
        self._steps, self._first_mean = state["steps"], state["first_mean"]
        self._has_warned = state["has_warned"]

    def _error(self, mean: float, fraction: float) -> str:
        if mean < MIN_MASKS_PER_IMAGE:
            got = f"{mean:.2g} per image"
        else:
            got = f"none, or one mask of the whole image, in {fraction:.0%} of the images"
        return (
            f"expected masks from the teacher; got {got} over the {self.window} steps up to step {self._steps} with a "
            "teacher: it has collapsed; use a new folder with a lower score threshold, a smaller teacher weight, a "
            f"larger EMA decay or a longer burn-in, starting again from {self.origin}"
        )
