from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.refine import dense_crf, upsample_labels
from masktree.refine.lattice import blur, build_lattice
from tests.oracles import crf as oracle


@pytest.fixture(scope="module")
def reference(shared):
    with np.load(shared / "parity" / "crf_reference_480.npz") as arrays:
        return dict(arrays)


def planted(rng: np.random.Generator, height: int = 24, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Image of three noisy patches of one colour each, and the patch number of each pixel."""
    labels = np.zeros((height, width), np.int32)
    labels[:, width // 2 :] = 1
    labels[height // 3 : 3 * height // 4, width // 5 : 3 * width // 4] = 2
    colours = np.array([(60, 60, 60), (140, 140, 140), (200, 60, 90)])
    image = np.clip(colours[labels] + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    return image, labels


def random_probabilities(rng: np.random.Generator, k: int, height: int, width: int) -> np.ndarray:
    return np.moveaxis(rng.dirichlet(np.ones(k), (height, width)), 2, 0).astype(np.float32)


@pytest.mark.parametrize("i", range(3))
def test_labels_of_the_authors_joint_crf(reference, i):
    probabilities = upsample_labels(reference[f"hassod_in_{i}"].astype(np.int32), 480, 480)
    refined = dense_crf(reference[f"image_{i}"], probabilities)
    assert (refined.argmax(axis=0) == reference[f"hassod_argmax_{i}"]).mean() >= 0.9999
    difference = np.abs(refined.max(axis=0) - reference[f"hassod_maxq_{i}"].astype(np.float32))
    assert difference.max() < 3e-3  # the reference is stored as float16, steps of 5e-4
    assert difference.mean() < 2e-4


@pytest.mark.parametrize("i", range(3))
def test_labels_of_cutlers_two_label_crf(reference, i):
    foreground = np.where(reference[f"cutler_in_{i}"] > 0, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))).astype(np.float32)
    refined = dense_crf(reference[f"image_{i}"], np.stack([1 - foreground, foreground]))
    assert (refined.argmax(axis=0) == reference[f"cutler_out_{i}"]).mean() >= 0.9999


@pytest.mark.parametrize(("dimension", "points"), [(2, 400), (5, 400)])
def test_lattice_filter_is_close_to_the_gaussian_sum(rng, dimension, points):
    """The lattice's kernel is a piecewise linear stand-in for the Gaussian: a tenth of the sum on average."""
    features = rng.normal(0, 1, (points, dimension)).astype(np.float32)
    lattice = build_lattice(features)
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=1e-5)
    assert lattice.weights.min() >= -1e-5
    vertices = lattice.neighbours.shape[1]
    values = np.zeros((vertices + 1, 1), np.float32)
    np.add.at(values[:, 0], lattice.offsets, lattice.weights)
    blurred, _ = blur(values, np.zeros_like(values), lattice.neighbours, lattice.gain)
    filtered = (lattice.weights * blurred[lattice.offsets, 0]).sum(axis=1)
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    exact = np.exp(-distance / 2).sum(axis=1)
    assert np.corrcoef(filtered, exact)[0, 1] > 0.97
    scale = (filtered @ exact) / (exact @ exact)
    assert np.abs(filtered / scale - exact).mean() < 0.1 * exact.mean()


def test_lattice_neighbours_are_mutual(rng):
    neighbours = build_lattice(rng.normal(0, 2, (200, 3)).astype(np.float32)).neighbours
    count = neighbours.shape[1]
    for forward, backward in ((0, 1), (1, 0)):
        axis, vertex = np.nonzero(neighbours[..., forward] < count)
        np.testing.assert_array_equal(neighbours[axis, neighbours[axis, vertex, forward], backward], vertex)


@pytest.mark.parametrize("k", [2, 4])
def test_weak_kernels_agree_with_the_sum_over_all_pairs(rng, k):
    """With weights of 1 mean field has one fixed point, so the lattice's error is not amplified: below 0.03."""
    image, labels = planted(rng)
    hint = np.eye(k, dtype=np.float32)[labels % k].transpose(2, 0, 1)
    probabilities = 0.3 * hint + 0.7 * random_probabilities(rng, k, 24, 30)
    weights = {"gaussian_weight": 1.0, "bilateral_weight": 1.0}
    refined = dense_crf(image, probabilities, **weights)
    expected = oracle.dense_crf(image, probabilities, **weights)
    assert np.abs(refined - expected).max() < 0.03
    assert np.abs(expected - probabilities).max() > 0.1  # the kernels did something


