"""Which of the teacher's masks are taught: thresholds on their scores, and a watch that ends a run gone blind.

Sizes are those of COCO: a mask is small below 32^2 pixels of the photograph, large from 96^2 on, else medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masktree.errors import FormatError, InputError, TrainingError
from masktree.jobs.progress import NoProgress, Progress
from masktree.train.label_store import LabelStore
from masktree.trees import rle

SIZES = ("small", "medium", "large")
_LIMITS = (32**2, 96**2)  # areas at which the next size begins
FIXED = 0.7  # a mask that HASSOD's teacher keeps has a higher score (arXiv 2402.03311, code)
LOW, HIGH, START = 0.3, 0.9, 0.5  # range of dynamic thresholds, and what they are at first (our choice)
STEPS = 1000  # dynamic thresholds are multiples of 1 / STEPS (our choice)
MEMORY = 1000  # images that dynamic thresholds remember (our choice: a hundred steps or so)
ALL = 0.9  # share of a picture from which a mask is all of it (our choice)
LEAST, MOST_BLIND = 0.1, 0.95  # masks per image, and share of blind images, at which a run is lost (our choice)


def size_classes(areas: np.ndarray) -> np.ndarray:
    """(n,) index in ``SIZES`` of masks with that many pixels of the photograph."""
    return np.searchsorted(_LIMITS, areas, side="right")


def labels_per_image(store: LabelStore, *, progress: Progress | None = None) -> tuple[float, float, float]:
    """Small, medium and large masks of a label set per photograph, those without any counted, for ``Thresholds``.

    Reads all labels once, one photograph in memory at a time: about 0.1 ms for each with 30 simple masks.

    Args:
        progress: is told of each photograph.

    Raises:
        FormatError: the store is damaged.
    """
    counts = np.zeros(len(SIZES), np.int64)
    for number in range(len(store)):
        record = store[number]
        counts += np.bincount(size_classes(rle.areas(record.rles, record.size)), minlength=len(SIZES))
        (progress or NoProgress()).advance()
    small, medium, large = (counts / len(store)).tolist()
    return small, medium, large


class Thresholds:
    """The score that a mask of each size must have: one for all, or dynamic.

    SOHES (arXiv 2404.12386) balances small, medium and large entities by dynamic thresholds but does not
    say how. Here (our choice) a threshold is the highest that leaves per image as many masks of its size as the
    labels have, in [``LOW``, ``HIGH``]. It follows from the scores of about the last ``MEMORY`` images, of which one
    histogram a size is kept; those of a step first count in the next step.

    Attributes:
        wanted: small, medium and large masks per image for dynamic thresholds, else None.
        fixed: what the scores of kept masks exceed otherwise.
        histogram: (3, STEPS) float64, faded counts of masks by score.
        images: faded number of images.
    """

    def __init__(self, wanted: Sequence[float] | None = None, fixed: float = FIXED) -> None:
        """
        Raises:
            InputError: not three numbers of 0 or more; ``fixed`` outside [0, 1).
        """
        if wanted is not None and (len(wanted) != len(SIZES) or not all(0 <= w < np.inf for w in wanted)):
            raise InputError(f"expected masks per image of three sizes, 0 or more; got {wanted}")
        if not 0 <= fixed < 1:
            raise InputError(f"expected a threshold in [0, 1); got {fixed}; {FIXED} is the published value")
        self.wanted, self.fixed = wanted, fixed
        self.histogram = torch.zeros(len(SIZES), STEPS, dtype=torch.float64)
        self.images = 0.0

    @property
    def least(self) -> float:
        """No mask with a lower score is ever kept."""
        return self.fixed if self.wanted is None else LOW

    @property
    def values(self) -> tuple[float, float, float]:
        """The thresholds of the next step."""
        if self.wanted is None:
            return self.fixed, self.fixed, self.fixed
        small, medium, large = (self._levels() / STEPS).tolist()
        return small, medium, large

    def keep(self, scores: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """(n,) bool for masks with these scores in [0, 1] and pixels of the photograph."""
        if self.wanted is None:
            return scores > self.fixed
        return _steps(scores) >= self._levels()[size_classes(areas)]

    def count(self, scores: np.ndarray, areas: np.ndarray) -> Tensor:
        """(3, STEPS) float64: what ``update`` wants of the masks of some images; counts may be added."""
        places = size_classes(areas) * STEPS + _steps(scores)
        counts = np.bincount(places, minlength=len(SIZES) * STEPS)
        return torch.from_numpy(counts.reshape(len(SIZES), STEPS).astype(np.float64))

    def update(self, counts: Tensor, images: float) -> None:
        """Let the masks of a whole step, of all processes, count in the steps after it."""
        fade = (1 - 1 / MEMORY) ** images
        self.histogram = self.histogram * fade + counts
        self.images = self.images * fade + images

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"histogram": self.histogram.clone(), "images": self.images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            FormatError: something else.
        """
        histogram, images = state.get("histogram"), state.get("images")
        if (
            not isinstance(histogram, Tensor)
            or histogram.shape != self.histogram.shape
            or not isinstance(images, float)
        ):
            raise FormatError("expected the state of dynamic thresholds; got something else; begin the run anew")
        self.histogram, self.images = histogram.to("cpu", torch.float64, copy=True), images

    def _levels(self) -> np.ndarray:
        """(3,) int64 thresholds in steps."""
        if self.images == 0:
            return np.full(len(SIZES), round(START * STEPS))
        at_least = np.cumsum(self.histogram.numpy()[:, ::-1], axis=1)[:, ::-1]  # masks with at least that score
        # Less a little: sums of the same numbers in another order must not move a threshold.
        enough = at_least >= np.array(self.wanted)[:, None] * self.images * (1 - 1e-9)
        highest = STEPS - 1 - enough[:, ::-1].argmax(axis=1)
        return np.where(enough.any(axis=1), highest, 0).clip(round(LOW * STEPS), round(HIGH * STEPS))


