"""Masks in windows: shapes across borders are whole, and the hierarchy, the windows and a stopped run are right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile
import torch

from masktree.errors import FormatError, InputError, MasktreeWarning
from masktree.io.images import decode_image
from masktree.io.read_options import ReadOptions
from masktree.large import masks as large
from masktree.large.segment import makes_dendrogram, segment_large
from masktree.large.window_grid import WindowGrid
from masktree.large.window_job import WindowJob
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import Mask2FormerConfig
from masktree.predict import SegmenterConfig
from masktree.trees.masktree import MaskTree
from masktree.trees.tiled_masks import TiledMasks

from .planted_segmenter import GROUND, PlantedSegmenter

SOHES = SegmenterConfig("texture", "sohes")
SIZE = (300, 410)
COLOURS = [(250 - 25 * k, 30 * k % 180, 120 + 67 * k % 128) for k in range(10)]


def scene():
    """(image, shapes): small discs, one on every border of windows of 64 and 96 pixels; a long bar; a box larger than
    two windows, with a disc in it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.full((*SIZE, 3), GROUND, np.uint8)
    shapes = {"bar": (y > 20) & (y < 32) & (x > 15) & (x < 390)}
    shapes["box"] = (y > 70) & (y < 260) & (x > 60) & (x < 250)
    shapes["spot"] = (y - 150) ** 2 + (x - 144) ** 2 < 18**2
    for k, (row, column) in enumerate([(48, 330), (96, 300), (144, 288), (192, 384), (240, 336), (270, 20), (200, 30)]):
        shapes[f"disc {k}"] = (y - row) ** 2 + (x - column) ** 2 < (6 + k) ** 2
    for colour, shape in zip(COLOURS, shapes.values(), strict=True):
        image[shape] = colour
    return image, shapes


def best_iou(masks, shape):
    return max((mask & shape).sum() / (mask | shape).sum() for mask in masks)


@pytest.fixture
def planted(monkeypatch):
    segmenter = PlantedSegmenter(COLOURS)
    monkeypatch.setattr(SegmenterConfig, "load", lambda _: segmenter)
    return segmenter


@pytest.mark.parametrize("side", [64, 96, 1000])
def test_shapes_across_borders_are_whole(planted, tmp_path, side):
    image, shapes = scene()
    tree = segment_large(image, tmp_path / "scene.npz", SOHES, tile=side)
    assert isinstance(tree, TiledMasks)
    assert max(map(max, planted.windows)) <= side
    masks = [tree.mask(index) for index in range(len(tree))]
    for name, shape in shapes.items():
        assert best_iou(masks, shape) > (0.85 if name == "box" else 0.99), name
    # Nothing but these: no parts of them, and none of them twice.
    assert len(tree) <= len(shapes) + 1
    assert [file.name for file in tmp_path.iterdir()] == ["scene.npz"]


def test_the_side_of_the_windows_hardly_matters(planted, tmp_path):
    image, _ = scene()
    trees = [segment_large(image, tmp_path / f"{side}.npz", SOHES, tile=side) for side in (64, 100)]
    masks = [[tree.mask(index) for index in range(len(tree))] for tree in trees]
    assert len(masks[0]) == len(masks[1])
    assert all(best_iou(masks[1], mask) > 0.85 for mask in masks[0])


def test_parts_lie_under_what_holds_them(planted, tmp_path):
    image, shapes = scene()
    tree = segment_large(image, tmp_path / "scene.npz", SOHES, tile=96)
    masks = [tree.mask(index) for index in range(len(tree))]
    spot, box = (
        int(np.argmax([(m & s).sum() / (m | s).sum() for m in masks])) for s in (shapes["spot"], shapes["box"])
    )
    assert tree.parents[spot] == box
    assert tree.factors[spot] == 1
    assert tree.parents[box] == -1
    assert tree.granularities[spot] < tree.granularities[box]


