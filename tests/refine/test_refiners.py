"""Properties that all refiners share."""

from __future__ import annotations

from functools import partial
from inspect import unwrap  # past the type checks of the test run, to masktree's own messages

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.refine import dense_crf, guided

REFINERS = pytest.mark.parametrize("refiner", [dense_crf, guided], ids=["crf", "guided"])


def problem(rng: np.random.Generator, k: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, np.moveaxis(rng.dirichlet(np.ones(k), (height, width)), 2, 0).astype(np.float32)


def halves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dark left, bright right, and probabilities whose boundary lies four pixels beside the edge."""
    image = np.full((48, 64, 3), 40, np.uint8)
    image[:, 32:] = (200, 180, 160)
    truth = np.zeros((48, 64), bool)
    truth[:, 32:] = True
    soft = np.clip((np.arange(64) - 30.5) / 12 + 0.25, 0, 1).astype(np.float32)
    foreground = np.broadcast_to(soft, (48, 64))
    return image, np.stack([1 - foreground, foreground]), truth


@REFINERS
@pytest.mark.parametrize("k", [2, 3, 9])
@pytest.mark.parametrize("size", [(1, 1), (1, 23), (19, 1), (17, 30)])
def test_probabilities_stay_probabilities(rng, refiner, k, size):
    image, probabilities = problem(rng, k, *size)
    refined = refiner(image, probabilities)
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    assert refined.min() >= 0
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)


@REFINERS
def test_order_of_the_labels_does_not_matter(rng, refiner):
    image, probabilities = problem(rng, 11, 20, 26)
    order = rng.permutation(11)
    weak = partial(refiner, iterations=2) if refiner is dense_crf else refiner
    np.testing.assert_allclose(weak(image, probabilities[order]), weak(image, probabilities)[order], atol=1e-4)


@REFINERS
@pytest.mark.parametrize("k", [2, 4])
def test_uniform_probabilities_stay_uniform(refiner, k):
    image = np.full((30, 40, 3), 128, np.uint8)
    probabilities = np.full((k, 30, 40), 1 / k, np.float32)
    np.testing.assert_allclose(refiner(image, probabilities), probabilities, atol=1e-5)


@REFINERS
def test_border_moves_to_the_edge_of_the_image(refiner):
    image, probabilities, truth = halves()
    before = (probabilities.argmax(axis=0) == truth).mean()
    after = (refiner(image, probabilities).argmax(axis=0) == truth).mean()
    assert after > before
    assert after > 0.98


@REFINERS
def test_independent_channels_do_not_influence_each_other(rng, refiner):
    image, _ = problem(rng, 2, 21, 18)
    masks = rng.uniform(0, 1, (5, 21, 18)).astype(np.float32)
    together = refiner(image, masks, independent=True)
    assert together.shape == masks.shape
    separate = np.concatenate([refiner(image, m[None], independent=True) for m in masks])
    np.testing.assert_allclose(together, separate, atol=2e-3)


@REFINERS
def test_same_result_twice_and_arguments_untouched(rng, refiner):
    image, probabilities = problem(rng, 5, 25, 31)
    copies = image.copy(), probabilities.copy()
    first, second = refiner(image, probabilities), refiner(image, probabilities)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


@REFINERS
def test_strided_arguments_give_the_same(rng, refiner):
    image, probabilities = problem(rng, 3, 22, 26)
    views = image[::2, ::-2], probabilities[:, ::2, ::-2]
    expected = refiner(np.ascontiguousarray(views[0]), np.ascontiguousarray(views[1]))
    np.testing.assert_allclose(refiner(*views), expected, atol=1e-6)


@REFINERS
def test_invalid_problems_are_refused(rng, refiner):
    image, probabilities = problem(rng, 3, 8, 9)
    holed = probabilities.copy()
    holed[1, 2, 3] = np.nan
    for bad_image, bad, message in [
        (image, holed, "finite"),
        (image, probabilities * 3, "0 to 1"),
        (image, probabilities * np.float32(0.5), "sum to 1"),
        (image, probabilities[:1], "at least 2"),
        (image[:-1], probabilities, "size"),
        (image[:0], probabilities[:, :0], "pixel"),
    ]:
        with pytest.raises(InputError, match=message):
            unwrap(refiner)(bad_image, bad)
    with pytest.raises(InputError, match="at least 1"):
        refiner(image, probabilities[:0], independent=True)


def test_guided_filter_is_the_published_one(rng):
    """With blocks of one pixel: least squares in every window, written out."""
    image, probabilities = problem(rng, 2, 9, 11)
    refined = guided(image, probabilities, radius=2, epsilon=0.01, step=1)[1]
    colour, p = image / 255.0, probabilities[1].astype(float)
    slopes, offsets = np.empty((9, 11, 3)), np.empty((9, 11))
    windows = {}
    for y, x in np.ndindex(9, 11):
        windows[y, x] = window = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        inside, target = colour[window].reshape(-1, 3), p[window].ravel()
        covariance = np.cov(inside.T, bias=True) + 0.01 * np.eye(3)
        cross = (inside * target[:, None]).mean(axis=0) - inside.mean(axis=0) * target.mean()
        slopes[y, x] = np.linalg.solve(covariance, cross)
        offsets[y, x] = target.mean() - slopes[y, x] @ inside.mean(axis=0)
    expected = np.empty((9, 11))
    for y, x in np.ndindex(9, 11):
        window = windows[y, x]
        expected[y, x] = slopes[window].mean(axis=(0, 1)) @ colour[y, x] + offsets[window].mean()
    np.testing.assert_allclose(refined, np.clip(expected, 0, 1), atol=1e-5)


@pytest.mark.parametrize("option", [{"radius": 0}, {"epsilon": 0.0}, {"epsilon": float("nan")}, {"step": 0}])
def test_guided_refuses_invalid_options(rng, option):
    with pytest.raises(InputError, match="expected radius"):
        guided(*problem(rng, 2, 5, 5), **option)
