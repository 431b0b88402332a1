"""Agreement of a segmenter's masks over views of an image, without ground truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from masktree.evaluate.views import VIEWS, view_agreement
from masktree.trees.masktree import MaskTree
from masktree.types import RGB


def measure_agreement(
    image: RGB, segment: Callable[[RGB], MaskTree], *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the masks of an image and their agreement: the mean over the views of the best IoU found there.

    Four segmentations. Masks of which less than half is visible in a view are compared in the others.

    Args:
        image: (H, W, 3) uint8 RGB.
        segment: from an image to its tree.
        seed: of the position of the crop and of the noise.

    Returns:
        (n,) float64 scores as ``segment`` gives them, and (n,) float64 agreements in [0, 1].
    """
    tree = segment(image)
    agreements = []
    for number, make_view in enumerate(VIEWS.values()):
        view = make_view(image, np.random.default_rng([seed, number]))
        agreements.append(view_agreement(tree, view, segment(view.image)))
    return tree.scores.astype(np.float64), np.nanmean(np.stack(agreements), axis=0)  # the mirror image shows all masks
