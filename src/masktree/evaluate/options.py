"""The options of an evaluation, each in one place: for the command line and for functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from masktree.evaluate.datasets import DATASETS

ProtocolName = Literal["ar", "points", "bsds", "hierarchy", "consistency"]
IouType = Literal["masks", "boxes"]
if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[("auto", *DATASETS)]


@dataclass(frozen=True)
class EvaluationOptions:
    """How predictions are evaluated.

    Attributes:
        dataset: Reader of the ground truth. auto: json for a file, bsds500 for its folder; the others read the original
            downloads of benchmarks.
        split: Split of the data set; if not given, the one that papers report (bsds500: the only one in the folder).
        iou_type: What the protocol ar compares.
        boundaries: Whether bsds scores boundary F, which takes most of its time.
        only: Text file with the names of the images to evaluate, one a line; ground truth and predictions are
            restricted to them.
        images: Folder of the photographs, for consistency and for the pictures of a report; guessed if not given.
        allow_empty: Count images without predictions as images without detections, instead of refusing them.
        check_counts: Whether to refuse a benchmark whose numbers of images and annotations differ from those
            published.
    """

    dataset: DatasetName = "auto"
    split: str | None = None
    iou_type: IouType = "masks"
    boundaries: bool = True
    only: Path | None = None
    images: Path | None = None
    allow_empty: bool = False
    check_counts: bool = True
