"""Score thresholds of the teacher's masks, by mask size.

Sizes are those of COCO: small below 32^2 pixels of the image, large from 96^2, else medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masktree.coco.areas import MEDIUM_AREA, SMALL_AREA
from masktree.errors import FormatError, InputError
from masktree.jobs.progress import NoProgress, Progress
from masktree.train.label_store import LabelStore
from masktree.trees import rle

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (SMALL_AREA, MEDIUM_AREA)  # areas at which the next size begins
FIXED_THRESHOLD = 0.7  # of HASSOD's teacher, exclusive (arXiv 2402.03311, code)
MIN_THRESHOLD, MAX_THRESHOLD, INITIAL_THRESHOLD = 0.3, 0.9, 0.5  # of dynamic thresholds (our choice)
NUM_BINS = 1000  # dynamic thresholds are multiples of 1 / NUM_BINS (our choice)
MEMORY_IMAGES = 1000  # time constant of dynamic thresholds (our choice: about a hundred steps)


def size_classes(areas: np.ndarray) -> np.ndarray:
    """(n,) index in ``SIZES`` of masks with these areas in pixels of the image."""
    return np.searchsorted(_SIZE_LIMITS, areas, side="right")


def labels_per_image(store: LabelStore, *, progress: Progress | None = None) -> tuple[float, float, float]:
    """Mean number of small, medium and large masks per image of a label set, images without masks included.

    Reads all labels once: about 0.1 ms per image with 30 simple masks.

    Args:
        progress: advanced for each image.

    Raises:
        FormatError: the store is damaged.
    """
    counts = np.zeros(len(SIZES), np.int64)
    for index in range(len(store)):
        labels = store[index]
        counts += np.bincount(size_classes(rle.areas(labels.rles, labels.size)), minlength=len(SIZES))
        (progress or NoProgress()).advance()
    small, medium, large = (counts / len(store)).tolist()
    return small, medium, large


class PseudoLabelThresholds:
    """The score that a mask of each size needs to become a pseudo-label: fixed, or dynamic.

    SOHES (arXiv 2404.12386) balances small, medium and large entities by dynamic thresholds without saying how. Here
    (our choice) a threshold is the highest, in [``MIN_THRESHOLD``, ``MAX_THRESHOLD``], that keeps as many masks of its
    size per image as the labels have. It follows from exponentially decaying histograms of the scores of about the last
    ``MEMORY_IMAGES`` images; the masks of a step affect later steps only.

    Attributes:
        target_counts: small, medium and large masks per image for dynamic thresholds; None for a fixed one.
        fixed: threshold for all sizes, exclusive.
        histogram: (3, NUM_BINS) float64, decayed counts of masks by size and score.
        images: decayed number of images.
    """

    def __init__(self, target_counts: Sequence[float] | None = None, fixed: float = FIXED_THRESHOLD) -> None:
        """
        Raises:
            InputError: not three numbers of 0 or more; ``fixed`` outside [0, 1).
        """
        if target_counts is not None and (
            len(target_counts) != len(SIZES) or not all(0 <= count < np.inf for count in target_counts)
        ):
            raise InputError(f"expected masks per image of three sizes, 0 or more; got {target_counts}")
        if not 0 <= fixed < 1:
            raise InputError(f"expected a threshold in [0, 1); got {fixed}; {FIXED_THRESHOLD} is the published value")
        self.target_counts, self.fixed = target_counts, fixed
        self.histogram = torch.zeros(len(SIZES), NUM_BINS, dtype=torch.float64)
        self.images = 0.0

    @property
    def lower_bound(self) -> float:
        """No mask with a lower score is ever kept."""
        return self.fixed if self.target_counts is None else MIN_THRESHOLD

    @property
    def values(self) -> tuple[float, float, float]:
        """Thresholds of the next step."""
        if self.target_counts is None:
            return self.fixed, self.fixed, self.fixed
        small, medium, large = (self._bins() / NUM_BINS).tolist()
        return small, medium, large

    def keep(self, scores: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """(n,) bool for masks with scores in [0, 1] and areas in pixels of the image."""
        kept: np.ndarray = (
            scores > self.fixed
            if self.target_counts is None
            else _score_bins(scores) >= self._bins()[size_classes(areas)]
        )
        return kept

    def count(self, scores: np.ndarray, areas: np.ndarray) -> Tensor:
        """(3, NUM_BINS) float64 histogram of masks, for ``update``; histograms may be added."""
        indices = size_classes(areas) * NUM_BINS + _score_bins(scores)
        counts = np.bincount(indices, minlength=len(SIZES) * NUM_BINS)
        return torch.from_numpy(counts.reshape(len(SIZES), NUM_BINS).astype(np.float64))

    def update(self, counts: Tensor, images: float) -> None:
        """Add the masks of a step, of all processes."""
        decay = (1 - 1 / MEMORY_IMAGES) ** images
        self.histogram = self.histogram * decay + counts
        self.images = self.images * decay + images

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"histogram": self.histogram.clone(), "images": self.images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            FormatError: something else.
        """
        histogram, images = state.get("histogram"), state.get("images")
        if (
            not isinstance(histogram, Tensor)
            or histogram.shape != self.histogram.shape
            or not isinstance(images, float)
        ):
            raise FormatError("expected the state of dynamic thresholds; got another; restart the run with --overwrite")
        self.histogram, self.images = histogram.to("cpu", torch.float64, copy=True), images

    def _bins(self) -> np.ndarray:
        """(3,) int64 thresholds as histogram bins."""
        if self.images == 0:
            return np.full(len(SIZES), round(INITIAL_THRESHOLD * NUM_BINS))
        at_least = np.cumsum(self.histogram.numpy()[:, ::-1], axis=1)[:, ::-1]  # masks with at least that score
        # A small tolerance: sums of the same numbers in another order must not move a threshold.
        is_enough = at_least >= np.array(self.target_counts)[:, None] * self.images * (1 - 1e-9)
        highest = NUM_BINS - 1 - is_enough[:, ::-1].argmax(axis=1)
        limits = round(MIN_THRESHOLD * NUM_BINS), round(MAX_THRESHOLD * NUM_BINS)
        return np.where(is_enough.any(axis=1), highest, 0).clip(*limits)


def _score_bins(scores: np.ndarray) -> np.ndarray:
    """(n,) int64 histogram bins of scores in [0, 1]."""
    return np.minimum((scores.astype(np.float64) * NUM_BINS).astype(np.int64), NUM_BINS - 1)
