from __future__ import annotations

import numpy as np
import pytest

from masktree.models import crops
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

SIZE = (60, 100)


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


class Planted:
    """Finds given masks of the photograph wherever it shows them; remembers the crops it was shown. The photograph
    tells the place of each pixel by its colour."""

    def __init__(self, *masks: np.ndarray, scores: tuple[float, ...] = ()) -> None:
        self.masks, self.shown = masks, []
        self.scores = np.array(scores or [0.5] * len(masks), np.float32)

    def __call__(self, images: list[np.ndarray]) -> list[MaskTree]:
        trees = []
        for image in images:
            rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
            self.shown.append((rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
            trees.append(MaskTree.from_masks(np.stack([m[rows, columns] for m in self.masks]), scores=self.scores))
        return trees


@pytest.fixture
def image() -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


def tree_of(*masks: np.ndarray, scores: tuple[float, ...] = ()) -> MaskTree:
    return MaskTree.from_masks(np.stack(masks), scores=np.array(scores or [1.0] * len(masks), np.float32))


def test_parts_of_a_large_mask_are_added_at_their_place(image):
    outer, part, deeper = box(10, 20, 30, 40), box(15, 25, 10, 8), box(17, 26, 4, 4)
    other = box(50, 90, 5, 5)
    model = Planted(part, deeper, box(0, 0, 60, 25))
    tree = crops.segment_crops(image, tree_of(outer, other), model)
    assert model.shown == [(7, 16, 43, 64)]  # a tenth of the sides around it
    assert len(tree) == 4  # the third of the model's masks reaches too far out of the outer one
    np.testing.assert_array_equal(tree.mask(2), part)
    np.testing.assert_array_equal(tree.mask(3), deeper)
    assert tree.parents.tolist() == [-1, -1, 0, 2]
    assert tree.levels.tolist() == [0, 0, 1, 2]
    assert tree.scores.tolist() == [1, 1, 0.5, 0.5]


def test_small_masks_and_those_that_fill_the_image_are_not_looked_at(image):
    model = Planted(box(20, 20, 5, 5))
    tree = tree_of(box(10, 10, 10, 20), box(0, 0, 60, 90))
    assert crops.segment_crops(image, tree, model) is tree
    assert model.shown == []


def test_copies_are_not_added(image):
    outer, part = box(10, 20, 30, 40), box(15, 25, 10, 10)
    near = box(15, 25, 10, 9)  # IoU .9 with the part: a copy
    tree = crops.segment_crops(image, tree_of(outer, part), Planted(outer, near, box(30, 30, 8, 8)))
    assert len(tree) == 3
    # Two outer masks show the same new one; the higher score of near-copies stays.
    two = tree_of(outer, box(8, 18, 34, 44))
    model = Planted(box(15, 25, 20, 20), box(15, 25, 19, 20), scores=(0.25, 0.75))
    tree = crops.segment_crops(image, two, model)
    assert len(model.shown) == 2
    assert tree.scores[2:].tolist() == [0.75]


def test_the_tree_keeps_its_parents_and_the_number_of_crops_is_bounded(image, monkeypatch):
    monkeypatch.setattr(crops, "MAX_CROPS", 2)
    outer = [box(0, 30 * i, 30, 25) for i in range(3)]
    plain = tree_of(*outer, box(31, 0, 4, 4), scores=(0.2, 0.9, 0.6, 0.5))
    odd = MaskTree.from_rles(plain.rles, SIZE, np.array([-1, -1, -1, 0], np.int32), scores=plain.scores)
    model = Planted(box(5, 35, 9, 9), box(5, 65, 9, 9), box(5, 5, 9, 9))
    tree = crops.segment_crops(image, odd, model)
    assert len(model.shown) == 2
    assert model.shown[0][1] == 28  # best first
    assert tree.parents.tolist() == [-1, -1, -1, 0, 1, 2]
    assert rle.areas(tree.rles, SIZE).tolist()[4:] == [81, 81]


def test_no_masks(image):
    empty = MaskTree.from_rles((), SIZE, np.zeros(0, np.int32))
    assert crops.segment_crops(image, empty, Planted(box(0, 0, 4, 4))) is empty