def test_cuts_are_those_of_a_mask_tree_and_windows_are_parts_of_them(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(large, "BLOCK", 128)
    image, _ = scene()
    tree = segment_large(image, tmp_path / "scene.npz", SOHES, tile=96)
    whole = tree.mask_tree()
    assert whole.size == SIZE
    assert whole.rles == MaskTree.from_masks(np.array([tree.mask(k) for k in range(len(tree))])).rles
    for granularity in (0.0, 0.05, 0.5, 1.0):
        labels = tree.cut(granularity)
        pairs = np.unique(np.stack([labels, whole.cut(granularity)]).reshape(2, -1), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]  # one to one
        for top, left, bottom, right in [(0, 0, 10, 10), (60, 90, 200, 300)]:
            part = tree.cut(granularity, window=(top, left, bottom, right))
            assert np.array_equal(part, labels[top:bottom, left:right])
    highest, blocks = tree.cut_blocks(0.05)
    assert [block.tolist() for block in blocks] == [
        tree.cut(0.05, window=tree.grid.window(index)).tolist() for index in range(len(tree.grid))
    ]
    assert highest >= labels.max()
    small = tree.overview_tree(max_masks=5)
    assert (len(small), small.omitted) == (5, len(tree) - 5)
    assert small.size == tree.overview.shape[:2]
    assert np.array_equal(tree.overview, image)
    assert tree.inside((0, 0, 60, 60)).tolist() == [
        k for k in range(len(tree)) if (tree.boxes[k, :2] < 60).all() and (tree.boxes[k, 2:] > 0).all()
    ]


def test_a_stopped_run_goes_on(planted, tmp_path, monkeypatch):
    image, _ = scene()
    tifffile.imwrite(tmp_path / "scene.tif", image, photometric="rgb", tile=(64, 64))
    segment, done = WindowJob.__call__, []

    def stop_after_nine(job, item):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(item)
        segment(job, item)

    with monkeypatch.context() as patch:
        patch.setattr(WindowJob, "__call__", stop_after_nine)
        with pytest.raises(KeyboardInterrupt):
            segment_large(tmp_path / "scene.tif", tmp_path / "scene.npz", SOHES, tile=96)
    assert not (tmp_path / "scene.npz").exists()
    assert len(planted.windows) == 9
    tree = segment_large(tmp_path / "scene.tif", tmp_path / "scene.npz", SOHES, tile=96)
    once = len(planted.windows)
    other = segment_large(image, tmp_path / "other.npz", SOHES, tile=96)
    assert len(planted.windows) == 2 * once
    assert np.array_equal(tree.boxes, other.boxes)


def test_a_failed_window_is_told(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(WindowJob, "__call__", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(InputError, match="disk is full"):
        segment_large(scene()[0], tmp_path / "a.npz", SOHES, tile=96)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a small model that has learned nothing."""
    torch.manual_seed(0)
    sizes = {"hidden_dim": 32, "num_heads": 2, "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 2}
    config = Mask2FormerConfig("sohes", "embedded", image_size=96, num_queries=12, max_detections=10, **sizes)
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_pretrained(build_model(config, weights=True), folder)
    return folder


def test_trained_models_segment_in_windows_of_their_size(run, tmp_path, rng):
    image, _ = scene()
    tree = segment_large(image, tmp_path / "scene.npz", SegmenterConfig(model=str(run)))
    assert isinstance(tree, TiledMasks)
    assert len(tree) > 0
    assert tree.cut(0.5, window=(0, 0, 50, 60)).shape == (50, 60)


def test_published_methods_segment_in_windows(tmp_path):
    image, _ = scene()
    tree = segment_large(image[:200, :300], tmp_path / "scene.npz", SOHES, tile=160)
    assert len(tree) > 0
    assert (tree.factors > 1).any()


def test_only_the_default_method_makes_a_dendrogram():
    assert makes_dendrogram(SegmenterConfig())
    assert makes_dendrogram(SegmenterConfig("texture"))
    for config in (SOHES, SegmenterConfig(quality="best"), SegmenterConfig("dino-vitb8"), SegmenterConfig(model="run")):
        assert not makes_dendrogram(config)


@pytest.mark.parametrize(("method", "tile"), [("masktree", None), ("sohes", 1000)])
def test_values_of_16_bits_and_bands_are_read_with_one_range(planted, tmp_path, method, tile):
    image, _ = scene()
    values = image[..., [1, 0, 2, 2]].astype(np.uint16) * 16 + 300
    layout = {"photometric": "minisblack", "planarconfig": "contig", "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "bands.tif", values, **layout)
    options = ReadOptions(channels=(1, 0, 3), value_range=(0, 99.9))
    config = SegmenterConfig("texture", method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = segment_large(tmp_path / "bands.tif", tmp_path / "a.npz", config, tile=tile, read_options=options)
    expected = decode_image(tmp_path / "bands.tif", options)
    assert np.array_equal(tree.overview, expected.rgb)
    assert tree.reading == expected.record()
    assert tree.reading["channels"] == ["1", "0", "3"]
    with pytest.warns(MasktreeWarning, match="3 not looked at"):
        tree = segment_large(tmp_path / "bands.tif", tmp_path / "a.npz", config, tile=tile)
    assert np.array_equal(tree.overview, decode_image(tmp_path / "bands.tif").rgb)
    assert "3 not looked at" in tree.reading["notes"]["channels"]


def test_windows_cover_the_image_and_overlap():
    grid = WindowGrid((300, 410), 96, 24)
    covered = np.zeros(grid.size, int)
    for index in range(len(grid)):
        window = grid.window(index)
        assert window.size == (96, 96)
        covered[window.slices()] += 1
    assert covered.min() == 1
    side_by_side = [shared for one, other, shared in grid.pairs() if other == one + 1]
    assert min(shared.size[1] for shared in side_by_side) >= 24
    assert len(WindowGrid((50, 60), 96, 24)) == 1


def test_damaged_files_are_refused(planted, tmp_path):
    tree = segment_large(scene()[0], tmp_path / "a.npz", SOHES, tile=96)
    data = tree.path.read_bytes()
    tree.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="expected masks of masktree"):
        TiledMasks.load(tree.path)
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(FormatError):
        TiledMasks.load(tmp_path / "b.npz")
