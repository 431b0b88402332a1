from __future__ import annotations

import inspect

import numpy as np
import pytest

from masktree.cluster.merge import grid_edges, merge_regions, merge_tree
from masktree.errors import InputError
from tests.oracles.merge import merge_sequence, partition_at


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def planted(rng: np.random.Generator, h: int, w: int, d: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    truth = (np.arange(h)[:, None] * 3 // h) * 2 + (np.arange(w)[None] * 2 // w)
    centres = np.linalg.qr(rng.normal(size=(d, 6)))[0].T
    return (centres[truth] + noise * rng.normal(size=(h, w, d))).astype(np.float32), truth


@pytest.mark.parametrize("name", ["16x16x64_ties", "28x28x768", "34x50x384"])
def test_partitions_of_the_authors_code(shared, name):
    features = np.load(shared / "parity" / f"features_{name}.npz")["features"]
    reference = np.load(shared / "parity" / f"hassod_labels6_{name}.npz")
    tree = merge_tree(features)
    assert len(reference["thresholds"]) > 0
    for theta, labels in zip(reference["thresholds"], reference["labels"], strict=True):
        assert same_partition(tree.cut(float(theta)), labels), theta


@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 9, 4), (7, 1, 2), (4, 4, 1)])
def test_equals_the_literal_rule(rng, shape):
    features = rng.normal(size=shape).astype(np.float32)
    tree = merge_tree(features)
    similarities = [s for _, _, s in merge_sequence(features)]
    np.testing.assert_allclose(tree.altitudes[tree.n_leaves :], 1 - np.minimum.accumulate(similarities), atol=1e-6)
    for theta in (0.9, 0.6, 0.3, 0.1, -0.2):
        assert same_partition(tree.cut(theta), partition_at(features, theta))


