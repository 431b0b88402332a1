"""Method options for a wanted number of labels per image (SOHES, arXiv 2404.12386, appendix D), without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from masktree.coco.annotations import MAX_MASKS
from masktree.discover.methods import METHODS
from masktree.errors import ImageError, InputError
from masktree.io.images import read_image
from masktree.io.photos import Photo
from masktree.predict import DiscoverySegmenter, ModelSegmenter, Segmenter

SAMPLE = 24  # images to count labels on (our choice: a standard error of about a tenth of the spread over images)
_ROUNDS = 6  # halvings of the interval of shifts: the thresholds are then known to 0.015


def choose_options(
    photos: Sequence[Photo], segmenter: DiscoverySegmenter | ModelSegmenter, wanted: float
) -> dict[str, Any]:
    """Keyword options of the segmenter's method that give about ``wanted`` masks per image on average.

    hassod, sohes, unsam: the published thresholds, all moved by one shift found by bisection on a sample.
    masktree, and a trained model: the least score of a mask, read off the sorted scores of the sample in one pass.

    Raises:
        InputError: ``wanted`` is not positive, or cannot be reached; the message gives the range that can.
    """
    if not 0 < wanted < np.inf:
        raise InputError(f"expected a positive, finite number of labels per image; got {wanted}")
    sample = _sample_images(photos)
    if isinstance(segmenter, ModelSegmenter):
        least = _least_score(sample, dataclasses.replace(segmenter, min_score=0.0), wanted)
        looks = {"crops": segmenter.crops, "snap": segmenter.snap_backbone is not None}
        return {"min_score": least} | {name: True for name, given in looks.items() if given}
    if segmenter.method == "masktree":
        everything = dataclasses.replace(segmenter, options=segmenter.options | {"max_masks": MAX_MASKS})
        least = _least_score(sample, everything, wanted)
        return segmenter.options | {"min_score": least, "max_masks": MAX_MASKS}
    published = METHODS[segmenter.method].options()["thresholds"]

    def count(shift: float) -> float:
        options = segmenter.options | {"thresholds": tuple(t + shift for t in published)}
        shifted = dataclasses.replace(segmenter, options=options)
        return float(np.mean([len(shifted(image)) for image in sample]))

    lowest, highest = -0.5, 0.95 - max(published)  # higher thresholds stop merging earlier and leave more regions
    low, high = lowest, highest
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if count(middle) < wanted:
            low = middle
        else:
            high = middle
    # An end that was never moved was never tried; trying both first would cost the two dearest counts every time.
    if (low == lowest and count(low) > wanted) or (high == highest and count(high) < wanted):
        raise InputError(
            f"expected between {count(lowest):.1f} and {count(highest):.1f} labels per image, which "
            f"{segmenter.method} with {segmenter.backbone.name} features can give here; got {wanted:g}"
        )
    shift = (low + high) / 2
    return segmenter.options | {"thresholds": tuple(round(t + shift, 4) for t in published)}


def _least_score(sample: Sequence[np.ndarray], everything: Segmenter, wanted: float) -> float:
    """The score that leaves ``wanted`` masks per image of all that ``everything`` gives."""
    scores = np.sort(np.concatenate([everything(image).scores for image in sample]))[::-1]
    index = round(wanted * len(sample)) - 1
    if index >= len(scores):
        raise InputError(
            f"expected at most {len(scores) / len(sample):.1f} labels per image, all that is found here; "
            f"got {wanted:g}; lower min_area"
        )
    return float(scores[max(index, 0)])


def _sample_images(photos: Sequence[Photo]) -> list[np.ndarray]:
    """Images spread evenly over the collection; unreadable ones are passed over here and reported by the run."""
    images = []
    for index in np.unique(np.linspace(0, len(photos) - 1, min(SAMPLE, len(photos))).astype(int)):
        try:
            images.append(read_image(photos[index].path))
        except ImageError:
            continue
    if not images:
        raise InputError("expected at least one readable image to count labels on; got none")
    return images
