"""Masks beside those of the released preprocessing: share of the masks that have a partner, before and after.

    python benchmarks/released.py examples/photos [--images 12] [--backbone texture]

Cost: 10 s per photograph. Expected: table "Beside the released preprocessing" in docs/fidelity.md. The steps of the
released codes are written out in tests/oracles/released.py. Both sides have the same backbone, whose features are
computed on each side's own resized images, the same partitions and the same dense CRF, which are compared elsewhere.
A mask has a partner if one on the other side has an IoU of at least .9 with it. Recall counts the masks of the released
steps, precision those of masktree. "before" is the method with bilinear filters and hard labels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from arguments import make_parser
from masktree.backbones import load_backbone
from masktree.backbones.base import Backbone
from masktree.cluster import merge_tree
from masktree.discover.hassod import hassod
from masktree.discover.unsam import _conquer
from masktree.io.images import read_image
from masktree.refine import dense_crf
from masktree.trees import rle
from table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import released

THRESHOLDS = (0.4, 0.2, 0.1)
CONQUER_THRESHOLDS = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
MIN_IOU = 0.9
WAYS = {
    "before": ({"resample": "bilinear", "soft_masks": False}, "bilinear"),
    "after": ({}, "bicubic"),
}


@lru_cache(maxsize=1)
def _tree(content: bytes, shape: tuple[int, int, int]) -> object:
    return merge_tree(np.frombuffer(content, np.float32).reshape(shape).copy())


def partition(grid: np.ndarray, theta: float) -> np.ndarray:
    """The merge tree's cut, computed once for all thresholds."""
    return _tree(grid.tobytes(), grid.shape).cut(theta)  # type: ignore[attr-defined]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--backbone", default="texture")
    options = parser.parse_args()
    backbone = load_backbone(options.backbone)
    paths = sorted(path for path in options.photos.iterdir() if path.suffix in (".jpg", ".png"))[: options.images]
    counts = {(step, way): np.zeros(4, np.int64) for step in ("hassod", "conquer") for way in WAYS}
    for path in paths:
        image = read_image(path)
        compare_hassod(image, backbone, counts)
        compare_conquer(image, backbone, counts)
    table = Table(
        f"Beside the released preprocessing, {len(paths)} photographs, backbone {options.backbone}",
        {"step": "", "way": "", "released": ".0f", "ours": ".0f", "recall": ".3f", "precision": ".3f"},
    )
    for (step, way), (expected, recalled, found, precise) in counts.items():
        table.add(step, way, expected, found, recalled / max(expected, 1), precise / max(found, 1))


def compare_hassod(image: np.ndarray, backbone: Backbone, counts: dict[tuple[str, str], np.ndarray]) -> None:
    """First stage of HASSOD at 480 x 480."""
    size = (image.shape[0], image.shape[1])
    masks = released.hassod_masks(image, lambda i: backbone(i[None])[0], partition, dense_crf, THRESHOLDS)
    expected = list(dict.fromkeys(map(rle.encode, masks)))
    for way, (method_options, _) in WAYS.items():
        tree = hassod(image, backbone, thresholds=THRESHOLDS, duplicate_iou=1.0, **method_options)  # type: ignore[arg-type]
        counts["hassod", way] += matches(expected, list(dict.fromkeys(tree.rles)), size)


def compare_conquer(image: np.ndarray, backbone: Backbone, counts: dict[tuple[str, str], np.ndarray]) -> None:
    """UnSAM's conquer step in four ellipses, which stand for the masks of a detector."""
    size = (image.shape[0], image.shape[1])
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / np.array(size).reshape(2, 1, 1)
    centres = ((0.3, 0.3, 0.25), (0.3, 0.7, 0.2), (0.6, 0.5, 0.35), (0.75, 0.25, 0.15))
    wholes = np.array([(y - a) ** 2 + (x - b) ** 2 < r * r for a, b, r in centres])
    expected = list(
        dict.fromkeys(
            rle.encode(mask)
            for whole in wholes
            for mask in released.conquer_masks(
                image, whole, lambda i: backbone(i[None])[0], partition, CONQUER_THRESHOLDS
            )
        )
    )
    for way, (_, resample) in WAYS.items():
        parts = _conquer(image, wholes, backbone, CONQUER_THRESHOLDS, 256, resample, 4, 0.9)  # type: ignore[arg-type]
        counts["conquer", way] += matches(expected, list(dict.fromkeys(parts)), size)


def matches(expected: Sequence[bytes], found: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """(4,) numbers of expected masks, of those with a partner, of found masks, of those with a partner."""
    if not expected or not found:
        return np.array([len(expected), 0, len(found), 0])
    has_partner = rle.iou(expected, found, size) >= MIN_IOU
    return np.array([len(expected), has_partner.any(1).sum(), len(found), has_partner.any(0).sum()])


if __name__ == "__main__":
    main()
