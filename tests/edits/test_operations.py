"""Each operation on the planted tree, by pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

from .planted import SIZE, content, mask_of, parent_of, planted, planted_masks, random_tree


@pytest.fixture
def edited(tmp_path: Path) -> EditedTree:
    return planted(tmp_path)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_a_tree_without_edits_is_the_machines(edited: EditedTree) -> None:
    assert edited.tree is edited.machine_tree
    assert edited.ids.tolist() == list(range(6))
    assert (edited.version, edited.can_undo, edited.can_redo) == (0, False, False)
    assert not edited.path.exists()


def test_rejected_masks_stay_but_are_left_out_of_the_result(edited: EditedTree) -> None:
    edited.apply({"op": "reject", "ids": [1]})
    edited.apply({"op": "accept", "ids": [3, 5]})
    assert edited.status == ("none", "rejected", "none", "accepted", "none", "accepted")
    assert len(edited.tree) == 6
    tree, _, _ = edited.result()
    assert tree.parents.tolist() == [-1, 0, 0, 0, -1]  # the feet are parts of the body now
    edited.apply({"op": "reset", "ids": [1, 3]})
    assert edited.status == ("none",) * 5 + ("accepted",)
    assert len(edited.result()[0]) == 6


def test_children_of_a_deleted_mask_move_up(edited: EditedTree) -> None:
    edited.apply({"op": "delete", "ids": [1, 0]})
    assert edited.ids.tolist() == [2, 3, 4, 5]
    assert [parent_of(edited, i) for i in (2, 3, 4)] == [-1, -1, -1]
    edited.apply({"op": "undo"})
    edited.apply({"op": "delete", "ids": [1]})
    assert [parent_of(edited, i) for i in (3, 4)] == [0, 0]


def test_merged_masks_become_their_union_under_their_common_ancestor(edited: EditedTree) -> None:
    masks = planted_masks()
    edited.apply({"op": "merge", "ids": [3, 2]})
    assert edited.ids.tolist() == [0, 1, 4, 5, 6]
    assert np.array_equal(mask_of(edited, 6), masks[2] | masks[3])
    assert parent_of(edited, 6) == 0
    edited.apply({"op": "undo"})
    edited.apply({"op": "merge", "ids": [2, 1]})
    assert edited.ids.tolist() == [0, 3, 4, 5, 7]  # 6 was used before
    assert [parent_of(edited, i) for i in (3, 4, 7)] == [7, 7, 0]
    assert edited.tree.scores[-1] == np.float32(0.8)


def test_a_mask_merged_with_its_parts_takes_their_place(edited: EditedTree) -> None:
    edited.apply({"op": "merge", "ids": [0, 1]})
    assert edited.ids.tolist() == [2, 3, 4, 5, 6]
    assert np.array_equal(mask_of(edited, 6), planted_masks()[0])
    assert [parent_of(edited, i) for i in (2, 3, 4, 6)] == [6, 6, 6, -1]


def test_a_merged_mask_keeps_the_class_on_which_all_agree(edited: EditedTree) -> None:
    edited.apply({"op": "classes", "names": ["leg", "foot"]})
    edited.apply({"op": "class", "ids": [3], "class": "foot"})
    edited.apply({"op": "rename", "id": 3, "name": "left"})
    edited.apply({"op": "merge", "ids": [3, 4]})
    assert (edited.classes[-1], edited.names[-1]) == ("foot", "left")
    edited.apply({"op": "class", "ids": [2], "class": "leg"})
    edited.apply({"op": "merge", "ids": [2, 6]})
    assert edited.classes[-1] is None


def test_a_line_splits_a_mask_and_what_lies_across_it(edited: EditedTree) -> None:
    edited.apply({"op": "split", "id": 1, "by": "line", "line": [[7.5, 22.5], [19.5, 22.5]]})
    masks = planted_masks()
    upper, lower = 6, 7
    assert not np.any(mask_of(edited, upper) & mask_of(edited, lower))
    assert np.array_equal(mask_of(edited, upper) | mask_of(edited, lower), masks[1])
    assert mask_of(edited, upper)[:22].sum() == masks[1][:22].sum() == 14 * 10
    assert parent_of(edited, 3) == upper
    parts = [i for i in edited.ids.tolist() if i > lower]
    assert 4 not in edited.ids
    assert sorted(parent_of(edited, i) for i in parts) == [upper, lower]
    assert np.array_equal(mask_of(edited, parts[0]) | mask_of(edited, parts[1]), masks[4])
    for i in parts:
        assert not np.any(mask_of(edited, i) & ~mask_of(edited, parent_of(edited, i)))


def test_crumbs_across_a_line_are_no_masks(edited: EditedTree) -> None:
    """One row of the second foot lies above the line: 8 of its 64 pixels."""
    edited.apply({"op": "split", "id": 1, "by": "line", "line": [[5, 20.9], [25, 20.9]]})
    assert edited.ids.tolist() == [0, 2, 3, 4, 5, 6, 7]
    lower = parent_of(edited, 4)
    assert lower != parent_of(edited, 3)
    assert not np.any(mask_of(edited, 4) & ~mask_of(edited, lower))
    assert mask_of(edited, 4).sum() == 56


def test_a_diagonal_line_divides_without_a_leak(edited: EditedTree) -> None:
    edited.apply({"op": "split", "id": 5, "by": "line", "line": [[36, 8], [50, 22]]})
    assert edited.ids.tolist()[-2:] == [6, 7]
    assert mask_of(edited, 6).sum() + mask_of(edited, 7).sum() == 100


def test_a_line_that_does_not_divide_is_refused(edited: EditedTree) -> None:
    before = content(edited)
    for line in ([[36, 12], [42, 12]], [[0, 0], [1, 1]]):
        with pytest.raises(InputError, match="draw the line across the whole mask"):
            edited.apply({"op": "split", "id": 5, "by": "line", "line": line})
    assert content(edited) == before
    assert not edited.path.exists()


def test_pieces_far_from_a_line_stay_with_the_nearest(tmp_path: Path) -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 5:20, 5:25] = mask[0, 25:30, 20:30] = True
    MaskTree.from_masks(mask).save(tmp_path / "b.json")
    edited = EditedTree.open(tmp_path / "b.json")
    edited.apply({"op": "split", "id": 0, "by": "line", "line": [[12.5, 0], [12.5, 22]]})
    assert edited.ids.tolist() == [1, 2]
    assert mask_of(edited, 1)[27, 25]
    assert not mask_of(edited, 2)[27, 25]
    edited.apply({"op": "undo"})
    edited.apply({"op": "split", "id": 0, "by": "line", "line": [[0, 22], [40, 22]]})  # touches none: both come apart
    assert [mask_of(edited, i).sum() for i in (3, 4)] == [300, 50]


@pytest.mark.parametrize("seed", range(4))
def test_a_node_of_the_dendrogram_splits_into_its_children(tmp_path: Path, seed: int) -> None:
    tree = random_tree(seed)
    tree.save(tmp_path / "c.json")
    dendrogram = tree.dendrogram
    nodes = {rle_: node for node, rle_ in enumerate(dendrogram.rles(np.arange(len(dendrogram.parents))))}
    checked = 0
    for index in range(len(tree)):
        edited = EditedTree.open(tmp_path / "c.json")
        node = nodes[edited.tree.rles[index]]
        first, second = dendrogram.children[node - dendrogram.n_leaves]
        if min(dendrogram.areas[[first, second]]) < 0.02 * tree.areas[index]:
            continue
        edited.apply({"op": "split", "id": index, "by": "dendrogram"})
        pieces = {edited.tree.rles[edited.ids.tolist().index(len(tree) + k)] for k in (0, 1)}
        assert pieces == set(dendrogram.rles(np.array([first, second])))
        edited.path.unlink()
        checked += 1
    assert checked > 3


def test_a_leaf_and_a_tree_without_dendrogram_do_not_split_along_it(edited: EditedTree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a tree with a dendrogram; got masks only"):
        edited.apply({"op": "split", "id": 1, "by": "dendrogram"})
    tree = random_tree(0)
    tree.save(tmp_path / "c.json")
    deep = EditedTree.open(tmp_path / "c.json")
    y, x = np.argwhere(tree.dendrogram.leaves == 0)[0].tolist()
    deep.apply({"op": "create", "polygon": rectangle(x, y, x + 1, y + 1)})
    with pytest.raises(InputError, match="it is one leaf of the dendrogram"):
        deep.apply({"op": "split", "id": len(tree), "by": "dendrogram"})


def test_a_lasso_adds_to_the_ancestors_too(edited: EditedTree) -> None:
    edited.apply({"op": "add", "id": 3, "polygon": rectangle(2, 11, 12, 13)})
    for identity in (3, 1, 0):
        assert np.array_equal(mask_of(edited, identity) & ~planted_masks()[identity], _box(2, 11, 12, 13, identity))
    assert np.array_equal(mask_of(edited, 2), planted_masks()[2])


def _box(left: int, top: int, right: int, bottom: int, without: int) -> np.ndarray:
    box = np.zeros(SIZE, bool)
    box[top:bottom, left:right] = True
    return box & ~planted_masks()[without]


def test_a_lasso_erases_from_the_parts_too_and_removes_emptied_ones(edited: EditedTree) -> None:
    edited.apply({"op": "erase", "id": 1, "polygon": rectangle(0, 0, 50, 18)})
    assert edited.ids.tolist() == [0, 1, 2, 4, 5]
    assert not mask_of(edited, 1)[:18].any()
    assert np.array_equal(mask_of(edited, 0), planted_masks()[0])
    edited.apply({"op": "erase", "id": 0, "polygon": rectangle(0, 0, 50, 50)})
    assert edited.ids.tolist() == [5]
    edited.apply({"op": "undo"})
    edited.apply({"op": "undo"})
    assert np.array_equal(mask_of(edited, 3), planted_masks()[3])


def test_parts_of_an_emptied_mask_that_reach_out_of_it_stay(tmp_path: Path) -> None:
    """Nested by coverage only: 92 % of the part lie in its whole."""
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 5:20, 5:25] = True
    masks[1, 10:15, 13:26] = True
    MaskTree.from_masks(masks).save(tmp_path / "b.json")
    edited = EditedTree.open(tmp_path / "b.json")
    assert parent_of(edited, 1) == 0
    edited.apply({"op": "erase", "id": 0, "polygon": rectangle(0, 0, 25, 30)})
    assert edited.ids.tolist() == [1]
    assert parent_of(edited, 1) == -1
    assert mask_of(edited, 1).sum() == 5


@pytest.mark.parametrize("op", ["add", "erase"])
def test_a_lasso_that_changes_nothing_is_refused(edited: EditedTree, op: str) -> None:
    elsewhere = rectangle(10, 10, 14, 14) if op == "add" else rectangle(38, 10, 48, 20)
    with pytest.raises(InputError, match="got none; draw it over"):
        edited.apply({"op": op, "id": 0, "polygon": elsewhere})
    with pytest.raises(InputError, match="around the centre of a pixel"):
        edited.apply({"op": op, "id": 0, "polygon": rectangle(60, 60, 90, 90)})


def test_a_new_mask_finds_its_place(edited: EditedTree) -> None:
    edited.apply(
        {"op": "create", "polygon": rectangle(8, 9, 18, 29), "score": 0.5}
    )  # in the first leg, around its feet
    assert parent_of(edited, 6) == 1
    assert [parent_of(edited, i) for i in (3, 4)] == [6, 6]
    assert edited.tree.scores[-1] == 0.5
    mask = np.zeros(SIZE, bool)
    mask[2:38, 2:49] = True
    edited.apply({"op": "create", "rle": {"size": list(SIZE), "counts": rle.encode(mask).decode()}})
    assert [parent_of(edited, i) for i in (0, 5, 7)] == [7, 7, -1]
    assert [parent_of(edited, i) for i in (1, 3)] == [0, 6]
    tree = edited.tree
    has_parent = tree.parents >= 0
    assert np.all(tree.granularities[tree.parents[has_parent]] >= tree.granularities[has_parent])


def test_classes_are_the_users_list(edited: EditedTree) -> None:
    with pytest.raises(InputError, match="expected a class of your list \\(empty\\); got cell"):
        edited.apply({"op": "class", "ids": [1], "class": "cell"})
    edited.apply({"op": "classes", "names": ["cell", "dirt"]})
    edited.apply({"op": "class", "ids": [1, 2], "class": "cell"})
    assert edited.classes == (None, "cell", "cell", None, None, None)
    with pytest.raises(InputError, match="got one without cell; give these masks another class first"):
        edited.apply({"op": "classes", "names": ["dirt"]})
    edited.apply({"op": "class", "ids": [1, 2], "class": None})
    edited.apply({"op": "classes", "names": []})
    assert edited.class_names == ()
    edited.apply({"op": "rename", "id": 2, "name": "Zelle 3 (links) 細胞"})
    assert edited.names[2] == "Zelle 3 (links) 細胞"
    edited.apply({"op": "rename", "id": 2, "name": None})
    assert edited.names[2] is None


def test_an_edit_that_changes_nothing_is_not_written(edited: EditedTree) -> None:
    edited.apply({"op": "accept", "ids": [1]})
    edited.apply({"op": "accept", "ids": [1]})
    edited.apply({"op": "rename", "id": 3, "name": None})
    edited.apply({"op": "classes", "names": []})
    assert edited.version == 1
    assert edited.path.read_text().count("\n") == 2


def test_levels_of_models_stay(tmp_path: Path) -> None:
    tree = random_tree(1)
    levels = np.full(len(tree), 2, np.int8)
    MaskTree.from_rles(tree.rles, tree.size, tree.parents, levels=levels).save(tmp_path / "d.json")
    edited = EditedTree.open(tmp_path / "d.json")
    edited.apply({"op": "delete", "ids": [0]})
    edited.apply({"op": "undo"})
    assert np.array_equal(edited.tree.levels, levels)