def test_published_weights_find_the_planted_patches_like_the_sum_over_all_pairs(rng):
    image, labels = planted(rng)
    coarse = np.eye(3, dtype=np.float32)[np.roll(labels, (2, 3), (0, 1))].transpose(2, 0, 1)
    probabilities = (0.7 * coarse + 0.1).astype(np.float32)
    expected = oracle.dense_crf(image, probabilities).argmax(axis=0)
    refined = dense_crf(image, probabilities).argmax(axis=0)
    assert (refined == expected).mean() > 0.99
    assert (refined == labels).mean() > 0.98 > (probabilities.argmax(axis=0) == labels).mean()


def test_two_labels_equal_three_of_which_one_has_probability_zero(rng):
    image, _ = planted(rng)
    two = random_probabilities(rng, 2, 24, 30)
    three = np.concatenate([two, np.zeros((1, 24, 30), np.float32)])
    np.testing.assert_allclose(
        dense_crf(image, two, iterations=3), dense_crf(image, three, iterations=3)[:2], atol=2e-3
    )


@pytest.mark.parametrize("k", [1, 3, 17])
def test_independent_masks_equal_single_calls(rng, k):
    image, _ = planted(rng)
    foreground = rng.uniform(0, 1, (k, 24, 30)).astype(np.float32)
    together = dense_crf(image, foreground, independent=True)
    for channel, refined in zip(foreground, together, strict=True):
        alone = dense_crf(image, np.stack([1 - channel, channel]))
        np.testing.assert_allclose(refined, alone[1], atol=2e-3)


def test_zero_iterations_return_the_probabilities(rng):
    image, _ = planted(rng)
    for k in (2, 5):
        probabilities = random_probabilities(rng, k, 24, 30)
        np.testing.assert_allclose(dense_crf(image, probabilities, iterations=0), probabilities, atol=1e-4)


def test_isolated_pixels_reach_the_fixed_point_of_their_update(rng):
    """White noise and a narrow kernel: each pixel has its own simplex, more than the first hash table
    holds, and the normalised kernel is 1 at the pixel itself. Then q is the fixed point of q = softmax(-u + q)."""
    image = rng.integers(0, 256, (90, 80, 3)).astype(np.uint8)
    probabilities = random_probabilities(rng, 3, 90, 80)
    refined = dense_crf(
        image, probabilities, gaussian_weight=0.0, bilateral_weight=1.0, bilateral_sxy=1.0, bilateral_srgb=1.0
    )
    q = probabilities
    for _ in range(10):
        q = probabilities * np.exp(q)
        q /= q.sum(axis=0)
    assert np.median(np.abs(refined - q)) < 0.01
    assert np.median(np.abs(refined - probabilities)) > 0.03


@pytest.mark.parametrize(
    "option",
    [
        {"iterations": -1},
        {"gaussian_sxy": 0.0},
        {"bilateral_sxy": float("nan")},
        {"bilateral_srgb": -1.0},
        {"bilateral_weight": float("inf")},
        {"gaussian_weight": -1.0},
        {"bilateral_srgb": 1e-3},
    ],
)
def test_invalid_options_are_refused(rng, option):
    image, _ = planted(rng)
    with pytest.raises(InputError, match="expected"):
        dense_crf(image, random_probabilities(rng, 2, 24, 30), **option)


def test_cached_lattices_give_the_same_result(rng):
    images = rng.integers(0, 256, size=(2, 20, 30, 3), dtype=np.uint8)
    soft = rng.random((3, 20, 30)).astype(np.float32)
    soft /= soft.sum(axis=0)
    first = dense_crf(images[0], soft)
    np.testing.assert_array_equal(dense_crf(images[0], soft), first)
    other = dense_crf(images[1], soft)
    assert not np.array_equal(other, first)
    assert not np.array_equal(dense_crf(images[0], soft, bilateral_srgb=50.0), first)
    np.testing.assert_array_equal(dense_crf(images[0], soft), first)
    np.testing.assert_array_equal(dense_crf(images[1], soft), other)
