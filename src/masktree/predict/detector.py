"""A trained model as the divide step of UnSAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from masktree.errors import InputError
from masktree.predict.model import ModelSegmenter
from masktree.types import RGB, Masks


@dataclass(frozen=True)
class ModelDetector:
    """Callable from an image to (n, H, W) bool masks of the objects that a model finds.

    Attributes:
        segmenter: the model.
        min_score: lowest score of a mask, one of the model's own.

    Raises:
        InputError: the model is not known to be trained without human labels, as the labels made with it would not be.
    """

    segmenter: ModelSegmenter
    min_score: float = 0.3

    def __post_init__(self) -> None:
        if self.segmenter.provenance.label_free is not True:
            raise InputError(
                "expected a detector that was trained without human labels, as its record says; got "
                f"{self.segmenter.provenance.source}, of which that is not known; segment with it by --model instead"
            )

    def __call__(self, image: RGB) -> Masks:
        tree = self.segmenter(image)
        masks = [tree.mask(i) for i in np.flatnonzero(tree.scores >= self.min_score).tolist()]
        return np.array(masks, np.bool_).reshape(len(masks), image.shape[0], image.shape[1])
