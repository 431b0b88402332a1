"""One image to be scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.predictions import ImagePrediction


@dataclass(frozen=True)
class EvaluationCase:
    """One image to be scored. Picklable: predictions are read where the image is scored.

    Attributes:
        name: of the image, as in the ground truth.
        prediction: what was predicted.
        ground_truth: None for the protocol consistency.
        photo: the image file, where it is known.
        segmentations: BSDS500 file of the human segmentations, for the protocol bsds.
        header: image record of the tree file, for the protocol consistency.
    """

    name: str
    prediction: ImagePrediction
    ground_truth: ImageGroundTruth | None = None
    photo: Path | None = None
    segmentations: Path | None = None
    header: dict[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if self.ground_truth is not None:
            return self.ground_truth.size
        if self.header is not None:
            return self.header["height"], self.header["width"]
        raise InputError(f"{self.name}: expected ground truth or the header of a tree; got neither")

    def annotated(self) -> ImageGroundTruth:
        """The ground truth; raises InputError where there is none."""
        if self.ground_truth is None:
            raise InputError(f"{self.name}: expected ground truth; got none; choose the protocol consistency")
        return self.ground_truth
