"""Photographs of several folders as one collection."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.io.photos import find_in_folders


@pytest.fixture
def coco(tmp_path) -> Path:
    for name in ("train/1.jpg", "train/2.jpg", "unlabeled/1.jpg", "val/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def test_photographs_of_several_folders_have_names_below_their_common_folder(coco):
    root, photos, failures = find_in_folders([coco / "unlabeled", coco / "train"])
    assert (root, failures) == (coco, [])
    assert [photo.name for photo in photos] == ["train/1", "train/2", "unlabeled/1"]
    assert find_in_folders([coco / "train", coco / "unlabeled", coco / "train"])[1] == photos


def test_what_is_no_folder_is_refused(coco):
    for folders, words in (([], "got none"), ([coco / "train", coco / "train" / "1.jpg"], r"got .*1\.jpg")):
        with pytest.raises(InputError, match=words):
            find_in_folders(folders)
