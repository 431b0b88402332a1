"""The file of edits: what survives a kill, damage, hostile content and other programs."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masktree.edits import EditedTree, log, log_path
from masktree.errors import InputError, MasktreeError, MasktreeWarning
from masktree.io.files import sha256_of

from .planted import SIZE, content, planted, planted_tree

EDITS: list[dict[str, Any]] = [
    {"op": "merge", "ids": [3, 4]},
    {"op": "classes", "names": ["foot", "größer"]},
    {"op": "undo"},
    {"op": "redo"},
    {"op": "class", "ids": [6], "class": "größer"},
    {"op": "split", "id": 5, "by": "line", "line": [[36.5, 15], [50, 15]]},
    {"op": "reject", "ids": [2]},
]


def states(edited: EditedTree) -> list[tuple[object, ...]]:
    """Apply the edits; the content after each."""
    found = [content(edited)]
    for edit in EDITS:
        edited.apply(edit)
        found.append(content(edited))
    return found


def test_a_kill_between_any_two_bytes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    edited = planted(tmp_path)
    after = states(edited)
    data = edited.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == len(EDITS) + 1
    for length in range(len(data) + 1):
        edited.path.write_bytes(data[:length])
        acknowledged = max(sum(end <= length for end in ends) - 1, 0)
        is_torn = length not in (0, *ends)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = EditedTree.open(tmp_path / "a.json")
        assert [w.category for w in caught] == [MasktreeWarning] * is_torn
        assert content(again) == after[acknowledged]
        assert edited.path.read_bytes() == data[:length]  # opening changes nothing
        if length % 7 == 0 or is_torn is False:
            again.apply({"op": "rename", "id": 0, "name": "new"})
            reopened = EditedTree.open(tmp_path / "a.json")
            assert content(reopened) == content(again)
            assert reopened.version == acknowledged + 1


def test_an_edit_that_cannot_be_written_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = planted(tmp_path)
    edited.apply(EDITS[0])
    before, data = content(edited), edited.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device; the edit was not made"):
        edited.apply(EDITS[1])
    monkeypatch.undo()
    assert content(edited) == before
    assert edited.path.read_bytes() == data
    edited.apply(EDITS[1])
    assert content(EditedTree.open(tmp_path / "a.json")) == content(edited)


def test_the_trees_file_is_never_changed(tmp_path: Path) -> None:
    edited = planted(tmp_path)
    before = sha256_of(tmp_path / "a.json")
    states(edited)
    assert sha256_of(tmp_path / "a.json") == before
    assert log_path(tmp_path / "a.json") == edited.path == tmp_path / "a.edits.jsonl"


def test_edits_of_another_tree_are_refused(tmp_path: Path) -> None:
    edited = planted(tmp_path)
    edited.apply(EDITS[0])
    planted_tree().save(tmp_path / "a.json", image={"file_name": "other.png"})
    with pytest.raises(InputError, match=r"a\.edits\.jsonl: expected the edits of a\.json; got those of another tree"):
        EditedTree.open(tmp_path / "a.json")
    with pytest.raises(InputError, match="got another tree; open it again"):
        edited.apply(EDITS[1])


def test_two_programs_do_not_overwrite_each_others_edits(tmp_path: Path) -> None:
    first, second = planted(tmp_path), EditedTree.open(tmp_path / "a.json")
    first.apply(EDITS[0])
    with pytest.raises(InputError, match="got another program's edits; open the tree again"):
        second.apply({"op": "delete", "ids": [0]})
    assert second.version == 0
    assert content(EditedTree.open(tmp_path / "a.json")) == content(first)
    shutil.copy(first.path, tmp_path / "kept")
    first.path.unlink()
    with pytest.raises(InputError, match="open the tree again"):
        first.apply(EDITS[1])


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("{", 3),
        ("", 3),
        ("[]", 3),
        ('{"op": "destroy"}', 3),
        ('{"op": ["undo"]}', 3),
        ('{"op": "redo"}', 3),
        ('{"op": "undo", "more": 1}', 3),
        ('{"op": "delete", "ids": [99]}', 3),
        ('{"op": "delete", "ids": [true]}', 3),
        ('{"op": "delete", "ids": [NaN]}', 3),
        ('{"op": "delete", "ids": [' + "9" * 5001 + "]}", 3),
        ('{"op": "delete", "ids": [0], "x": 1}', 3),
        ("\x00\x01\xff", 3),
    ],
)
def test_damaged_lines_are_refused_with_their_number(tmp_path: Path, line: str, number: int) -> None:
    edited = planted(tmp_path)
    edited.apply(EDITS[0])
    with edited.path.open("ab") as handle:
        handle.write(line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=rf"a\.edits\.jsonl(:|,) line {number}:"):
        EditedTree.open(tmp_path / "a.json")


@pytest.mark.parametrize(
    "header", [{}, [], {"format": "masktree"}, {"format": "masktree-edits", "version": 2}, {"op": "undo"}]
)
def test_other_headers_are_refused(tmp_path: Path, header: Any) -> None:
    edited = planted(tmp_path)
    edited.path.write_text(json.dumps(header) + "\n")
    with pytest.raises(InputError, match="line 1: expected edits of masktree, version 1"):
        EditedTree.open(tmp_path / "a.json")


HOSTILE_EDITS: list[Any] = [
    {},
    {"op": None},
    {"op": "destroy"},
    {"op": "undo", "ids": []},
    {"op": "undo"},
    {"op": "redo"},
    {"op": "delete"},
    {"op": "delete", "ids": []},
    {"op": "delete", "ids": [0, 0]},
    {"op": "delete", "ids": [True]},
    {"op": "delete", "ids": [1.0]},
    {"op": "delete", "ids": [-1]},
    {"op": "delete", "ids": [6]},
    {"op": "delete", "ids": ["0"]},
    {"op": "delete", "ids": {"0": 1}},
    {"op": "delete", "ids": [10**5000]},
    {"op": "delete", "ids": [float("nan")]},
    {"op": "delete", "ids": [np.int64(1)]},
    {"op": "delete", "ids": list(range(10**5))},
    {"op": "merge", "ids": [1]},
    {"op": "accept", "ids": None},
    {"op": "rename", "id": 0, "name": ""},
    {"op": "rename", "id": 0, "name": "x" * 201},
    {"op": "rename", "id": 0, "name": "x" * 5_000_000},
    {"op": "rename", "id": 0, "name": "a\nb"},
    {"op": "rename", "id": 0, "name": "a\x00b"},
    {"op": "rename", "id": 0, "name": "\x1b[31m"},
    {"op": "rename", "id": 0, "name": "\u2028"},
    {"op": "rename", "id": 0, "name": "\ud800"},
    {"op": "rename", "id": 0, "name": " a"},
    {"op": "rename", "id": 0, "name": 5},
    {"op": "rename", "id": False, "name": "a"},
    {"op": "class", "ids": [0], "class": "unknown"},
    {"op": "class", "ids": [0], "class": 3},
    {"op": "class", "ids": [0], "class": "\n"},
    {"op": "classes", "names": "abc"},
    {"op": "classes", "names": ["a", "a"]},
    {"op": "classes", "names": [str(i) for i in range(101)]},
    {"op": "classes", "names": [None]},
    {"op": "split", "id": 1},
    {"op": "split", "id": 1, "by": "magic"},
    {"op": "split", "id": 1, "by": ["line"]},
    {"op": "split", "id": 1, "by": "line", "line": [[0, 0]]},
    {"op": "split", "id": 1, "by": "line", "line": [[0, 0], [1e9, 0]]},
    {"op": "split", "id": 1, "by": "line", "line": [[0, 0], [float("inf"), 0]]},
    {"op": "split", "id": 1, "by": "line", "line": [[-1e6, -1e6], [1e6, 1e6]] * 5000},
    {"op": "add", "id": 1, "polygon": [[0, 0], [5, 5]]},
    {"op": "add", "id": 1, "polygon": [[0, 0], [5, 5], [True, 3]]},
    {"op": "add", "id": 1, "polygon": [[0, 0], [5, 5], ["1", 3]]},
    {"op": "add", "id": 1, "polygon": [[0, 0, 0], [5, 5, 0], [5, 3, 0]]},
    {"op": "add", "id": 1, "polygon": [[i % 50, i % 40] for i in range(10_001)]},
    {"op": "add", "id": 1, "polygon": [0, 0, 5, 5, 9, 0]},
    {"op": "erase", "id": 1, "polygon": [[10**400, 0], [5, 5], [9, 0]]},
    {"op": "create"},
    {"op": "create", "rle": {"size": [50, 40], "counts": "0"}},
    {"op": "create", "rle": {"size": list(SIZE), "counts": ""}},
    {"op": "create", "rle": {"size": list(SIZE), "counts": "\xff"}},
    {"op": "create", "rle": {"size": list(SIZE), "counts": "oooooo7" * 1000}},
    {"op": "create", "rle": {"size": list(SIZE), "counts": [1, 2]}},
    {"op": "create", "rle": {"size": list(SIZE)}},
    {"op": "create", "rle": 3},
    {"op": "create", "polygon": [[0, 0], [5, 0], [5, 5]], "score": 2},
    {"op": "create", "polygon": [[0, 0], [5, 0], [5, 5]], "score": True},
    {"op": "create", "polygon": [[0, 0], [5, 0], [5, 5]], "rle": {}},
    {"op": "create", "polygon": [[0, 0], [0.2, 0], [0.2, 0.2]]},
]


@pytest.mark.parametrize("number", range(len(HOSTILE_EDITS)))
def test_hostile_edits_are_refused_and_change_nothing(tmp_path: Path, number: int) -> None:
    edited = planted(tmp_path)
    before = content(edited)
    with pytest.raises(InputError) as caught:
        edited.apply(HOSTILE_EDITS[number])
    text = str(caught.value)
    assert text.startswith("expected ")
    assert len(text) < 600
    assert text.isprintable()
    assert content(edited) == before
    assert not edited.path.exists()


def test_what_is_no_object_or_no_json_is_refused(tmp_path: Path) -> None:
    edited = planted(tmp_path)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for edit in (None, [], "undo", {"op": "delete", "ids": {1, 2}}, {"op": "delete", "ids": deep}):
        with pytest.raises(InputError):
            edited.apply(edit)
    assert edited.version == 0


def test_a_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_LINE_BYTES", 60)
    edited = planted(tmp_path)
    with pytest.raises(InputError, match="expected an edit of at most 60 bytes"):
        edited.apply({"op": "rename", "id": 0, "name": "x" * 60})


def test_a_missing_or_damaged_tree_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EditedTree.open(tmp_path / "none.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(MasktreeError, match="expected a masktree file"):
        EditedTree.open(tmp_path / "b.json")


def test_classes_of_the_tree_file_are_the_first_list(tmp_path: Path) -> None:
    from masktree.trees.file import write_tree

    write_tree(planted_tree(), tmp_path / "c.json", {}, ["body", "leg", "leg", "", "foot", "body"])
    edited = EditedTree.open(tmp_path / "c.json")
    assert edited.class_names == ("body", "leg", "foot")
    assert edited.classes == ("body", "leg", "leg", None, "foot", "body")
