"""Consistency protocol, without ground truth: are the masks found again when the image is changed a little?

Each image is segmented again as its mirror image, as a crop and with noise. The masks of the image are transformed into
the view exactly, and each is compared with the masks found there: its stability is the best IoU. Boundary contrast and
the statistics of the tree (``masktree.evaluate.structure``) are reported beside it.

None of these says that a mask is an object: a method that always cuts an image into quarters is perfectly stable under
flips. Which of them correlate with average recall is measured in ``benchmarks/selfscores.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from masktree.errors import InputError
from masktree.evaluate import structure
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.contrast import boundary_contrasts
from masktree.evaluate.image_stats import ImageStats, Metrics, column_arrays, ratio
from masktree.evaluate.protocol import EvaluationProtocol, ScoringContext
from masktree.evaluate.recall import IOU_THRESHOLDS, count_thresholds
from masktree.evaluate.views import VIEWS, view_agreement
from masktree.io.files import sha256_of
from masktree.io.images import read_image
from masktree.trees.masktree import MaskTree
from masktree.types import RGB


def score_image(
    image: RGB,
    segment: Callable[[RGB], MaskTree],
    tree: MaskTree | None = None,
    *,
    seed: int = 0,
    views: Sequence[str] = tuple(VIEWS),
) -> ImageStats:
    """What one image adds. Time: one segmentation for each view, and one for the image unless ``tree`` is given.

    Args:
        image: (H, W, 3) uint8 RGB.
        segment: from an image to its tree, of the same size, such as a ``masktree.DiscoverySegmenter``.
        tree: what ``segment`` gives for ``image``, if it is known.
        seed: of the position of the crop and of the noise; each view has random numbers of its own.
        views: of flip, crop and noise; stability is undefined without any.

    Returns:
        The counts of :func:`masktree.evaluate.structure.score_image`; contrast: sum of the boundary contrasts of
        contrast_masks masks; and for each view flip_masks: masks of the image with half their area or more in the
        view, flip_iou: sum of their best IoUs with a mask found there, flip_thresholds: sum of how many of COCO's ten
        thresholds these reach.

    Raises:
        InputError: an unknown view, or a tree of another size than its image.
    """
    unknown = [name for name in views if name not in VIEWS]
    if unknown:
        raise InputError(f"expected views of {', '.join(VIEWS)}; got {unknown[0]!r}")
    tree = _check_size(image, segment(image) if tree is None else tree)
    contrasts = boundary_contrasts(image, tree)
    stats = structure.score_image(tree)
    stats["contrast"] = float(np.nansum(contrasts))
    stats["contrast_masks"] = int(np.isfinite(contrasts).sum())
    for number, (name, make_view) in enumerate(VIEWS.items()):
        if name not in views:
            continue
        view = make_view(image, np.random.default_rng([seed, number]))
        view_tree = _check_size(view.image, segment(view.image))
        best = view_agreement(tree, view, view_tree)
        best = best[np.isfinite(best)]
        stats[f"{name}_masks"] = len(best)
        stats[f"{name}_iou"] = float(best.sum())
        stats[f"{name}_thresholds"] = int(count_thresholds(best).sum())
    return stats


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Metrics of a set of images; a view counts if all images have it.

    Returns:
        stability_flip, stability_crop, stability_noise: mean over all masks of the best IoU with a mask of the view,
        in [0, 1]; stability: their mean. None without masks or without the view.
        stability_per_image: as stability, with the mean over the masks of an image first and then over the images
        that have masks, so that an image of many masks counts no more than others.
        stable_masks: masks per image times the mean share of the thresholds .50:.05:.95 that a mask's best IoU
        reaches, mean over the views. None without masks or views.
        boundary_contrast: mean over all masks that have one, in [0, 1], see ``masktree.evaluate.contrast``.
        And the metrics of :func:`masktree.evaluate.structure.summarise`.

    Raises:
        InputError: no image.
    """
    contrast, contrast_masks = column_arrays(stats, ("contrast", "contrast_masks")).sum(0)
    by_view: Metrics = {}
    by_image: list[np.ndarray] = []
    shares: list[float] = []
    for name in VIEWS:
        by_view[name] = None
        columns = (f"{name}_masks", f"{name}_iou", f"{name}_thresholds")
        if not all(columns[0] in s for s in stats):
            continue
        masks, iou, thresholds = column_arrays(stats, columns).T
        by_view[name] = ratio(iou.sum(), masks.sum())
        by_image.append(np.divide(iou, masks, out=np.full(len(iou), np.nan), where=masks > 0))
        if masks.any():
            shares.append(thresholds.sum() / masks.sum() / len(IOU_THRESHOLDS))
    known = [value for value in by_view.values() if value is not None]
    images = np.concatenate(by_image) if by_image else np.zeros(0)
    images = images[np.isfinite(images)]
    return {
        "stability": ratio(sum(known), len(known)),
        **{f"stability_{name}": value for name, value in by_view.items()},
        "stability_per_image": ratio(images.sum(), len(images)),
        "stable_masks": float(column_arrays(stats, ("masks",)).mean() * np.mean(shares)) if shares else None,
        "boundary_contrast": ratio(contrast, contrast_masks),
        **structure.summarise(stats),
    }


def _score_case(case: EvaluationCase, context: ScoringContext) -> ImageStats:
    if case.photo is None or case.header is None:
        raise InputError(f"{case.name}: expected a photograph and the header of its tree; got none")
    recorded = case.header.get("sha256")
    if recorded is not None and sha256_of(case.photo) != recorded:
        raise InputError(f"{case.photo}: expected the photograph that was segmented; got a changed one; segment again")
    config = context.config

    def segment(image: RGB) -> MaskTree:
        config.seed_generators()  # as the run did before each image
        return context.segmenter(image)

    tree = case.prediction.tree(case.size, nested=False)
    seed = zlib.crc32(case.name.encode("utf-8", "surrogateescape"))  # each image has a crop and noise of its own
    return score_image(read_image(case.photo), segment, tree, seed=seed)


PROTOCOL = EvaluationProtocol(
    title="Consistency, without ground truth",
    main_metric="stability",
    headline_metrics=(
        "stability",
        "stability_flip",
        "stability_crop",
        "stability_noise",
        "coverage",
        "boundary_contrast",
    ),
    score=_score_case,
    summarise=summarise,
)


def _check_size(image: RGB, tree: MaskTree) -> MaskTree:
    if tree.size != image.shape[:2]:
        raise InputError(
            f"expected a tree of the image's {image.shape[0]} x {image.shape[1]} pixels; got "
            f"{tree.size[0]} x {tree.size[1]}; the segmenter must give masks at the size of its image"
        )
    return tree
