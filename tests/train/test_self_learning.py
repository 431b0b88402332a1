"""Self-training finds what the labels miss: planted objects of which a third, at random, has no label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree.io.images import read_image
from masktree.models.build import read_model
from masktree.models.trees import segment_images
from masktree.train.augmentation import Augmentation
from masktree.train.options import RunOptions
from masktree.train.presets import Preset, find_preset
from masktree.train.run_folder import read_metrics
from masktree.train.self_train import self_train
from masktree.train.self_training_settings import find_method
from masktree.train.train import train
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.train.labelled import write_labels

SIDE, IMAGES = 64, 24
COLOURS = np.array([[200, 40, 40], [40, 180, 60], [60, 80, 220], [220, 200, 60], [150, 60, 170]])
OPTIONS = RunOptions(device="cpu", sample_every=0)
Masks = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, Masks, Masks]:
    """Four rectangles a photograph; the folder, and the masks of those with and without a label."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    labelled, missing = {}, {}
    for index in range(IMAGES):
        masks = np.zeros((4, SIDE, SIDE), bool)
        for quarter, mask in enumerate(masks):
            height, width = 4 * rng.integers(3, 7, 2)
            top = 32 * (quarter // 2) + 4 * rng.integers(0, (32 - height) // 4 + 1)
            left = 32 * (quarter % 2) + 4 * rng.integers(0, (32 - width) // 4 + 1)
            mask[top : top + height, left : left + width] = True
        image = 120 + rng.normal(0, 6, (SIDE, SIDE, 3))
        for mask in masks:
            image[mask] += COLOURS[rng.integers(len(COLOURS))] - 120
        name = f"{index:02}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name)
        gone = rng.random(4) < 1 / 3
        gone[0] &= not gone.all()
        labelled[name], missing[name] = masks[~gone], masks[gone]
    trees = {name: MaskTree.from_masks(masks) for name, masks in labelled.items()}
    write_labels(folder / "labels", folder / "photos", trees)
    return folder, labelled, missing


def recall(run: Path, folder: Path, wanted: Masks, score: float) -> float:
    """Share of the masks that are found with that score at IoU 0.5."""
    photos = [read_image(folder / "photos" / name) for name in wanted]
    hits: list[bool] = []
    for tree, masks in zip(segment_images(read_model(run), photos, min_score=score), wanted.values(), strict=True):
        found = [rle.decode(text, tree.size) for text in tree.rles]
        hits += [max([(m & f).sum() / (m | f).sum() for f in found], default=0) > 0.5 for m in masks]
    return float(np.mean(hits))


def test_what_the_labels_miss_is_found_more_often_after_self_training(planted, tmp_path):
    folder, labelled, missing = planted
    preset = find_preset("sohes", "tiny", image_size=SIDE)
    few = replace(
        preset.optimisation, steps=80, batch_size=8, lr=2e-3, warmup_steps=10, schedule="cosine", ema_decay=0.9
    )
    model = replace(preset.model, num_queries=16, max_detections=16, hidden_dim=64)
    train(
        folder / "labels",
        tmp_path / "a",
        Preset(model, few, Augmentation(crop_size=SIDE, scale=(1.0, 1.0))),
        options=OPTIONS,
    )
    settings = find_method("sohes", steps=40, lr=1e-3)
    self_train(tmp_path / "a", folder / "labels", tmp_path / "b", settings, options=OPTIONS)
    before, after = (recall(tmp_path / run, folder, missing, 0.3) for run in "ab")
    assert after > before + 0.05, (before, after)
    assert recall(tmp_path / "b", folder, labelled, 0.3) > 0.9
    records = list(read_metrics(tmp_path / "b"))
    assert np.mean([r["loss"] for r in records[-10:]]) < np.mean([r["loss"] for r in records[:10]])
