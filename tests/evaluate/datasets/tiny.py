"""Tiny files in the data sets' own formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masktree.trees import rle


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def image(image_id: int = 1, name: str = "a.jpg", size: tuple[int, int] = (8, 10), **more: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1], **more}


def box_mask(x: int, y: int, w: int, h: int, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[y : y + h, x : x + w] = True
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": rle.encode(mask).decode("ascii")}


def annotation(annotation_id: int, mask: np.ndarray, image_id: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": image_id, "category_id": 1, "segmentation": compressed(mask), **more}


def document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def masks(ground_truth: Any) -> list[list[list[bool]]]:
    """Dense masks of an image's ground truth, comparable by ==."""
    return [rle.decode(mask, ground_truth.size).tolist() for mask in ground_truth.masks()]
