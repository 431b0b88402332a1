"""The recipe of the order learned from motion: planted flow, trees as they are exported, and all of it at toy size."""

from __future__ import annotations

import importlib
import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from masktree.discover.order import FEATURES, MotionOrder
from masktree.trees.dendrogram import PartitionTree
from tests.conftest import ROOT


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    module = importlib.import_module("order")
    yield module
    sys.modules.pop("order", None)


def frames(seed: int, shift: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Two frames of a bright textured box that moves by ``shift`` pixels over a dark textured ground that does not."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(20, 90, (size[0] // 4, size[1] // 4, 3)).repeat(4, 0).repeat(4, 1)
    box = rng.integers(150, 250, (10, 12, 3)).repeat(4, 0).repeat(4, 1)
    top, left = rng.integers(8, 40), rng.integers(12, 60)
    pair = []
    for x in (left, left + shift):
        frame = ground.copy()
        frame[top : top + 40, x : x + 48] = box
        pair.append(frame.astype(np.uint8))
    return pair[0], pair[1]


def write_clips(folder: Path, clips: int, pairs: int) -> None:
    folder.mkdir()
    with tarfile.open(folder / "pairs.tar", "w") as archive:
        for clip in range(clips):
            for number in range(pairs):
                for name, frame in zip("ab", frames(10 * clip + number, 3 + number), strict=True):
                    buffer = io.BytesIO()
                    Image.fromarray(frame).save(buffer, "webp", lossless=True)
                    info = tarfile.TarInfo(f"clip{clip}-{number:02d}.{name}.webp")
                    info.size = buffer.getbuffer().nbytes
                    archive.addfile(info, io.BytesIO(buffer.getvalue()))


def test_leaves_that_move_on_their_own_are_segments_whatever_the_camera_does(recipe):
    """A grid of 8 x 8 leaves under a camera that pans and zooms; two blocks of four leaves move against it."""
    y, x = np.mgrid[:64, :64]
    leaves = (y // 8 * 8 + x // 8).astype(np.int32)
    tree = PartitionTree.from_merges(leaves, np.array([[0, 1], *([k, 62 + k] for k in range(2, 64))]), np.ones(63))
    flow = np.stack([2 + 0.05 * x, -1 + 0.05 * y], axis=-1).astype(np.float32)
    first, second = np.isin(leaves, [9, 10, 17, 18]), np.isin(leaves, [45, 46, 53, 54])
    flow[first] += (4, 0)
    flow[second] += (0, -5)
    flow += np.random.default_rng(0).normal(0, 0.1, flow.shape).astype(np.float32)
    segments = recipe.moving_segments(tree, flow, np.ones(leaves.shape, bool))
    groups = {tuple(np.flatnonzero(segments == s).tolist()) for s in set(segments[segments >= 0].tolist())}
    assert groups == {(9, 10, 17, 18), (45, 46, 53, 54)}
    unseen = recipe.moving_segments(tree, flow, ~first)
    assert (unseen[[9, 10, 17, 18]] == -1).all()


def test_exported_trees_give_what_the_booster_says(recipe):
    """A tree of three leaves and one without splits, in LightGBM's words."""
    area, rank = FEATURES.index("log_area"), FEATURES.index("rank")
    inner = {
        "split_index": 1,
        "split_feature": rank,
        "threshold": 0.1,  # no float32: rows at float32(0.1), which is above it, must go right
        "left_child": {"leaf_index": 1, "leaf_value": -1.0},
        "right_child": {"leaf_index": 2, "leaf_value": 2.0},
    }
    root = {
        "split_index": 0,
        "split_feature": area,
        "threshold": -1.0,
        "left_child": {"leaf_index": 0, "leaf_value": 0.5},
        "right_child": inner,
    }
    booster = SimpleNamespace(
        dump_model=lambda: {"tree_info": [{"tree_structure": root}, {"tree_structure": {"leaf_value": 0.25}}]}
    )
    features = np.zeros((4, len(FEATURES)), np.float32)
    features[:, area] = [-2, 0, 0, 0]
    features[:, rank] = np.array([0, 0, 0.1, 5], np.float32)
    example = recipe.Example("clip", features, np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4), np.zeros((4, 1)))
    order = recipe.export(booster, [example])
    np.testing.assert_allclose(order.predict(features), [0.75, -0.75, 2.25, 2.25])
    assert (np.diff(order.learned) >= 0).all()
    corrected = order.correct(example.scores, features)
    assert sorted(corrected.tolist()) == pytest.approx(sorted(example.scores.tolist()), rel=0.1)


def test_recall_counts_the_first_masks_of_each_frame(recipe):
    ious = np.array([[0.0, 0.76], [1.0, 0.0], [0.2, 1.0]])
    example = recipe.Example("clip", np.zeros((3, 1)), np.ones(3), np.zeros(3), ious)
    found = recipe.recalls([example], [np.array([3.0, 2.0, 1.0])], limits=(1, 2, 3))
    np.testing.assert_allclose(found, [0.6 / 2, 1.6 / 2, 1.0])


def test_the_recipe_writes_an_order_that_knows_the_box(recipe, tmp_path, capsys, monkeypatch):
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    pytest.importorskip("lightgbm")
    write_clips(tmp_path / "clips", clips=4, pairs=3)
    monkeypatch.setattr(recipe, "TREES", 20)
    monkeypatch.setattr(sys, "argv", ["order", str(tmp_path / "clips"), "--output", str(tmp_path / "order.npz")])
    recipe.main()
    told = capsys.readouterr().out
    assert "12 frames of 4 clips" in told
    assert "held-out clips" in told
    order = MotionOrder.load(tmp_path / "order.npz")
    assert len(order.features) == 20
    assert order.values.any()
