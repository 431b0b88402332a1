"""Large images: the tree does not depend on tiles, nothing is cut at seams, and a stopped run goes on."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.backbones import load_backbone
from masktree.discover.masktree import SceneStatistics, merge_features
from masktree.errors import InputError
from masktree.io.images import read_image
from masktree.large import dendrogram as large
from masktree.large.dendrogram import min_leaf_area
from masktree.large.scene import sample_windows
from masktree.large.segment import segment_large
from masktree.large.tile_job import TileJob
from masktree.predict import SegmenterConfig
from masktree.trees.masktree import MaskTree
from masktree.trees.tiled import TiledTree

TEXTURE = SegmenterConfig(backbone="texture")
BLOCK = 96


def scene(rng, H=230, W=300):
    """A red disc over the corner of four blocks and blue below across all columns, on green; and the truth."""
    y, x = np.mgrid[:H, :W]
    truth = np.zeros((H, W), np.int32)
    truth[(y - BLOCK) ** 2 + (x - 2 * BLOCK) ** 2 < 50**2] = 1
    truth[y > 178] = 2
    colours = np.array([[60, 140, 70], [190, 50, 40], [40, 60, 160]])
    return np.clip(colours[truth] + rng.normal(0, 5, (H, W, 3)), 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    image, truth = scene(np.random.default_rng(0))
    path = tmp_path_factory.mktemp("large") / "scene.dendrogram.npz"
    return image, truth, segment_large(image, path, TEXTURE, tile=BLOCK, block=BLOCK)


@pytest.mark.parametrize("tile", [2 * BLOCK, 4 * BLOCK])
def test_the_tree_does_not_depend_on_the_tile(segmented, tmp_path, tile):
    image, _, tree = segmented
    other = segment_large(image, tmp_path / "other.npz", TEXTURE, tile=tile, block=BLOCK)
    assert np.array_equal(other.graph.parents, tree.graph.parents)
    assert np.array_equal(other.graph.altitudes, tree.graph.altitudes)
    assert np.array_equal(other.leaves(), tree.leaves())
    assert np.array_equal(other.overview, tree.overview)


def test_shapes_across_seams_are_whole(segmented):
    _, truth, tree = segmented
    whole = tree.graph.with_leaves(tree.leaves())
    for region in (1, 2):
        masks = (whole.mask(node) for node in range(tree.graph.n_leaves, len(tree.graph.parents)))
        overlaps = [(mask & (truth == region)).sum() / (mask | (truth == region)).sum() for mask in masks]
        assert max(overlaps) > 0.93
    labels = tree.cut(float(tree.graph.altitudes[-3]))  # three regions: those of the scene, and no seam
    assert labels.max() == 2
    assert all((labels == labels[truth == region][0])[truth == region].mean() > 0.97 for region in range(3))


def test_seams_are_hardly_seen_in_the_finest_cut(segmented):
    _, _, tree = segmented
    labels = tree.cut(0.0)
    changes = (labels[:, 1:] != labels[:, :-1]).mean(axis=0)
    seams = [BLOCK - 1, 2 * BLOCK - 1]
    assert changes[seams].max() < 0.75  # 1 if every leaf ended there
    assert len(np.unique(labels)) < tree.graph.n_leaves


def test_masks_are_those_of_the_whole_leaf_map(segmented):
    _, _, tree = segmented
    masks = tree.mask_tree(min_area=50, max_masks=40)
    assert masks.size == tree.size
    assert len(masks) == 40
    whole = tree.graph.with_leaves(tree.leaves())
    assert np.array_equal(tree.areas, whole.areas)
    expected = MaskTree.from_dendrogram(whole, min_area=50, max_masks=40)
    assert masks.rles == expected.rles
    assert np.array_equal(masks.parents, expected.parents)
    assert np.array_equal(masks.scores, expected.scores)


def test_a_stopped_run_goes_on(rng, tmp_path, monkeypatch):
    image, _ = scene(rng)
    path = tmp_path / "scene.npz"
    done = []
    analyse = TileJob.__call__

    def stop_after_three(job, blocks):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(blocks)
        analyse(job, blocks)

    monkeypatch.setattr(TileJob, "__call__", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        segment_large(image, path, TEXTURE, tile=BLOCK, block=BLOCK)
    assert not path.exists()

    def go_on(job, blocks):
        done.append(blocks)
        analyse(job, blocks)

    monkeypatch.setattr(TileJob, "__call__", go_on)
    tree = segment_large(image, path, TEXTURE, tile=BLOCK, block=BLOCK)
    assert sorted(done) == [[index] for index in range(len(tree.grid))]  # each once
    assert [file.name for file in tmp_path.iterdir()] == ["scene.npz"]


def test_blocks_of_another_image_are_not_used(rng, tmp_path, monkeypatch):
    image, _ = scene(rng)
    path = tmp_path / "scene.npz"
    with monkeypatch.context() as patch:
        patch.setattr(large, "collect_blocks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            segment_large(255 - image, path, TEXTURE, tile=BLOCK, block=BLOCK)
    tree = segment_large(image, path, TEXTURE, tile=BLOCK, block=BLOCK)
    assert np.array_equal(tree.overview, image)


def test_foreign_files_are_not_removed(rng, tmp_path):
    (tmp_path / "scene.npz.work").mkdir()
    (tmp_path / "scene.npz.work" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="foreign"):
        segment_large(scene(rng)[0], tmp_path / "scene.npz", TEXTURE, block=BLOCK)
    assert (tmp_path / "scene.npz.work" / "notes.txt").read_text() == "mine"


def test_windows_have_the_boundaries_of_the_whole_image_with_the_network(photos):
    image, backbone = read_image(photos[0])[:192, :416], load_backbone("embedded", "cpu")
    statistics = SceneStatistics.of_samples([image], backbone)
    whole = merge_features(image, backbone, statistics).boundary
    window = merge_features(np.ascontiguousarray(image[:, 128:]), backbone, statistics).boundary
    # A halo of 128 pixels: what the network sees beyond it changes boundaries by a percent of a clear one.
    assert np.abs(window[:, 128:] - whole[:, 256:]).mean() < 0.01


@pytest.mark.parametrize("noise", [0, 40])
def test_blank_images_are_one_region(rng, tmp_path, noise):
    image = np.clip(rng.normal(128, noise, (200, 200, 3)), 0, 255).astype(np.uint8)
    tree = segment_large(image, tmp_path / "blank.npz", TEXTURE, block=BLOCK)
    assert tree.cut(0.0).max() == 0
    assert len(tree.mask_tree()) == 1


def test_leaves_of_large_images_are_larger():
    assert min_leaf_area((4000, 4000)) == 16
    assert min_leaf_area((20_000, 20_000)) == 382


def test_samples_cover_small_images_and_spread_over_large_ones():
    assert sample_windows((100, 300)) == [(0, 0, 100, 300)]
    windows = sample_windows((20_000, 9_000))
    assert len(windows) == 36
    assert max(window.bottom for window in windows) > 19_900
    assert all(window.size == (384, 384) for window in windows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": SegmenterConfig("texture", "sohes"), "block": 96}, "block for a dendrogram only"),
        ({"config": SegmenterConfig("texture", "sohes"), "tile": 32}, "at least 64 pixels"),
        ({"config": TEXTURE, "block": 100}, "multiple of 32"),
        ({"config": TEXTURE, "block": 96, "tile": 100}, "multiple of 96"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        segment_large(np.zeros((120, 120, 3), np.uint8), tmp_path / "a.npz", **options)


def test_a_failed_tile_is_told_and_the_run_goes_on_later(rng, tmp_path, monkeypatch):
    image, _ = scene(rng)
    with monkeypatch.context() as patch:
        patch.setattr(TileJob, "__call__", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
        with pytest.raises(InputError, match="disk is full"):
            segment_large(image, tmp_path / "a.npz", TEXTURE, block=BLOCK)
    assert isinstance(segment_large(image, tmp_path / "a.npz", TEXTURE, block=BLOCK), TiledTree)
