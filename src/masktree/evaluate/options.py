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
        dataset: Layout of the ground truth; auto takes a file for json and a folder for bsds500. The others are
            downloads of benchmarks.
        split: Split of the data set. Default: the one that papers report, or the only one in the folder.
        iou_type: What the protocol ar compares.
        boundaries: Score the boundary F of bsds, which takes most of its time.
        only: Evaluate only the images that this text file names, one a line.
        images: Folder of the photographs, for consistency and for pictures. Default: where they were segmented.
        allow_empty: Count an image without predictions as one in which nothing was found.
        check_counts: Refuse a benchmark whose numbers of images and annotations are not those published.
    """

    dataset: DatasetName = "auto"
    split: str | None = None
    iou_type: IouType = "masks"
    boundaries: bool = True
    only: Path | None = None
    images: Path | None = None
    allow_empty: bool = False
    check_counts: bool = True
