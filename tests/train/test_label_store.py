from __future__ import annotations

import json
import pickle
import tracemalloc
from unittest import mock

import numpy as np
import pytest

from masktree.errors import FormatError, InputError
from masktree.io.read_options import ReadOptions
from masktree.labels import LabelSet
from masktree.train import label_store as module
from masktree.train.label_store import LabelStore
from masktree.trees.masktree import MaskTree
from tests.train.labelled import random_tree, write_collection, write_labels

SIZES = {"a.png": (20, 30), "b/ü.png": (40, 25), "b/c.png": (33, 33), "d.png": (8, 50), "e.png": (64, 64)}


@pytest.fixture
def labels(tmp_path) -> LabelSet:
    """Five photographs in shards of two; one has no mask."""
    write_collection(tmp_path, SIZES)
    rng = np.random.default_rng(2)
    trees = {name: random_tree(size, 0 if name == "d.png" else 7, rng) for name, size in SIZES.items()}
    return write_labels(tmp_path / "shards", tmp_path / "photos", trees, shard_size=2)


def test_the_store_holds_what_the_label_set_does(labels):
    store = LabelStore.of(labels)
    assert len(store) == len(labels) == 5
    assert store.num_masks == 28
    seen = 0
    for number, (image, tree) in enumerate(labels):
        record = store[number]
        assert record.name == image["file_name"]
        assert record.size == tree.size == SIZES[record.name]
        assert record.rles == tree.rles
        for name in ("parents", "levels", "scores"):
            np.testing.assert_array_equal(getattr(record, name), getattr(tree, name))
            assert getattr(record, name).dtype == getattr(tree, name).dtype
        seen += len(record.rles)
    assert seen == 28
    assert store.images_with_masks().tolist() == [i for i in range(5) if len(store[i].rles)]
    assert len(store.images_with_masks()) == 4
    with pytest.raises(InputError, match=r"index in 0 \.\.\. 4; got 5"):
        store[5]
    with pytest.raises(InputError, match="got -1"):
        store[-1]


def test_it_is_made_once_and_anew_when_the_labels_change(labels, tmp_path):
    first = LabelStore.of(labels)
    with mock.patch.object(module, "_write_store", side_effect=AssertionError):
        again = LabelStore.of(labels)
    assert again.key == first.key
    assert again.folder == first.folder
    trees = {image["file_name"]: random_tree(tree.size, 3, np.random.default_rng(4)) for image, tree in labels}
    changed = LabelStore.of(write_labels(tmp_path / "shards", tmp_path / "photos", trees, shard_size=2))
    assert changed.key != first.key
    assert changed.num_masks == 15
    assert sorted(p.name for p in changed.folder.parent.iterdir() if p.is_dir()) == [changed.key]


def test_it_can_be_kept_elsewhere_and_sent_to_other_processes(labels, tmp_path):
    store = LabelStore.of(labels, tmp_path / "elsewhere")
    assert store.folder.parent == tmp_path / "elsewhere"
    sent = pickle.dumps(store)
    assert len(sent) < 400
    assert pickle.loads(sent)[2].rles == store[2].rles
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="another folder"):
        LabelStore.of(labels, tmp_path / "file" / "below")


def test_a_making_that_is_interrupted_leaves_nothing_that_is_taken_for_a_store(labels):
    with mock.patch.object(module, "write_json", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        LabelStore.of(labels)
    assert [p for p in (labels.folder / "store").iterdir() if p.is_dir()] == []
    assert len(LabelStore.of(labels)) == 5
    key = LabelStore.of(labels).key
    (labels.folder / "store" / key / "store.json").unlink()  # as after a kill
    assert len(LabelStore.of(labels)) == 5


def test_progress_is_told_of_each_image(labels):
    progress = mock.Mock()
    LabelStore.of(labels, progress=progress)
    assert progress.advance.call_count == 5
    LabelStore.of(labels, progress=progress)
    assert progress.advance.call_count == 5


def test_label_sets_without_anything_to_learn_are_refused(tmp_path):
    write_collection(tmp_path, SIZES)
    rng = np.random.default_rng(0)
    bare = {name: random_tree(size, 0, rng) for name, size in SIZES.items()}
    labels = write_labels(tmp_path / "bare", tmp_path / "photos", bare)
    with pytest.raises(InputError, match="got 5 images and 0 masks"):
        LabelStore.of(labels)
    with pytest.raises(InputError, match="got 0 images and 0 masks"):
        LabelStore.of(LabelSet(labels.folder, labels.index | {"shards": []}))


def test_damaged_labels_are_refused(labels):
    shard = labels.folder / labels.index["shards"][1]["file"]
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'"level": "whole"', b'"level": "part" ', 1))
    with pytest.raises(FormatError, match="differs from the hash"):
        LabelStore.of(labels)


