"""Photographs that are segmented in tiles: what is written, what is drawn again, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from masktree.errors import InputError
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.pictures import InstanceMap, Picture, Pictures, draw
from masktree.stages.segment import segment
from masktree.trees.masktree import MaskTree
from masktree.trees.tiled import TiledTree
from tests.large.planted_segmenter import PlantedSegmenter

TEXTURE = SegmenterConfig(backbone="texture", options={"max_masks": 30})
TAGS = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), True)]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A folder with a large and a small photograph, and their results; 20,000 pixels count as large."""
    folder = tmp_path_factory.mktemp("large")
    image = np.full((180, 240, 3), (60, 140, 70), np.uint8)
    image[40:140, 60:180] = (190, 50, 40)
    (folder / "in").mkdir()
    tifffile.imwrite(folder / "in" / "scan.tif", image, photometric="rgb", tile=(64, 64), extratags=TAGS)
    Image.fromarray(image[:100, :100]).save(folder / "in" / "small.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("masktree.stages.large_job.MAX_PIXELS", 20_000)
        outcome = segment([folder / "in"], folder / "out", TEXTURE)
        again = segment([folder / "in"], folder / "out", TEXTURE)
    return folder, outcome, again


def test_large_photographs_are_segmented_in_tiles(segmented):
    folder, outcome, again = segmented
    assert (outcome.completed, outcome.skipped, outcome.failures) == (2, 0, [])
    assert (again.completed, again.skipped) == (0, 2)
    assert sorted(path.name for path in (folder / "out").iterdir() if not path.name.startswith(".")) == [
        *("run.json", "scan.cut.tif", "scan.dendrogram.npz", "scan.json", "scan.png", "small.json", "small.png")
    ]
    tree = MaskTree.load(folder / "out" / "scan.json")
    assert tree.size == (180, 240)
    assert 0 < len(tree) <= 30
    square = np.zeros(tree.size, bool)
    square[40:140, 60:180] = True
    masks = [tree.mask(index) for index in range(len(tree))]
    assert max((mask & square).sum() / (mask | square).sum() for mask in masks) > 0.95


def test_the_label_image_is_the_cut_with_its_place_on_the_earth(segmented):
    folder, _, _ = segmented
    tiled = TiledTree.load(folder / "out" / "scan.dendrogram.npz")
    with tifffile.TiffFile(folder / "out" / "scan.cut.tif") as file:
        page = file.pages.first
        assert page.is_tiled
        assert file.is_bigtiff
        assert np.array_equal(page.asarray(), tiled.cut(0.5))
        assert [page.tags[code].value for code, *_ in TAGS] == [value for *_, value, _ in TAGS]


def test_pictures_are_drawn_again_without_the_photograph(segmented):
    folder, _, _ = segmented
    before = (folder / "out" / "scan.png").read_bytes()
    (folder / "in").rename(folder / "elsewhere")
    try:
        outcome = draw(folder / "out", Pictures(Picture("cut", 0.2)))
    finally:
        (folder / "elsewhere").rename(folder / "in")
    assert [failure["path"] for failure in outcome.failures] == [str(folder / "out" / "small.json")]  # is not kept
    assert (folder / "out" / "scan.png").read_bytes() != before
    tiled = TiledTree.load(folder / "out" / "scan.dendrogram.npz")
    assert np.array_equal(tifffile.imread(folder / "out" / "scan.cut.tif"), tiled.cut(0.2))


def test_what_large_photographs_cannot_have_is_said(segmented, tmp_path):
    folder, _, _ = segmented
    config = SegmenterConfig(backbone="texture", options={"max_area": 0.5})
    outcome = segment([folder / "in" / "scan.tif"], tmp_path / "options", config, tile=1024)
    assert "no max_area" in outcome.failures[0]["error"]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "scan.cut.tif").write_bytes(b"mine")
    outcome = segment([folder / "in" / "scan.tif"], tmp_path / "foreign", TEXTURE, tile=1024)
    assert "foreign" in outcome.failures[0]["error"]
    assert (tmp_path / "foreign" / "scan.cut.tif").read_bytes() == b"mine"


def test_instances_are_a_label_image_and_a_small_copy(segmented, tmp_path):
    folder, _, _ = segmented
    pictures = Pictures(instances=InstanceMap(min_score=0.5))
    outcome = segment([folder / "in" / "scan.tif"], tmp_path, TEXTURE, pictures=pictures, tile=1024)
    assert outcome.failures == []
    expected = MaskTree.load(tmp_path / "scan.json").instances(min_score=0.5)
    assert expected.max() > 0
    assert np.array_equal(tifffile.imread(tmp_path / "scan.instances.tif"), expected)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "scan.instances.png")), expected)  # here as large
    again = segment([folder / "in" / "scan.tif"], tmp_path, TEXTURE, pictures=pictures, tile=1024)
    assert (again.completed, again.redrawn, again.skipped) == (0, 0, 1)


def test_masks_of_windows_are_written_and_drawn_again(segmented, tmp_path, monkeypatch):
    folder, _, _ = segmented
    monkeypatch.setattr(SegmenterConfig, "load", lambda _: PlantedSegmenter([(190, 50, 40)]))
    config = SegmenterConfig("texture", "sohes")
    pictures = Pictures(instances=InstanceMap(min_score=0.5))
    outcome = segment([folder / "in" / "scan.tif"], tmp_path, config, pictures=pictures, tile=96, workers=1)
    assert outcome.failures == []
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        *("run.json", "scan.cut.tif", "scan.instances.png", "scan.instances.tif", "scan.json", "scan.masks.npz"),
        "scan.png",
    ]
    square = np.zeros((180, 240), bool)
    square[40:140, 60:180] = True
    tree = MaskTree.load(tmp_path / "scan.json")
    assert np.array_equal(tree.mask(0), square)
    assert np.array_equal(tifffile.imread(tmp_path / "scan.cut.tif"), np.where(square, 0, 1))
    assert np.array_equal(tifffile.imread(tmp_path / "scan.instances.tif"), square)
    before = (tmp_path / "scan.png").read_bytes()
    assert draw(tmp_path, Pictures(Picture("cut", 0.2))).failures == []
    assert (tmp_path / "scan.png").read_bytes() != before


def test_labels_are_made_of_smaller_photographs_and_larger_ones_are_named(segmented, tmp_path):
    folder, _, _ = segmented
    (tmp_path / "in").mkdir()
    tiles = (np.zeros((4096, 4096), np.uint8) for _ in range(16))
    layout = {"shape": (13000, 13000), "dtype": np.uint8, "tile": (4096, 4096), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "in" / "large.tif", tiles, **layout)
    shutil.copy(folder / "in" / "small.png", tmp_path / "in")
    outcome = discover(tmp_path / "in", tmp_path / "labels", TEXTURE, workers=1)
    assert outcome.completed == 1
    assert "expected at most 150,000,000 pixels; got 13000 x 13000" in outcome.failures[0]["error"]
    assert "\n" not in outcome.failures[0]["error"]


def test_trees_of_tiles_are_another_configuration(segmented):
    folder, _, _ = segmented
    with pytest.raises(InputError, match="in_tiles"):
        segment([folder / "in"], folder / "out", TEXTURE, tile=1024)
