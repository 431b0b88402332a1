"""Answers to clicks are the masks of ``Predictor``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from masktree import Predictor
from masktree.serve.clicks import Clicks
from masktree.serve.documents import Snapshot
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.trees.polygons import fill_rings
from tests.edits.planted import random_tree


def snapshot(tree: MaskTree, number: int = 0) -> Snapshot:
    return Snapshot(("id", number, 0), 0, tree, [], [], [], (), (), (), (), False, False)


@pytest.mark.parametrize("has_dendrogram", [True, False])
@pytest.mark.parametrize(
    ("points", "labels", "box", "granularity"),
    [
        ([[10, 12]], [1], None, None),
        ([[10.7, 12.2], [3, 3]], [1, 0], None, None),
        ([[25, 20]], [1], None, 0.4),
        ([], [], [4, 5, 20, 19], None),
        ([[10, 12]], [1], [4, 5, 20, 19], None),
    ],
)
def test_answers_are_those_of_the_predictor(has_dendrogram, points, labels, box, granularity):
    tree = random_tree(3)
    tree = tree if has_dendrogram else replace(tree, dendrogram=None)
    answers = Clicks().answer(snapshot(tree), points, labels, box, granularity)
    predictor = Predictor(tree.dendrogram if has_dendrogram else tree)
    masks, scores, _ = predictor.predict(points or None, labels or None, box, granularity=granularity)
    expected = {rle.encode(mask): score for mask, score in zip(masks, scores, strict=True) if mask.any()}
    assert [answer["rle"]["counts"].encode() for answer in answers] == list(expected)
    assert [answer["score"] for answer in answers] == pytest.approx(list(expected.values()), abs=1e-4)
    for answer in answers:
        mask = rle.decode(answer["rle"]["counts"].encode(), tree.size)
        assert np.array_equal(fill_rings([np.array(ring) for ring in answer["outline"]], tree.size), mask)
        assert answer["area"] == mask.sum()
        assert answer["bbox"] == rle.boxes([rle.encode(mask)], tree.size)[0].tolist()


def test_a_leaf_with_clicks_of_both_labels_is_divided():
    leaves = random_tree(3).dendrogram.leaves[::4, ::4]
    dendrogram = random_tree(3).dendrogram.with_leaves(np.repeat(np.repeat(leaves, 4, 0), 4, 1)[:24, :31].copy())
    tree = MaskTree.from_dendrogram(dendrogram.with_altitudes(dendrogram.altitudes))
    leaf = int(np.bincount(dendrogram.leaves.ravel()).argmax())
    (y1, x1), *_, (y2, x2) = np.argwhere(dendrogram.leaves == leaf).tolist()
    points, labels = [[x1, y1], [x2, y2]], [1, 0]
    answers = Clicks().answer(snapshot(tree), points, labels, None, None)
    masks, _, _ = Predictor(dendrogram).predict(points, labels)
    assert [a["rle"]["counts"].encode() for a in answers] == list(dict.fromkeys(rle.encode(mask) for mask in masks))
    first = rle.decode(answers[0]["rle"]["counts"].encode(), tree.size)
    assert first[y1, x1]
    assert not first[y2, x2]


def test_few_images_are_kept_and_versions_are_told_apart():
    clicks = Clicks()
    for number in range(9):
        clicks.answer(snapshot(random_tree(number), number), [[5, 5]], [1], None, None)
    assert clicks._images.size == 4
    bare = replace(random_tree(1), dendrogram=None)
    halved = bare[np.arange(len(bare)) % 2 == 0]
    first = clicks.answer(replace(snapshot(bare), key=("b", 0, 0)), [[5, 5]], [1], None, None)
    second = clicks.answer(replace(snapshot(halved), key=("b", 0, 1)), [[5, 5]], [1], None, None)
    assert first != second
