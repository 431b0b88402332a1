"""Pictures of runs: what is on them and where."""

from __future__ import annotations

import numpy as np

from masktree.train.plots import draw_losses, draw_samples
from masktree.trees.draw import overlay
from masktree.trees.masktree import MaskTree


def black_rows(picture: np.ndarray, column: int) -> np.ndarray:
    """Rows where the curve of the whole loss passes a column."""
    return np.flatnonzero((picture[:, column] == 0).all(axis=1))


def test_a_falling_loss_is_a_falling_curve():
    picture = draw_losses([{"step": i, "loss": 1000 * 0.99**i, "mask": 0.0, "lr": 5.0} for i in range(1, 401)])
    assert picture.shape == (480, 900, 3)
    assert picture.dtype == np.uint8
    heights = [black_rows(picture, column)[0] for column in (100, 300, 500, 700)]
    assert heights == sorted(heights)
    gaps = np.diff(heights)
    assert np.ptp(gaps) <= 2, "an exponential is a straight line on the logarithmic scale"


def test_many_steps_and_none():
    many = draw_losses([{"step": i, "loss": 2.0, "grad_norm": None} for i in range(1, 5001)])
    assert set(black_rows(many, 400)) <= set(black_rows(many, 401)) | set(black_rows(many, 399))
    assert len(black_rows(many, 400)) in (2, 3)
    assert (draw_losses([]) != 255).any()
    assert (draw_losses([{"step": 1, "loss": 0.0}]) != 255).any()


def test_a_sheet_has_photograph_labels_and_finds_side_by_side(rng):
    image = rng.integers(0, 256, (40, 80, 3)).astype(np.uint8)
    masks = np.zeros((1, 40, 80), bool)
    masks[0, 10:30, 10:40] = True
    taught, found = MaskTree.from_masks(masks), MaskTree.from_masks(masks[:0])
    sheet = draw_samples([(image, taught, found), (image, found, taught)], width=80)
    assert sheet.shape == (40 + 6 + 40, 3 * 80 + 2 * 6, 3)
    np.testing.assert_array_equal(sheet[:40, :80], image)
    np.testing.assert_array_equal(sheet[:40, 86:166], overlay(image, taught))
    np.testing.assert_array_equal(sheet[46:, 86:166], overlay(image, found))
    assert (sheet[40:46] == 255).all()
