"""Cuts are centred where planted discs are whole, whatever the altitudes; agreement equals a naive count."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.discover import pieces as module
from masktree.discover.pieces import CENTRE, agreement, centre_on_pieces, threshold_pieces
from masktree.trees.dendrogram import PartitionTree

SIDE, COUNT, RADIUS = 96, 9, 7


def discs() -> np.ndarray:
    """(SIDE, SIDE) int32: ``COUNT`` discs on ground 0."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int32)
    for k in range(COUNT):
        row, column = divmod(k, 3)
        labels[(y - 16 - 32 * row) ** 2 + (x - 16 - 32 * column) ** 2 <= RADIUS**2] = k + 1
    return labels


def picture(ground: int, thing: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 3, (SIDE, SIDE))
    values = np.where(discs() > 0, thing, ground) + noise
    return values.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def planted_tree(whole: float, gone: float) -> PartitionTree:
    """Upper and lower halves of each disc and of the ground, which merge at ``whole``, and discs with the ground at
    ``gone``."""
    labels = discs()
    leaves = (2 * labels + (np.arange(SIDE)[:, None] % 32 >= 16)).astype(np.int32)
    n = 2 * (COUNT + 1)
    merges = [(2 * k, 2 * k + 1) for k in range(COUNT + 1)]
    top = n  # the ground
    for k in range(1, COUNT + 1):
        merges.append((top, n + k))
        top = n + len(merges) - 1
    return PartitionTree.from_merges(leaves, np.array(merges), np.array([whole] * (COUNT + 1) + [gone] * COUNT))


@pytest.mark.parametrize(("whole", "gone"), [(0.1, 0.25), (0.4, 0.5), (0.8, 0.95)])
@pytest.mark.parametrize(("ground", "thing"), [(40, 90), (180, 120)])
def test_the_cut_at_the_centre_has_the_planted_discs(whole, gone, ground, thing):
    tree = planted_tree(whole, gone)
    centred = centre_on_pieces(tree, picture(ground, thing))
    assert np.array_equal(centred.cut_at(CENTRE) > 0, discs() > 0)
    assert centred.cut_at(CENTRE).max() == COUNT
    assert np.array_equal(centred.parents, tree.parents)
    assert (np.diff(centred.altitudes)[np.diff(tree.altitudes) > 0] > 0).all()
    assert 0 <= centred.altitudes[0] <= centred.altitudes[-1] <= 1


def test_large_images_are_reduced(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SIDE", SIDE // 2)
    centred = centre_on_pieces(planted_tree(0.1, 0.25), picture(40, 90))
    assert centred.size == (SIDE, SIDE)
    assert np.array_equal(centred.cut_at(CENTRE) > 0, discs() > 0)


def test_pieces_that_are_no_regions_leave_altitudes_as_they_are():
    """Of nine discs in the picture eight are elsewhere in the tree."""
    labels = discs()
    moved = (labels == 1) | np.roll(labels > 1, 16, axis=1)
    image = np.where(moved, 90, 40).astype(np.uint8)[..., None].repeat(3, axis=2)
    tree = planted_tree(0.1, 0.25)
    assert 0 < max(agreement(tree, pieces).max() for pieces in threshold_pieces(image)) < module.MIN_AGREEMENT
    assert centre_on_pieces(tree, image) is tree


@pytest.mark.parametrize("shape", [(1, 1), (2, 30), (50, 40)])
def test_an_image_without_pieces_keeps_its_altitudes(shape):
    leaves = np.zeros(shape, np.int32)
    leaves[:, shape[1] // 2 :] = min(1, shape[1] - 1)
    n = int(leaves.max()) + 1
    tree = PartitionTree.from_merges(leaves, np.array([(0, 1)][: n - 1], np.int64).reshape(-1, 2), np.full(n - 1, 0.3))
    assert centre_on_pieces(tree, np.full((*shape, 3), 90, np.uint8)) is tree


def test_touching_discs_are_two_pieces_and_a_large_thing_is_none():
    y, x = np.mgrid[:120, :120]
    things = ((y - 20) ** 2 + (x - 20) ** 2 <= 64) | ((y - 20) ** 2 + (x - 34) ** 2 <= 64)
    things |= (y - 80) ** 2 + (x - 80) ** 2 <= 144  # 452 pixels, above a 36th of the image
    image = np.where(things, 200, 20).astype(np.uint8)[..., None].repeat(3, axis=2)
    bright = next(iter(threshold_pieces(image)))
    assert bright.dtype == np.int32
    assert bright[20, 20] > 0
    assert bright[20, 34] not in (0, bright[20, 20])
    assert bright.max() == 2


def test_agreement_equals_a_naive_count():
    rng = np.random.default_rng(1)
    n = 30
    leaves = np.arange(n, dtype=np.int32).reshape(5, 6).repeat(8, axis=0).repeat(8, axis=1)
    nodes, merges = list(range(n)), []
    for k in range(n - 1):
        a, b = rng.choice(len(nodes), 2, replace=False)
        merges.append((nodes[a], nodes[b]))
        nodes = [node for i, node in enumerate(nodes) if i not in (a, b)] + [n + k]
    tree = PartitionTree.from_merges(leaves, np.array(merges), np.sort(rng.random(n - 1)))
    labels = np.where(rng.random(n) < 0.6, rng.integers(1, 13, n), 0)
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)[leaves]
    labels[rng.random(labels.shape) < 0.2] = 0
    expected = []
    for g in np.linspace(0.02, 0.98, 49):
        cut = tree.cut_at(g)
        ious = [
            ((cut == r) & (labels == p)).sum() / ((cut == r) | (labels == p)).sum()
            for r in range(cut.max() + 1)
            for p in range(1, labels.max() + 1)
        ]
        expected.append(2 * sum(iou > 0.5 for iou in ious) / (cut.max() + 1 + labels.max()))
    assert max(expected) > 0.2
    assert np.allclose(agreement(tree, labels), expected)
