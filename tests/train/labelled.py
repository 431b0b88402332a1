"""Label sets of given trees, written by the real writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.io.photos import find_photos
from masktree.jobs.batch import JobResult
from masktree.jobs.record import RunRecord
from masktree.labels import LabelSet, LabelSetWriter
from masktree.trees.masktree import MaskTree


def write_labels(folder: Path, photos: Path, trees: Mapping[str, MaskTree], shard_size: int = 1000) -> LabelSet:
    """The label set of the photographs in a folder, given the tree of each by its path there; it replaces another."""
    found, _ = find_photos([photos])
    writer = LabelSetWriter.open(folder, photos, found, shard_size=shard_size, overwrite=True)
    for photo in found:
        path = folder / "pending" / f"{photo.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        trees[photo.path.relative_to(photos).as_posix()].save(path)
        writer.add(JobResult(photo, 0.1))
    writer.close(RunRecord(folder, {"method": "planted"}, {"name": "none"}))
    return LabelSet.open(folder)


def random_tree(size: tuple[int, int], count: int, rng: np.random.Generator) -> MaskTree:
    """Rectangles; where one covers another they are nested."""
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        (y, y_end), (x, x_end) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in size)
        mask[y:y_end, x:x_end] = True
    return MaskTree.from_masks(masks, scores=rng.random(count).astype(np.float32))


def write_collection(folder: Path, sizes: Mapping[str, tuple[int, int]], count: int = 6) -> LabelSet:
    """PhotoDataset of noise by name, each with ``count`` rectangles; in FOLDER/photos and FOLDER/labels."""
    rng, trees = np.random.default_rng(1), {}
    for name, size in sizes.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
        trees[name] = random_tree(size, count, rng)
    return write_labels(folder / "labels", folder / "photos", trees)
