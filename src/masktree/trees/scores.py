"""The scale of scores: the agreement to expect of a mask when its image is segmented again in another view.

A method ranks its masks by some number of its own: a persistence, an IoU with a refined version, a probability. A
segmenter maps it to the expected agreement: the mean IoU of a mask with the best mask that the same segmenter finds in
a mirrored, a cropped and a noisy view of the image (``masktree.evaluate.views``). It is measured on photographs without
any label, keeps the order of the masks, and means the same for every method and model: of masks with score 0.8, the
borders move by as much as an IoU of 0.8 allows when the image changes a little. It does not say that a mask is an
object.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression

from masktree.arguments import check_number
from masktree.errors import InputError, MasktreeWarning

if TYPE_CHECKING:
    from masktree.trees.masktree import MaskTree

# Masks are grouped at these quantiles of their raw scores (our choice: 7 % each, and fewer in the long upper tail)
_QUANTILES = (*np.linspace(0, 0.91, 14), 0.95, 0.98, 0.99, 0.997, 1.0)
_MIN_GROUP = 40  # masks (our choice: their mean agreement then has a standard error of about .04)
_MIN_STEP = 1e-3  # of agreement between knots: order is kept, also in files with five decimals


@dataclass(frozen=True)
class ScoreCalibration:
    """Strictly increasing, piecewise linear map from raw scores to expected agreement, both in [0, 1].

    Attributes:
        raw: ascending raw scores, from 0 to 1.
        agreement: ascending agreements at these.

    Raises:
        InputError: fewer than two knots, or values that do not increase or leave [0, 1].
    """

    raw: tuple[float, ...]
    agreement: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, knots in (("raw", self.raw), ("agreement", self.agreement)):
            if len(knots) < 2 or not all(0 <= a < b <= 1 for a, b in pairwise(knots)):
                raise InputError(f"expected {name} as two or more increasing numbers in [0, 1]; got {list(knots)}")
        if len(self.raw) != len(self.agreement) or self.raw[0] != 0 or self.raw[-1] != 1:
            raise InputError(f"expected as many raw scores, from 0 to 1, as agreements; got {list(self.raw)}")

    @classmethod
    def fit(cls, raw: np.ndarray, agreement: np.ndarray) -> ScoreCalibration:
        """Isotonic regression of the mean agreement of masks of similar scores.

        Args:
            raw: (n,) raw scores in [0, 1].
            agreement: (n,) measured agreements in [0, 1].

        Raises:
            InputError: no masks.
        """
        if len(raw) == 0:
            raise InputError("expected masks to calibrate scores with; got none; take more or other photographs")
        order = np.argsort(raw, kind="stable")
        groups = np.split(order, _group_bounds(len(raw)))
        means = np.array([raw[group].mean() for group in groups], np.float64)
        x, merged = np.unique(np.round(means, 6), return_inverse=True)
        weights = np.bincount(merged, [len(group) for group in groups])
        y = np.bincount(merged, [agreement[group].sum() for group in groups]) / weights
        y = isotonic_regression(y, weights=weights).x
        is_inside = (x > 0) & (x < 1)
        x = np.concatenate([[0.0], x[is_inside], [1.0]])
        y = np.concatenate([y[:1], y[is_inside], y[-1:]])
        return cls(tuple(x.tolist()), tuple(_make_increasing(y).tolist()))

    def __call__(self, tree: MaskTree) -> MaskTree:
        """The tree with calibrated scores."""
        return replace(tree, scores=np.interp(tree.scores, self.raw, self.agreement).astype(np.float32))


def _group_bounds(count: int) -> list[int]:
    """Where sorted masks are divided: at ``_QUANTILES``, with at least ``_MIN_GROUP`` masks in each group."""
    bounds: list[int] = []
    for bound in np.rint(np.multiply(_QUANTILES, count)).astype(int).tolist():
        if bound - (bounds[-1] if bounds else 0) >= _MIN_GROUP and count - bound >= _MIN_GROUP:
            bounds.append(bound)
    return bounds


def _make_increasing(values: np.ndarray) -> np.ndarray:
    """Non-decreasing values in [0, 1], moved as little as makes successive ones differ by ``_MIN_STEP``."""
    steps = _MIN_STEP * np.arange(len(values))
    increasing = np.maximum.accumulate(values - steps) + steps
    return np.round(np.minimum(increasing, 1 - steps[::-1]), 4)


def check_limits(min_score: float, max_masks: int | None) -> None:
    """Raise InputError unless ``min_score`` is in [0, 1] and ``max_masks`` a whole number of at least 1, or None."""
    check_number(min_score, "min_score", 0, 1)
    if max_masks is not None and (not isinstance(max_masks, (int, np.integer)) or max_masks < 1):
        raise InputError(f"expected max_masks as a whole number of at least 1, or None for all; got {max_masks!r}")


def limit_masks(tree: MaskTree, *, min_score: float, max_masks: int | None) -> MaskTree:
    """The masks of at least ``min_score``, and of these the ``max_masks`` best; None for all.

    ``omitted`` of the result counts the masks that ``max_masks`` has left out. If all scores are lower than
    ``min_score``, a ``MasktreeWarning`` tells the highest one.
    """
    keep = tree.scores >= min_score
    # Masks that were left out before have lower scores than all that are there.
    omitted = tree.omitted if keep.all() else 0
    if max_masks is not None and keep.sum() > max_masks:
        candidates = np.flatnonzero(keep)
        worst = candidates[np.argsort(-tree.scores[candidates], kind="stable")[max_masks:]]
        keep[worst] = False
        omitted += len(worst)
    if len(tree) and not keep.any():
        warnings.warn(
            f"no mask has a score of {min_score:g} or more; the highest of {len(tree)} is {tree.scores.max():.3f}",
            MasktreeWarning,
            stacklevel=3,
        )
    return tree if keep.all() else replace(tree[keep], omitted=omitted)
