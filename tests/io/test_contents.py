"""What messages call a path that is not what was expected."""

from __future__ import annotations

import pytest

from masktree.io.contents import describe_contents, name_contents

TREE, LABELS = '{"format": "masktree", "version": 2, "image"', '{\n "format": "masktree-labels",\n "version": 1'


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({}, "none", "nothing at"),
        ({"out/.lock": ""}, "out", "an empty folder at"),
        ({"out/a.txt": ""}, "out", "a folder of other files at"),
        ({"out/a.txt": ""}, "out/a.txt", "a file at"),
        ({"cat.JPG": ""}, "cat.JPG", "an image at"),
        ({"a.json": "[]"}, "a.json", "a JSON file at"),
        ({"out/cat.json": TREE, "out/cat.png": ""}, "out", "trees of masktree segment at"),
        ({"out/cat.json": TREE}, "out/cat.json", "the file of trees of masktree segment at"),
        ({"in/cat.jpg": "", "in/out/cat.json": TREE}, "in", "images at"),
        ({"in/deep/cat.jpg": ""}, "in", "images at"),
        ({"labels/index.json": LABELS, "labels/annotations/0.json": "{}"}, "labels", "a label set at"),
        ({"run/config.json": '{"format":"masktree-model"', "run/losses.png": ""}, "run", "a trained model of"),
    ],
)
def test_a_path_is_called_what_it_is(tmp_path, files, path, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert describe_contents(tmp_path / path).startswith(words)


def test_only_what_lies_directly_in_a_folder_makes_it_one_of_something(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert name_contents(tmp_path) is None
    assert name_contents(tmp_path / "none") is None
    assert name_contents(tmp_path / "photos") == "images"
