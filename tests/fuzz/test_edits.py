"""Files of edits, and edits as a browser may send them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from masktree.edits import EditedTree
from masktree.errors import InputError, MasktreeWarning
from tests.edits.planted import SIZE, content, planted_tree

from .mutations import mutated_bytes, mutated_json
from .target import fuzz

EDITS: list[dict[str, Any]] = [
    {"op": "classes", "names": ["foot", "leg"]},
    {"op": "class", "ids": [3, 4], "class": "foot"},
    {"op": "rename", "id": 5, "name": "ball"},
    {"op": "split", "id": 5, "by": "line", "line": [[36.5, 15], [50, 15]]},
    {"op": "merge", "ids": [6, 7]},
    {"op": "add", "id": 2, "polygon": [[1, 1], [9.5, 2], [6, 12]]},
    {"op": "erase", "id": 1, "polygon": [[5, 10], [30, 12], [30, 30], [5, 30]]},
    {"op": "create", "polygon": [[12, 12], [16, 12], [16, 16]], "score": 0.5},
    {"op": "create", "rle": {"size": list(SIZE), "counts": planted_tree().rles[4].decode()}},
    {"op": "reject", "ids": [0, 8]},
    {"op": "undo"},
    {"op": "redo"},
    {"op": "delete", "ids": [0, 8]},
]


@pytest.fixture(scope="module")
def tree_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edits") / "a.json"
    planted_tree().save(path)
    return path


@pytest.fixture(scope="module")
def lines(tree_file: Path) -> list[bytes]:
    """Of a file of edits."""
    edited = EditedTree.open(tree_file)
    for edit in EDITS:
        edited.apply(edit)
    return edited.path.read_bytes().splitlines(keepends=True)


def _read(tree_file: Path, data: bytes) -> None:
    log = tree_file.with_name("a.edits.jsonl")
    log.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MasktreeWarning)  # of a last line without its end
        edited = EditedTree.open(tree_file)
    tree, classes, names = edited.result()
    assert len(tree) == len(classes) == len(names)
    before = content(edited)
    if edited.can_undo:
        edited.apply({"op": "undo"})
        edited.apply({"op": "redo"})
    assert content(edited) == before


def test_files_of_edits(tree_file: Path, lines: list[bytes]) -> None:
    @st.composite
    def files(draw: st.DrawFn) -> bytes:
        number = draw(st.integers(0, len(lines) - 1))
        changed = draw(st.one_of(mutated_json([json.loads(lines[number])]), mutated_bytes([lines[number]])))
        return b"".join([*lines[:number], changed, b"\n" * draw(st.integers(0, 1)), *lines[number + 1 :]])

    inputs = st.one_of(files(), files(), mutated_bytes([b"".join(lines)]))
    fuzz("files of edits", inputs, lambda data: _read(tree_file, data), cost=2)


def test_edits_of_a_browser(tree_file: Path) -> None:
    tree_file.with_name("a.edits.jsonl").unlink(missing_ok=True)
    edited = EditedTree.open(tree_file)

    def apply(data: bytes) -> None:
        before, version = content(edited), edited.version
        try:
            edit = json.loads(data)
        except (ValueError, RecursionError):
            return
        try:
            edited.apply(edit)
        except InputError:
            assert (content(edited), edited.version) == (before, version)
            raise
        if edited.version > version:
            edited.apply({"op": "undo" if edited.can_undo else "redo"})

    fuzz("edits", mutated_json(EDITS), apply, cost=2)
    assert content(EditedTree.open(tree_file)) == content(edited)