class CollapseMonitor:
    """Ends a run whose teacher finds nothing any more, or all of the picture as one mask.

    An image is blind if no mask is kept of it, or a single one that is all of it. The means over a window of steps
    decide, the same in all processes.

    Attributes:
        window: steps (100 is our choice).
        origin: what can be gone back to, for the message.
    """

    def __init__(self, window: int = 100, origin: str = "the run it began from") -> None:
        """
        Raises:
            InputError: no window.
        """
        if window < 1:
            raise InputError(f"expected a window of at least 1 step; got {window}")
        self.window, self.origin = window, origin
        self._seen = torch.zeros(window, 3, dtype=torch.float64)  # images, kept masks, blind images of the last steps
        self._steps, self._first, self._warned = 0, 0.0, False
        self._news: str | None = None

    def note(self, images: float, kept: float, blind: float) -> None:
        """Numbers of a whole step: images, masks kept of them, and blind images.

        Raises:
            TrainingError: after a full window, less than ``LEAST`` masks per image, or at least ``MOST_BLIND`` of the
                images blind.
        """
        self._seen[self._steps % self.window] = torch.tensor([images, kept, blind], dtype=torch.float64)
        self._steps += 1
        if self._steps < self.window:
            return
        total, masks, closed = self._seen.sum(0).tolist()
        mean, share = masks / total, closed / total
        if self._steps == self.window:
            self._first = mean
        if mean < LEAST or share >= MOST_BLIND:
            raise TrainingError(self._lost(mean, share))
        if mean < self._first / 2 and not self._warned:
            self._warned = True
            self._news = (
                f"the teacher finds fewer and fewer masks: {mean:.1f} per image now, {self._first:.1f} at first; it "
                "may be going blind"
            )

    def news(self) -> str | None:
        """A warning for the one who watches, told once: kept masks have halved since the first window. Else None."""
        told, self._news = self._news, None
        return told

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"seen": self._seen.clone(), "steps": self._steps, "first": self._first, "warned": self._warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            FormatError: something else, or of another window.
        """
        seen = state.get("seen")
        if (
            not isinstance(seen, Tensor)
            or seen.shape != self._seen.shape
            or not {"steps", "first", "warned"} <= set(state)
        ):
            raise FormatError(
                f"expected the state of a watch over {self.window} steps; got another; begin the run anew"
            )
        self._seen = seen.to("cpu", torch.float64, copy=True)
        self._steps, self._first, self._warned = state["steps"], state["first"], state["warned"]

    def _lost(self, mean: float, share: float) -> str:
        if mean < LEAST:
            got = f"{mean:.2g} per image"
        else:
            got = f"none, or one mask of the whole picture, in {share:.0%} of the images"
        return (
            f"expected masks from the teacher; got {got} over {self.window} steps, up to step {self._steps} with a "
            f"teacher: it has gone blind. Ways out, in a new folder: a lower threshold, a smaller weight of the "
            f"teacher's masks, a slower average, more steps before the teacher begins; go back to {self.origin}"
        )


def _steps(scores: np.ndarray) -> np.ndarray:
    """(n,) int64: scores in steps, rounded down."""
    return np.minimum((scores.astype(np.float64) * STEPS).astype(np.int64), STEPS - 1)