def test_masks_of_another_size_than_their_image_are_refused(tmp_path):
    labels = write_collection(tmp_path, {"a.png": (20, 30)})
    tree = random_tree((20, 30), 2, np.random.default_rng(0))
    wrong = MaskTree(
        (20, 30), (tree.rles[0], b"33"), tree.parents, tree.scores, tree.granularities, tree.stabilities, tree.levels
    )
    with (
        mock.patch.object(LabelSet, "__iter__", return_value=iter([({"file_name": "a.png"}, wrong)])),
        pytest.raises(FormatError, match=r"a\.png: expected run lengths of 20 x 30"),
    ):
        LabelStore.of(labels)


def test_empty_masks_are_left_out(tmp_path):
    write_collection(tmp_path, {"a.png": (20, 30)})
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:15, 2:15] = masks[2, 4:9, 4:9] = True
    tree = MaskTree.from_rles(
        [*MaskTree.from_masks(masks).rles], (20, 30), np.array([-1, 0, 1]), levels=np.array([0, 1, 2])
    )
    store = LabelStore.of(write_labels(tmp_path / "l", tmp_path / "photos", {"a.png": tree}))
    assert store[0].parents.tolist() == [-1, 0]
    assert store[0].levels.tolist() == [0, 2]
    assert store[0].rles == (tree.rles[0], tree.rles[2])


@pytest.mark.parametrize("column", ["rles", "parents", "mask_starts", "rle_starts", "names", "sizes"])
def test_a_damaged_store_is_noticed(labels, column):
    store = LabelStore.of(labels)
    sums = [store[i].checksum() for i in range(5)]
    path = store.folder / f"{column}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(FormatError, match=r"expected \d+ bytes.*delete"):
        LabelStore.of(labels)
    noticed = 0
    for place in range(0, len(content), max(1, len(content) // 20)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x91]) + content[place + 1 :])
        damaged = LabelStore(store.folder)
        try:
            assert [damaged[i].checksum() for i in range(5)] == sums  # an end beyond the file changes nothing
        except FormatError as error:
            assert "differs from what was written; delete" in str(error)  # noqa: PT017
            noticed += 1
    assert noticed >= 18
    path.unlink()
    with pytest.raises(FormatError, match="got none"):
        LabelStore.of(labels)


def test_what_is_no_store_is_refused(labels, tmp_path):
    with pytest.raises(FormatError, match=r"got no store\.json"):
        LabelStore(tmp_path)
    store = LabelStore.of(labels)
    manifest = json.loads((store.folder / "store.json").read_text())
    (store.folder / "store.json").write_text(json.dumps(manifest | {"version": 3}))
    with pytest.raises(FormatError, match="version 2; got something else"):
        LabelStore.of(labels)
    (store.folder / "store.json").write_text("{")
    with pytest.raises(FormatError, match="damaged file"):
        LabelStore.of(labels)


def test_memory_does_not_grow_with_the_label_set(tmp_path):
    """The same images, in eight times as many shards: as much memory to make, and none to hold."""
    names = [f"{i:02d}.png" for i in range(32)]
    write_collection(tmp_path, dict.fromkeys(names, (64, 64)), count=1)
    tree = random_tree((64, 64), 150, np.random.default_rng(0))
    peaks = []
    for count in (4, 32):
        for name in names[count:]:
            (tmp_path / "photos" / name).rename(tmp_path / name)
        labels = write_labels(tmp_path / f"l{count}", tmp_path / "photos", dict.fromkeys(names, tree), shard_size=2)
        for name in names[count:]:
            (tmp_path / name).rename(tmp_path / "photos" / name)
        tracemalloc.start()
        store = LabelStore.of(labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        assert sum(len(store[i].rles) for i in range(count)) == 150 * count
        assert tracemalloc.get_traced_memory()[1] - held < 2e5
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_photographs_are_read_as_when_they_were_labelled(tmp_path):
    """Labels of a channel train on that channel."""
    labels = write_collection(tmp_path, {"a.png": (20, 30)})
    key = LabelStore.of(labels).key
    index = labels.index | {"config": {"read": {"channels": [2], "value_range": [1, 99]}}}
    (labels.folder / "index.json").write_text(json.dumps(index))
    store = LabelStore.of(LabelSet.open(labels.folder))
    assert store.read_options == ReadOptions((2,), value_range=(1, 99))
    assert store.key != key
