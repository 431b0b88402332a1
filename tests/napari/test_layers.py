"""Labels layers of trees and back, and the manifest; without Qt."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import masktree.napari
from masktree.errors import InputError
from masktree.napari.files import get_reader, write_labels
from masktree.napari.layers import cut_layer, level_layers, tree_of_layers
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from tests.export.planted import SIZE, planted_masks, planted_tree

MANIFEST = Path(masktree.napari.__file__).with_name("napari.yaml")


def nested_tree() -> MaskTree:
    """Whole, part, and three subparts in each other, with parents -1, 0, 1, 2, 3, and scores of their own."""
    masks = np.zeros((5, *SIZE), bool)
    for index in range(5):
        masks[index, index * 2 : 30 - index * 2, index * 3 : 44 - index * 3] = True
    tree = MaskTree.from_masks(masks)
    assert tree.parents.tolist() == [-1, 0, 1, 2, 3]
    return replace(tree, scores=np.linspace(0.5, 0.9, 5, dtype=np.float32), stabilities=np.full(5, 0.25))


def reread(path: Path) -> MaskTree:
    read = get_reader(str(path))
    assert read is not None
    write_labels(str(path.with_name("again.json")), read(str(path)))
    return MaskTree.load(path.with_name("again.json"))


def test_a_file_has_a_layer_per_level_with_features(tmp_path):
    tree = planted_tree()
    tree.save(tmp_path / "cells.json")
    read = get_reader([str(tmp_path / "cells.json")])
    assert read is not None
    layers = read([str(tmp_path / "cells.json")])
    assert [arguments["name"] for _, arguments, _ in layers] == ["cells wholes", "cells parts", "cells subparts"]
    for data, arguments, kind in layers:
        assert kind == "labels"
        features = arguments["features"]
        assert set(features) >= {"index", "parent_id", "level", "score", "granularity"}
        for label, index, parent in zip(features["index"], features["id"], features["parent_id"], strict=True):
            assert label == index + 1
            assert parent == tree.parents[index]
            assert (data == label).sum() > 0
            assert not ((data == label) & ~tree.mask(index)).any()


@pytest.mark.parametrize("tree", [planted_tree(), nested_tree()], ids=["planted", "nested"])
def test_what_is_written_is_what_was_read(tree, tmp_path):
    """Masks that lie in each other in one layer too, although a layer has one label per pixel."""
    tree.save(tmp_path / "a.json")
    again = reread(tmp_path / "a.json")
    order = [again.rles.index(text) for text in tree.rles]
    assert len(again) == len(tree)
    back = np.argsort(order)
    for index, place in enumerate(order):
        parent = again.parents[place]
        assert (back[parent] if parent >= 0 else -1) == tree.parents[index]
    for name in ("scores", "granularities", "stabilities"):
        np.testing.assert_allclose(getattr(again, name)[order], getattr(tree, name), atol=2e-5)


def test_the_dendrogram_stays_with_the_masks(tmp_path):
    leaves = np.repeat(np.arange(4, dtype=np.int32), 4).reshape(4, 4)
    dendrogram = PartitionTree(leaves, np.array([4, 4, 5, 5, 6, 6, 6]), np.array([0, 0, 0, 0, 0.2, 0.4, 0.9]))
    tree = MaskTree.from_dendrogram(dendrogram, min_area=1)
    tree.save(tmp_path / "a.json")
    np.testing.assert_array_equal(reread(tmp_path / "a.json").cut(0.3), tree.cut(0.3))
    data, arguments, _ = cut_layer(tree, 0.3)
    np.testing.assert_array_equal(data, tree.cut(0.3) + 1)
    assert arguments["features"]["index"].tolist() == [1, 2, 3]
    for label, owner in zip(arguments["features"]["index"], arguments["features"]["parent_id"], strict=True):
        assert owner == -1 or not ((data == label) & ~tree.mask(owner)).any()


def test_painted_labels_become_masks_and_erased_ones_are_gone():
    layers = [(data.copy(), arguments["metadata"]) for data, arguments, _ in level_layers(nested_tree())]
    layers[1][0][:] = 0  # the part is erased: its child goes to the whole
    drawn = np.zeros(SIZE, np.int32)
    drawn[0:3, 0:3] = 7
    tree = tree_of_layers([*layers, (drawn, {})])
    assert len(tree) == 5
    [new] = [index for index in range(5) if tree.areas[index] == 9]
    assert tree.scores[new] == 1
    assert tree.parents[new] == np.argmax(tree.areas)
    assert sorted(tree.depths.tolist()) == [0, 1, 1, 2, 3]


def test_brush_strokes_change_the_masks_that_they_touch():
    tree = planted_tree()
    data, arguments, _ = level_layers(tree)[1]  # the parts 1, 4 and 5
    data = data.copy()
    data[3:5, 2:22] = 0  # erased from part 1
    data[10:12, 9:12] = 2  # painted into its hole
    data[20, 30:40] = 2  # and over some of part 4, which loses them
    data[6, 3:6] = 99  # a new label over part 1
    again = tree_of_layers([(data, arguments["metadata"])])
    masks = planted_masks()
    expected = masks[1].copy()
    expected[3:5, 2:22] = False
    expected[10:12, 9:12] = expected[20, 30:40] = True
    found = {index: again.mask(index) for index in range(len(again))}
    np.testing.assert_array_equal(found[0], expected)
    masks[4, 20, 30:40] = False
    np.testing.assert_array_equal(found[1], masks[4])
    np.testing.assert_array_equal(found[2], masks[5])
    assert found[3].sum() == 3
    assert again.parents.tolist() == [-1, -1, -1, 0]


def test_trees_of_two_files_do_not_mix():
    first, second = planted_tree(), nested_tree()
    layers = [(data, arguments["metadata"]) for tree in (first, second) for data, arguments, _ in level_layers(tree)]
    tree = tree_of_layers(layers)
    assert len(tree) == len(first) + len(second)
    np.testing.assert_allclose(np.sort(tree.scores), np.sort(np.concatenate([first.scores, second.scores])))


def test_plain_labels_are_nested_by_coverage():
    masks = planted_masks()
    tree = tree_of_layers([(masks[1].astype(np.uint8), {}), (np.where(masks[2], 5, 0), {})])
    assert len(tree) == 2
    assert len(tree_of_layers([(masks[1], {}), (masks[1] * 3, {})])) == 1
    assert len(tree_of_layers([(np.zeros(SIZE, int), {})])) == 0


def test_other_files_and_layers_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    assert get_reader(str(tmp_path / "a.json")) is None
    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(tmp_path / "nothing.json")) is None
    for data in (np.zeros((2, 4, 5), int), np.zeros((0, 5), int)):
        with pytest.raises(InputError, match=r"expected labels of one image"):
            tree_of_layers([(data, {})])
    with pytest.raises(InputError, match=r"got none; select layers"):
        tree_of_layers([])
    with pytest.raises(InputError, match=r"got \(4, 5\), \(4, 6\)"):
        tree_of_layers([(np.zeros((4, 5), int), {}), (np.zeros((4, 6), int), {})])


@pytest.mark.filterwarnings("default")  # npe2 has not followed the releases of pydantic
def test_manifest_is_valid_and_its_commands_exist(tmp_path):
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed: pip install npe2.")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    assert manifest.name == "masktree"
    manager = npe2.PluginManager()
    manager.register(manifest)
    planted_tree().save(tmp_path / "a.json")
    [reader] = manager.iter_compatible_readers([str(tmp_path / "a.json")])
    assert reader.command == "masktree.read"
    [writer] = manager.iter_compatible_writers(["labels", "labels"])
    assert writer.filename_extensions == [".json"]
    assert [widget.command for widget in manager.iter_widgets()] == ["masktree.segment"]
    for command in manifest.contributions.commands:
        module, function = command.python_name.split(":")
        source = Path(masktree.napari.__file__).with_name(f"{module.rpartition('.')[2]}.py").read_text()
        assert f"def {function}(" in source or f"class {function}(" in source


def test_package_has_the_manifest_and_names_it():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"masktree": "masktree.napari:napari.yaml"}
    assert MANIFEST.is_file()
