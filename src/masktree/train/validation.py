"""Measuring a run while it is trained, on images that it does not learn from.

Only pseudo-labels are used. They choose which weights are called the best, and change nothing else in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from masktree.errors import ImageError, InputError
from masktree.jobs.progress import Progress
from masktree.models.trees import segment_images
from masktree.train.label_store import ImageLabels, LabelStore
from masktree.train.photo_dataset import RandomStream, read_labelled_image
from masktree.train.teacher import evaluating
from masktree.trees.masktree import MaskTree

if TYPE_CHECKING:
    from accelerate import Accelerator

TIMES = 20  # that a run is measured unless a number of steps is given (our choice)


class Measure(Protocol):
    """How well predicted trees agree with pseudo-labels. ``name``: of the measure, higher is better."""

    @property
    def name(self) -> str: ...

    def score(self, labels: ImageLabels, tree: MaskTree, number: int) -> Any:
        """What image ``number`` adds; it can be pickled."""
        ...

    def summarise(self, scores: Sequence[Any]) -> float:
        """The measure of all images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When a run is measured, and on what.

    Attributes:
        measure: what is measured.
        labels: label set of other images; None holds a share of the run's own out.
        share: fraction of the run's images with masks, at least one, that are held out of training.
        every: steps between; 0 measures 20 times. The last step is always measured.

    Raises:
        InputError: labels together with a share, neither of them, or a number out of range.
    """

    measure: Measure
    labels: Path | None = None
    share: float = 0.0
    every: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or (self.labels is None) == (self.share == 0):
            raise InputError(
                f"expected a label set to measure on, or a share of the images above 0 and below 1; got {self.share}"
            )
        if self.every < 0:
            raise InputError(f"expected steps between measurements of 0 or more; got {self.every}; 0 measures 20 times")

    def is_due(self, step: int, steps: int) -> bool:
        """Whether a run of ``steps`` is measured after ``step``, counted from 1."""
        return step == steps or step % (self.every or max(1, steps // TIMES)) == 0


def hold_out(indices: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and held-out ones, both ascending; the choice depends on the seed and their number alone."""
    count = max(1, round(share * len(indices))) if share else 0
    order = np.random.default_rng([seed, RandomStream.HELD_OUT]).permutation(len(indices))
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


@dataclass(frozen=True)
class HeldOutImages:
    """The images that a run is measured on.

    Attributes:
        validation: how.
        store, root: their labels, and their folder.
        indices: (n,) of the images in the store.
        skip_broken: leave out images that cannot be read, and report them; else they are an error.
    """

    validation: Validation
    store: LabelStore
    root: Path
    indices: np.ndarray
    skip_broken: bool

    def evaluate(self, model: nn.Module, accelerator: Accelerator, device: torch.device, bar: Progress) -> float:
        """The measure of a ``Model`` on ``device``; each process takes a share of the images.

        Raises:
            ImageError, InputError: an image cannot be read, or none can.
        """
        from accelerate.utils import gather_object

        measure, scores = self.validation.measure, []
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        with evaluating(model):
            for number in range(accelerator.process_index, len(self.indices), accelerator.num_processes):
                labels = self.store[int(self.indices[number])]
                try:
                    image = read_labelled_image(self.store, self.root, labels)
                except (ImageError, InputError) as error:
                    if not self.skip_broken:
                        raise
                    bar.fail(labels.name, str(error), counted=False)
                    continue
                # a Model, which nn.Module hides
                [tree] = segment_images(model, [image], device=device, dtype=dtype)  # type: ignore[arg-type]
                scores.append(measure.score(labels, tree, number))
        gathered = gather_object(scores)
        if not gathered:
            raise ImageError(f"expected readable images to measure on; got {len(self.indices)} broken ones")
        return measure.summarise(gathered)
