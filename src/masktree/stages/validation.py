"""What a run is measured by while it is trained: the recall of the masks of pseudo-labels in images held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.recall import score_image, summarise
from masktree.train.label_store import ImageLabels
from masktree.train.validation import Validation
from masktree.trees.masktree import MaskTree


@dataclass(frozen=True)
class PseudoLabelRecall:
    """Average recall at 1000 masks (``masktree.evaluate.recall``), with pseudo-labels in place of annotations."""

    name: str = "ar1000"

    def score(self, labels: ImageLabels, tree: MaskTree, number: int) -> Any:
        """See ``Measure``."""
        wanted = ImageGroundTruth.from_masks(number + 1, labels.name, labels.size, labels.rles)
        return score_image(wanted, ImageDetections.from_tree(tree))

    def summarise(self, scores: Sequence[Any]) -> float:
        """See ``Measure``."""
        return float(summarise(scores)[self.name] or 0.0)


def read_validation(val: str, every: int) -> Validation:
    """Validation on a label set, or on a share of the run's own images where ``val`` is a number.

    Raises:
        InputError: a number out of range.
    """
    try:
        share = float(val)
    except ValueError:
        return Validation(measure=PseudoLabelRecall(), labels=Path(val), every=every)
    if not 0 < share < 1:
        raise InputError(f"expected after --val a label set, or a share of the images such as 0.05; got {val}")
    return Validation(measure=PseudoLabelRecall(), share=share, every=every)
