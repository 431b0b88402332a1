"""Method options for a target number of labels per image, without ground truth (SOHES, 2404.12386, appendix D)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from masktree.coco.annotations import MAX_MASKS
from masktree.discover.methods import METHODS
from masktree.errors import ImageError, InputError
from masktree.io.images import decode_image
from masktree.io.photos import Photo
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.jobs.progress import NoProgress, Progress, progress_bar
from masktree.predict import DiscoverySegmenter, ModelSegmenter, Segmenter
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

SAMPLE_IMAGES = 24  # to count labels on (our choice: standard error of a fifth of the standard deviation over images)
_DESCRIPTION = "count labels"
_BISECTION_STEPS = 6  # resolve the thresholds to 0.015


def choose_options(
    photos: Sequence[Photo],
    segmenter: DiscoverySegmenter | ModelSegmenter,
    average_labels: float,
    *,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Keyword options of the segmenter that give about ``average_labels`` masks per image on average.

    Methods with thresholds (hassod, sohes, unsam): the published ones plus one shift, found by bisection on a sample.
    masktree and trained models: the minimum score, from the sorted scores of the sample in one pass.

    Raises:
        InputError: ``average_labels`` is not positive or out of reach; the message gives the possible range.
    """
    if not 0 < average_labels < np.inf:
        raise InputError(f"expected a positive, finite number of labels per image; got {average_labels}")
    sample = _sample_images(photos, read_options)
    segmenter = dataclasses.replace(segmenter, min_score=0.0, max_masks=MAX_MASKS)
    if isinstance(segmenter, ModelSegmenter):
        min_score = _min_score(sample, segmenter, average_labels, show_progress)
        snap = segmenter.snap_backbone is not None and not segmenter.pool
        flags = {"crops": segmenter.crops, "snap": snap, "pool": segmenter.pool, "regroup": segmenter.regroup}
        return {"min_score": min_score, "max_masks": MAX_MASKS} | {name: True for name, given in flags.items() if given}
    if "thresholds" not in (defaults := METHODS[segmenter.method].options()):
        min_score = _min_score(sample, segmenter, average_labels, show_progress)
        return segmenter.options | {"min_score": min_score, "max_masks": MAX_MASKS}
    published = defaults["thresholds"]

    def count(shift: float, progress: Progress | None = None) -> float:
        options = segmenter.options | {"thresholds": tuple(t + shift for t in published)}
        shifted = dataclasses.replace(segmenter, options=options)
        return float(np.mean([len(tree) for tree in _trees(shifted, sample, progress or NoProgress())]))

    lowest, highest = -0.5, 0.95 - max(published)  # higher thresholds stop merging earlier: more regions
    low, high = lowest, highest
    with progress_bar(_DESCRIPTION, _BISECTION_STEPS * len(sample), 0, show=show_progress) as progress:
        for _ in range(_BISECTION_STEPS):
            middle = (low + high) / 2
            if count(middle, progress) < average_labels:
                low = middle
            else:
                high = middle
    # Check an end of the interval only if it never moved: checking both in advance costs the two slowest counts.
    if (low == lowest and count(low) > average_labels) or (high == highest and count(high) < average_labels):
        raise InputError(
            f"expected between {count(lowest):.1f} and {count(highest):.1f} labels per image, which "
            f"{segmenter.method} with {segmenter.backbone.name} features can give here; got {average_labels:g}"
        )
    shift = (low + high) / 2
    return segmenter.options | {"thresholds": tuple(round(t + shift, 4) for t in published)}


def _min_score(sample: Sequence[RGB], segmenter: Segmenter, average_labels: float, show_progress: bool) -> float:
    """The score above which the segmenter gives ``average_labels`` masks per image."""
    with progress_bar(_DESCRIPTION, len(sample), 0, show=show_progress) as progress:
        scores = np.sort(np.concatenate([tree.scores for tree in _trees(segmenter, sample, progress)]))[::-1]
    index = round(average_labels * len(sample)) - 1
    if index >= len(scores):
        raise InputError(
            f"expected at most {len(scores) / len(sample):.1f} labels per image, all that is found here; "
            f"got {average_labels:g}; lower min_area"
        )
    return float(scores[max(index, 0)])


def _trees(segmenter: Segmenter, sample: Sequence[RGB], progress: Progress) -> Iterator[MaskTree]:
    for image in sample:
        yield segmenter(image)
        progress.advance()


def _sample_images(photos: Sequence[Photo], read_options: ReadOptions) -> list[RGB]:
    """Images spread evenly over the collection; unreadable ones are skipped here and reported by the run."""
    images = []
    for index in np.unique(np.linspace(0, len(photos) - 1, min(SAMPLE_IMAGES, len(photos))).astype(int)):
        try:
            with photos[index].local() as path:
                images.append(decode_image(path, read_options).rgb)
        except ImageError:
            continue
    if not images:
        raise InputError("expected at least one readable image to count labels on; got none")
    return images
