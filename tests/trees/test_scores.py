from __future__ import annotations

import warnings

import numpy as np
import pytest

from masktree.discover.methods import METHODS
from masktree.errors import InputError, MasktreeWarning
from masktree.trees.masktree import MaskTree
from masktree.trees.scores import ScoreCalibration, limit_masks


def tree_of(scores: np.ndarray) -> MaskTree:
    """Disjoint columns with these scores."""
    masks = np.eye(len(scores), dtype=bool)[:, None, :].repeat(2, axis=1)
    return MaskTree.from_masks(masks, scores=np.asarray(scores, np.float32))


@pytest.mark.parametrize("name", METHODS)
def test_calibrations_of_the_methods_keep_the_order_and_the_range(name, rng):
    scores = np.sort(rng.random(200).astype(np.float32))
    calibrated = METHODS[name].calibration(tree_of(scores)).scores
    assert calibrated.min() >= 0
    assert calibrated.max() <= 1
    assert (np.diff(calibrated) >= 0).all()
    assert len(np.unique(calibrated)) > 0.95 * len(np.unique(scores))


def test_a_fit_finds_the_planted_agreement(rng):
    raw = rng.random(4000)
    agreement = np.clip(0.3 + 0.6 * np.sqrt(raw) + rng.normal(0, 0.05, 4000), 0, 1)
    fitted = ScoreCalibration.fit(raw, agreement)
    inner = np.linspace(0.05, 0.95, 50)
    np.testing.assert_allclose(np.interp(inner, fitted.raw, fitted.agreement), 0.3 + 0.6 * np.sqrt(inner), atol=0.03)


@pytest.mark.parametrize(
    ("raw", "agreement"),
    [
        (np.array([0.5]), np.array([0.7])),
        (np.array([0.0, 1.0]), np.array([1.0, 0.0])),
        (np.full(100, 0.25), np.linspace(0, 1, 100)),
        (np.linspace(0, 1, 100), np.ones(100)),
        (np.linspace(0, 1, 100), np.zeros(100)),
    ],
)
def test_fits_of_few_equal_and_contrary_values_still_increase(raw, agreement):
    fitted = ScoreCalibration.fit(raw, agreement)
    assert fitted.raw[0] == 0
    assert fitted.raw[-1] == 1
    assert (np.diff(fitted.agreement) > 0).all()
    middle = np.interp(raw.mean(), fitted.raw, fitted.agreement)
    assert middle == pytest.approx(agreement.mean(), abs=0.03)


def test_other_knots_are_refused():
    for raw, agreement, message in (
        ((0.0,), (0.5,), "two or more increasing"),
        ((0.0, 1.0), (0.7, 0.5), "agreement as two or more increasing"),
        ((0.0, 0.5), (0.1, 0.5), "from 0 to 1"),
        ((0.0, 1.0), (0.1, 0.5, 0.7), "as many"),
    ):
        with pytest.raises(InputError, match=message):
            ScoreCalibration(raw, agreement)
    with pytest.raises(InputError, match="got none"):
        ScoreCalibration.fit(np.zeros(0), np.zeros(0))


def test_limits_keep_the_best_and_count_the_others():
    tree = tree_of(np.array([0.2, 0.9, 0.5, 0.7]))
    few = limit_masks(tree, min_score=0.0, max_masks=2)
    assert sorted(few.scores.tolist()) == pytest.approx([0.7, 0.9])
    assert few.omitted == 2
    assert limit_masks(few, min_score=0.0, max_masks=1).omitted == 3
    assert limit_masks(few, min_score=0.8, max_masks=None).omitted == 0  # those left out before have lower scores
    assert limit_masks(tree, min_score=0.0, max_masks=None) is tree


def test_no_mask_above_the_minimum_is_a_warning_with_the_highest_score():
    tree = tree_of(np.array([0.2, 0.45]))
    with pytest.warns(MasktreeWarning, match=r"score of 0.6 or more; the highest of 2 is 0.450"):
        assert len(limit_masks(tree, min_score=0.6, max_masks=None)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(limit_masks(tree[np.zeros(2, bool)], min_score=0.6, max_masks=None)) == 0
