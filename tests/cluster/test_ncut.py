"""MaskCut: the authors' masks, a dense solver written out, planted grids, graphs without structure."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from masktree.cluster import ncut
from masktree.cluster.ncut import maskcut
from masktree.errors import InputError
from tests.oracles import ncut as oracle

Sign = Literal["lapack", "seed"]


def regions(h: int, w: int, noise: float, seed: int) -> np.ndarray:
    """Features of two levels of smooth random regions; noise makes all eigenvector entries different."""
    rng = np.random.default_rng(seed)
    result = noise * rng.standard_normal((h, w, 48)) + 0.3 * rng.standard_normal(48)
    for k, width, weight in [(4, 0.15, 1.0), (10, 0.06, 0.6)]:
        fields = [gaussian_filter(rng.standard_normal((h, w)), width * max(h, w)) for _ in range(k)]
        result += weight * rng.standard_normal((k, 48))[np.argmax(fields, 0)]
    return result.astype(np.float32)


def planted(size: tuple[int, int] = (20, 24)) -> tuple[np.ndarray, np.ndarray]:
    """Two squares of different features on a third, weakly similar to each other; and the two masks."""
    masks = np.zeros((2, *size), bool)
    masks[0, 3:11, 2:9] = True
    masks[1, 9:18, 13:21] = True
    rng = np.random.default_rng(3)
    kinds = np.eye(3, 16)[masks[0] + 2 * masks[1]]
    return (kinds + 0.02 * rng.standard_normal((*size, 16))).astype(np.float32), masks


@pytest.mark.parametrize("sign", ["lapack", "seed"])
def test_masks_equal_those_of_the_authors(shared: Path, sign: Sign) -> None:
    features = np.load(shared / "parity" / "features_28x28x768.npz")["features"]
    expected = np.load(shared / "parity" / "maskcut_masks_28x28.npz")["masks"].astype(bool)
    assert (maskcut(features, sign=sign) == expected).all()
    scale = np.random.default_rng(0).uniform(0.1, 10, (28, 28, 1)).astype(np.float32)
    assert (maskcut(features * scale, sign=sign) == expected).all()  # cosines: lengths do not matter


@pytest.mark.parametrize("sign", ["lapack", "seed"])
def test_equals_the_dense_solver(sign: Sign) -> None:
    kept = []
    for seed, (h, w) in enumerate([(12, 17), (25, 9), (1, 40), (14, 16), (9, 9)]):
        for noise in (0.5, 3.0):
            features = regions(h, w, noise, seed)
            masks, expected = maskcut(features, max_masks=5, sign=sign), oracle.maskcut(features, 0.15, 5, sign)
            assert len(masks) == len(expected)
            assert (masks == np.array(expected).reshape(-1, h, w)).all()
            kept.append(len(masks))
    assert min(kept) < 5 < sum(kept)  # rejections and acceptances both happened


def test_the_sign_is_that_of_the_dense_solver() -> None:
    signs = []
    for seed in range(12):
        features = regions(11, 13, 1.0, 100 + seed)
        vector = ncut._second_eigenvector(ncut._similarity_bits(features.reshape(143, -1), 0.15), "lapack")
        expected = oracle.eigenvector(features, 0.15, "lapack")
        assert vector is not None
        np.testing.assert_allclose(vector / np.linalg.norm(vector), expected / np.linalg.norm(expected), atol=1e-7)
        signs.append(expected[np.argmax(np.abs(expected))] > 0)
    assert 0 < sum(signs) < 12  # the solver's sign is not a rule of the seed


def test_planted_objects_are_found() -> None:
    features, planted_masks = planted()
    masks = maskcut(features, sign="seed")
    for expected in planted_masks:
        assert any((mask == expected).all() for mask in masks)


def test_masks_are_disjoint_and_later_cuts_do_not_change_earlier_ones() -> None:
    for seed in range(5):
        features = regions(24, 18, 1.0, seed)
        masks = maskcut(features, max_masks=5)
        assert masks.sum(0).max() == 1
        for n in (1, 2, 3):
            few = maskcut(features, max_masks=n)
            assert (few == masks[: len(few)]).all()


def test_first_mask_is_one_component_without_three_corners() -> None:
    for seed in range(10):
        mask = maskcut(regions(20, 26, 1.0, seed), max_masks=1, sign="seed")[0]
        assert label(mask)[1] == 1
        assert mask[[0, 0, -1, -1], [0, -1, 0, -1]].sum() < 3


def test_the_same_features_give_the_same_masks() -> None:
    features = regions(20, 26, 3.0, 0)
    assert (maskcut(features) == maskcut(features.copy())).all()


def test_blocks_of_the_graph_join_at_their_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    features = regions(13, 9, 1.0, 0).reshape(117, -1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = unit @ unit.T > 0.15
    for block in (8, 40, 1024):
        monkeypatch.setattr(ncut, "_COSINE_BLOCK", block)
        bits = ncut._similarity_bits(features, 0.15)
        assert (np.unpackbits(bits, axis=0, bitorder="little")[:117] == expected).all()


def test_product_with_bits_equals_the_dense_product(rng: np.random.Generator) -> None:
    for n in (1, 7, 32, 33, 100):
        features = rng.standard_normal((n, 5)).astype(np.float32)
        bits = ncut._similarity_bits(features, 0.2)
        dense = np.unpackbits(bits, axis=0, bitorder="little")[:n].astype(float)
        assert (dense == dense.T).all()
        vector = rng.standard_normal(n)
        np.testing.assert_allclose(ncut._product(bits, vector), dense @ vector, atol=1e-12)
        gone = rng.random(n) < 0.3
        ncut._remove_patches(bits, gone)
        dense[gone] = dense[:, gone] = 0
        np.testing.assert_allclose(ncut._product(bits, vector), dense @ vector, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 7, 4), (6, 5, 4), (40, 40, 4)])
def test_no_masks_without_structure(shape: tuple[int, int, int]) -> None:
    patches = shape[0] * shape[1]
    assert maskcut(np.ones(shape, np.float32)).shape == (0, *shape[:2])  # all alike
    assert maskcut(np.zeros(shape, np.float32)).shape == (0, *shape[:2])  # no direction at all
    apart = np.eye(patches, dtype=np.float32).reshape(*shape[:2], patches)
    assert maskcut(apart).shape == (0, *shape[:2])  # none alike


def test_one_odd_patch_is_found_on_a_uniform_grid() -> None:
    features = np.ones((8, 9, 3), np.float32)
    features[3, 4] = [-1, 1, 0]
    masks = maskcut(features)
    assert len(masks) == 1
    assert np.argwhere(masks[0]).tolist() == [[3, 4]]


def test_equal_blocks_end_and_give_blocks() -> None:
    rows = np.arange(30) // 10
    features = np.eye(9, dtype=np.float32)[rows[:, None] * 3 + rows]  # eigenvalues are eightfold
    masks = maskcut(features)
    assert 1 <= len(masks) <= 3
    blocks = masks.reshape(-1, 3, 10, 3, 10)
    assert (blocks == blocks[:, :, :1, :, :1]).all()  # no block is split


def test_invalid_input_is_refused() -> None:
    features = np.ones((4, 5, 3), np.float32)
    broken = features.copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(InputError, match="1 values not finite"):
        maskcut(broken)
    with pytest.raises(InputError, match=r"got shape \(0, 5, 3\)"):
        maskcut(features[:0])
    for tau in (-0.1, 1.0, np.nan):
        with pytest.raises(InputError, match="0 <= tau < 1"):
            maskcut(features, float(tau))
    with pytest.raises(InputError, match="max_masks >= 1"):
        maskcut(features, max_masks=0)
