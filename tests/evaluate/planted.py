"""A planted data set: images with masks in a tree, predictions of every kind for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masktree.trees import rle
from masktree.trees.masktree import MaskTree

SIZE = (40, 60)
NAMES = ("a.jpg", "sub/b.png", "c.jpg")


def masks(shift: int = 0) -> np.ndarray:
    """(3, H, W): a whole, a part inside it, and another whole."""
    out = np.zeros((3, *SIZE), np.bool_)
    out[0, 4:34, 4 + shift : 30 + shift] = True
    out[1, 10:20, 8 + shift : 20 + shift] = True
    out[2, 5:25, 40:55] = True
    return out


def tree(shift: int = 0, scores: tuple[float, ...] = (0.9, 0.8, 0.7)) -> MaskTree:
    rles = [rle.encode(mask) for mask in masks(shift)]
    return MaskTree.from_rles(rles, SIZE, np.array([-1, 0, -1]), scores=np.array(scores))


def write_ground_truth(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """annotations.json with parents, and images/ beside it."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "entity"}]}
    for number, name in enumerate(names, 1):
        document["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for index, mask in enumerate(masks()):
            document["annotations"].append(
                {
                    "id": 10 * number + index,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": {"size": list(SIZE), "counts": rle.encode(mask).decode()},
                    "parent_id": 10 * number if index == 1 else None,
                }
            )
        photo = folder / "images" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        pixels[masks()[0]] //= 3
        Image.fromarray(pixels).save(photo)
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def write_trees(folder: Path, names: tuple[str, ...] = NAMES, shift: int = 0) -> Path:
    """As ``masktree segment`` leaves them, without run.json."""
    for name in names:
        stem = name.rsplit(".", 1)[0]
        (folder / stem).parent.mkdir(parents=True, exist_ok=True)
        tree(shift).save(folder / f"{stem}.json", image={"file_name": name})
    return folder


def results(shift: int = 0, images: int = len(NAMES)) -> list[dict[str, Any]]:
    """A list of COCO results."""
    found = tree(shift)
    return [
        {
            "image_id": number,
            "category_id": 1,
            "segmentation": {"size": list(SIZE), "counts": found.rles[index].decode()},
            "bbox": found.boxes[index].tolist(),
            "score": float(found.scores[index]),
        }
        for number in range(1, images + 1)
        for index in range(len(found))
    ]


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path
