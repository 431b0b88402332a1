"""Random sequences of edits: invariants of the tree, undo, redo, and replay from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.io.files import sha256_of
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

from .planted import content, random_tree

CLASSES = ["cell", "nucleus", "dirt"]


def random_edit(rng: np.random.Generator, edited: EditedTree) -> dict[str, Any]:
    """An edit that is often possible."""
    ids = edited.ids.tolist()
    height, width = edited.tree.size
    some = rng.permutation(ids)[: rng.integers(1, 4)].tolist()
    one = some[0] if some else 0
    centre = rng.uniform([0, 0], [width, height])
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    ring = centre + rng.uniform(2, 9) * np.stack([np.cos(angles), np.sin(angles)], 1)
    line = rng.uniform([-5, -5], [width + 5, height + 5], (2, 2))
    name = str(rng.choice(["undo", "redo", "merge", "split", "split", "add", "erase", "create", "delete", "labels"]))
    if name in ("undo", "redo"):
        return {"op": name}
    if name == "split":
        by_line = {"by": "line", "line": line.tolist()}
        return {"op": "split", "id": one} | (by_line if rng.random() < 0.7 else {"by": "dendrogram"})
    if name in ("add", "erase"):
        return {"op": name, "id": one, "polygon": ring.tolist()}
    if name == "create":
        return {"op": "create", "polygon": ring.tolist()}
    if name in ("merge", "delete"):
        return {"op": name, "ids": some}
    return [
        {"op": str(rng.choice(["accept", "reject", "reset"])), "ids": some},
        {"op": "rename", "id": one, "name": f"object {rng.integers(5)}"},
        {"op": "class", "ids": some, "class": str(rng.choice(CLASSES))},
        {"op": "classes", "names": CLASSES},
    ][int(rng.integers(4))]


def outside_of_parents(tree: MaskTree) -> np.ndarray:
    """(N,) pixels of each mask outside of its parent."""
    shared = rle.intersections(tree.rles, tree.size)
    has_parent = tree.parents >= 0
    inside = np.where(has_parent, shared[np.arange(len(tree)), np.maximum(tree.parents, 0)], tree.areas)
    return tree.areas - inside


def check_invariants(edited: EditedTree) -> None:
    tree = edited.tree  # MaskTree checks that there are no cycles
    assert np.array_equal(tree.areas, edited.areas)
    assert np.array_equal(tree.boxes, edited.boxes)
    assert np.all(tree.areas > 0)
    for text in tree.rles:
        assert rle.encode(rle.decode(text, tree.size)) == text
    has_parent = tree.parents >= 0
    assert np.all(tree.granularities[tree.parents[has_parent]] >= tree.granularities[has_parent])
    assert {name for name in edited.classes if name} <= set(edited.class_names)
    kept, classes, names = edited.result()
    assert len(kept) == len(classes) == len(names) == sum(status != "rejected" for status in edited.status)


@pytest.mark.parametrize("seed", range(12))
def test_random_edits_keep_what_holds_and_are_replayed(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "photo.json"
    random_tree(seed).save(path)
    before = sha256_of(path)
    edited = EditedTree.open(path)
    assert not outside_of_parents(edited.tree).any()
    made, refused, is_nested = 0, 0, True
    for step in range(60):
        edit = random_edit(rng, edited)
        was, version = content(edited), edited.version
        try:
            edited.apply(edit)
        except InputError:
            refused += 1
            assert content(edited) == was
            assert edited.version == version
            continue
        made += edited.version > version
        is_nested &= edit["op"] not in ("create", "undo", "redo")
        check_invariants(edited)
        # masks that people draw may reach out of their parents; all other edits keep parts inside their wholes
        assert not is_nested or not outside_of_parents(edited.tree).any()
        if edit["op"] not in ("undo", "redo") and edited.version > version:
            now = content(edited)
            edited.apply({"op": "undo"})
            assert content(edited) == was
            edited.apply({"op": "redo"})
            assert content(edited) == now
        if step % 20 == 19:
            assert content(EditedTree.open(path)) == content(edited)
    assert made > 20
    assert sha256_of(path) == before
    replayed = EditedTree.open(path)
    assert (replayed.version, replayed.can_undo, replayed.can_redo) == (
        edited.version,
        edited.can_undo,
        edited.can_redo,
    )
    while replayed.can_undo:
        replayed.apply({"op": "undo"})
    assert content(replayed)[:-1] == content(EditedTree(replayed.machine_tree, None, replayed._log))[:-1]
    while replayed.can_redo:
        replayed.apply({"op": "redo"})
    reference = EditedTree.open(path)
    assert content(reference) == content(replayed)


@pytest.mark.parametrize("seed", range(3))
def test_all_but_created_masks_stay_in_their_wholes(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    random_tree(seed).save(tmp_path / "photo.json")
    edited = EditedTree.open(tmp_path / "photo.json")
    for _ in range(80):
        edit = random_edit(rng, edited)
        if edit["op"] == "create":
            continue
        try:
            edited.apply(edit)
        except InputError:
            continue
        assert not outside_of_parents(edited.tree).any()