@pytest.mark.parametrize("seed", range(8))
def test_bounds_never_change_a_merge(seed):
    """Opposite vectors cancel and norms differ by orders of magnitude: the cases in which bounds are hardest."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(6, 6, 3)) * 10.0 ** rng.integers(-3, 4, size=(6, 6, 1))
    features[rng.random((6, 6)) < 0.3] *= -1
    features[2:4, 1] = [[1, 2, 3], [-1, -2, -3 + 1e-3 * (seed % 2)]]
    features = features.astype(np.float32)
    tree = merge_tree(features)
    similarities = np.array([s for _, _, s in merge_sequence(features)])
    np.testing.assert_allclose(tree.altitudes[36:], np.maximum(1 - np.minimum.accumulate(similarities), 0), atol=2e-5)


def test_ties_follow_the_order_of_insertion(rng):
    features = rng.integers(-1, 2, size=(6, 7, 2)).astype(np.float32)  # few distinct values: ties everywhere
    features[2, 3] = 0  # and a patch without direction
    tree = merge_tree(features)
    for theta in (1.0, 0.99, 0.8, 0.5, 0.0, -0.5):
        assert same_partition(tree.cut(theta), partition_at(features, theta)), theta


def test_finds_planted_regions(rng):
    features, truth = planted(rng, 12, 10, 16, noise=0.05)
    assert same_partition(merge_tree(features).cut_count(6), truth)


def test_a_merge_may_raise_the_next_similarity_and_a_cut_is_still_a_prefix(rng):
    features = rng.normal(size=(8, 8, 4)).astype(np.float32)
    similarities = np.array([s for _, _, s in merge_sequence(features)])
    assert (np.diff(similarities) > 1e-6).any()  # the rule is not monotone on this input
    tree = merge_tree(features)
    theta = float(np.median(similarities))
    prefix = int(np.argmax(similarities < theta))
    assert tree.cut(theta).max() + 1 == 64 - prefix


def test_altitudes_equal_the_running_maximum_along_every_path(rng):
    features = rng.normal(size=(9, 7, 5)).astype(np.float32)
    tree = merge_tree(features)
    own = np.concatenate([np.zeros(63), [1 - s for _, _, s in merge_sequence(features)]])
    along = own.copy()
    for node in range(len(own)):  # children come before parents
        along[tree.parents[node]] = max(along[tree.parents[node]], along[node])
    np.testing.assert_allclose(tree.altitudes, np.maximum(along, 0), atol=1e-6)


@pytest.mark.parametrize("power", [-120, -60, -1, 1, 60, 120])
def test_powers_of_two_change_nothing(rng, power):
    features = rng.normal(size=(9, 7, 16)).astype(np.float32)
    plain, scaled = merge_tree(features), merge_tree(np.ldexp(features, power))
    np.testing.assert_array_equal(scaled.parents, plain.parents)
    np.testing.assert_array_equal(scaled.altitudes, plain.altitudes)


@pytest.mark.parametrize("factor", [3e-30, 4, 1e30, 1e37])
def test_scale_of_the_features_does_not_matter(rng, factor):
    features = rng.normal(size=(9, 7, 16)).astype(np.float32)
    plain, scaled = merge_tree(features), merge_tree(features * np.float32(factor))
    np.testing.assert_array_equal(scaled.parents, plain.parents)
    np.testing.assert_allclose(scaled.altitudes, plain.altitudes, atol=2e-6)


def test_scale_of_the_embeddings_does_not_matter(rng):
    leaves = np.arange(40, dtype=np.int32).reshape(5, 8)
    embeddings = rng.normal(size=(40, 6)).astype(np.float32)
    plain, scaled = (
        merge_regions(leaves, grid_edges(5, 8), np.ones(40), embeddings=np.ldexp(embeddings, power), embedding_weight=1)
        for power in (0, 90)
    )
    np.testing.assert_array_equal(scaled.altitudes, plain.altitudes)


def test_input_is_not_changed(rng):
    features = rng.normal(size=(4, 4, 3)).astype(np.float32)
    before = features.copy()
    merge_tree(features)
    np.testing.assert_array_equal(features, before)


def test_one_patch_and_uniform_features():
    assert merge_tree(np.ones((1, 1, 3), np.float32)).cut(0.5).tolist() == [[0]]
    assert merge_tree(np.ones((4, 5, 3), np.float32)).cut(1.0).max() == 0
    assert merge_tree(np.zeros((3, 3, 2), np.float32)).cut(0.5).max() == 8  # no direction: similar to nothing


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_features_that_are_not_finite(bad):
    features = np.ones((3, 3, 2), np.float32)
    features[1, 2, 0] = bad
    with pytest.raises(InputError, match=r"finite features; got 1 NaN"):
        merge_tree(features)


def test_refuses_empty_features():
    with pytest.raises(InputError, match="all sides >= 1"):
        merge_tree(np.ones((0, 3, 2), np.float32))


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (np.ones((3, 3, 2)), r"float64 \(3, 3, 2\)"),
        (np.ones((3, 3, 2), np.float16), "float16"),
        (np.ones((3, 3, 2), int), "int64"),
        (np.ones((3, 3), np.float32), r"float32 \(3, 3\)"),
        ([[[1.0]]], "list"),
    ],
)
def test_refuses_other_features_without_run_time_checks_too(wrong, got):
    plain = inspect.unwrap(merge_tree)
    assert plain is not merge_tree  # else the checks are off, and this tests nothing
    with pytest.raises(InputError, match=rf"features \(h, w, d\) as float32; got {got}.*astype"):
        plain(wrong)


# --- any adjacency ------------------------------------------------------------------------------------------------


def test_regions_with_the_cosine_alone_equal_the_grid(rng):
    features = rng.normal(size=(5, 8, 6)).astype(np.float32)
    leaves = np.arange(40, dtype=np.int32).reshape(5, 8)
    tree = merge_regions(
        leaves, grid_edges(5, 8), np.ones(40), embeddings=features.reshape(40, 6),
        boundary_weight=0.0, histogram_weight=0.0, embedding_weight=1.0, size_power=0.0,
    )  # fmt: skip
    grid = merge_tree(features)
    np.testing.assert_array_equal(tree.parents, grid.parents)
    np.testing.assert_allclose(tree.altitudes, grid.altitudes, atol=1e-9)


def test_the_cost_is_the_documented_formula(rng):
    """Three regions in a row: the first merge, and its cost, are worked out by hand; so is the second."""
    leaves = np.repeat(np.arange(3, dtype=np.int32), [2, 3, 5])[None]
    areas = np.array([2.0, 3.0, 5.0])
    histograms = np.array([[2, 0], [1, 2], [0, 5]], np.float32)
    edges, boundary, lengths = np.array([[0, 1], [1, 2]]), np.array([0.9, 0.2]), np.array([1.0, 3.0])

    def chi(a, b):
        p, q = a / a.sum(), b / b.sum()
        return 0.5 * float((((p - q) ** 2) / (p + q)).sum())

    def cost(strength, a, b, x, y):
        return (strength + 0.3 * chi(a, b)) * (2 * x * y / (x + y) / 10) ** 0.1

    tree = merge_regions(leaves, edges, areas, histograms=histograms, boundary=boundary, lengths=lengths)
    first = cost(0.2, histograms[1], histograms[2], 3, 5)
    assert first < cost(0.9, histograms[0], histograms[1], 2, 3)
    second = cost(0.9, histograms[0], histograms[1] + histograms[2], 2, 8)
    assert tree.parents.tolist() == [4, 3, 3, 4, 4]
    np.testing.assert_allclose(tree.altitudes, [0, 0, 0, first, second], rtol=1e-5)


def test_borders_of_merged_regions_are_averaged_by_length():
    """A triangle: after 0 and 1 merge, their borders to 2 become one of mean strength (1*6 + 3*2) / 4 = 3."""
    leaves = np.array([[0, 1, 2]], np.int32)
    tree = merge_regions(
        leaves, np.array([[0, 1], [1, 2], [0, 2]]), np.ones(3),
        boundary=np.array([0.1, 6.0, 2.0]), lengths=np.array([1.0, 1.0, 3.0]), size_power=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(tree.altitudes[3:], [0.1, 3.0])


def test_refuses_graphs_that_are_not_connected_and_wrong_shapes():
    leaves = np.array([[0, 1, 2]], np.int32)
    with pytest.raises(InputError, match="2 separate pieces"):
        merge_regions(leaves, np.array([[0, 1]]), np.ones(3))
    with pytest.raises(InputError, match="boundary of shape"):
        merge_regions(leaves, np.array([[0, 1], [1, 2]]), np.ones(3), boundary=np.ones(3))
    with pytest.raises(InputError, match="one area per region"):
        merge_regions(leaves, np.array([[0, 1], [1, 2]]), np.ones(2))
    with pytest.raises(InputError, match="region numbers"):
        merge_regions(leaves, np.array([[0, 1], [1, 3]]), np.ones(3))
    for edges in ([[0, 1], [1, 2], [0, 1]], [[0, 1], [1, 2], [2, 1]], [[0, 1], [1, 2], [2, 2]]):
        with pytest.raises(InputError, match="between different regions, each pair once"):
            merge_regions(leaves, np.array(edges), np.ones(3))
    for area in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="areas above 0"):
            merge_regions(leaves, np.array([[0, 1], [1, 2]]), np.array([1.0, area, 1.0]))
    with pytest.raises(InputError, match=r"edges of shape \(m, 2\)"):
        merge_regions(leaves, np.array([[0, 1, 2]]), np.ones(3))
    with pytest.raises(InputError, match="finite boundary"):
        merge_regions(leaves, np.array([[0, 1], [1, 2]]), np.ones(3), boundary=np.array([1.0, np.nan]))
