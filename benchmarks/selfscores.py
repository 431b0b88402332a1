"""Which scores without ground truth correlate with average recall? Spearman rank correlation over methods and settings.

    python benchmarks/selfscores.py FOLDER [--images 25] [--settings "masktree, fast" ...]

Cost: 1 to 2 minutes per image on one core. Expected: table "Scores without ground truth" in docs/benchmarks.md. FOLDER
holds data sets, each a folder with annotations.json (COCO, compressed run lengths) and images/. For each set and
setting: AR@1000, and every score of ``masktree.evaluate.consistency`` on the same images; then for each score its rank
correlation with AR over the settings. The ground truth serves this report only. Settings that differ by a filter share
the segmentation. Two deliberately bad methods are among them: a fixed grid, and superpixels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import spearmanr

import masktree
from arguments import make_parser
from masktree.evaluate import consistency, recall
from masktree.evaluate.detections import ImageDetections
from masktree.io.images import read_image
from masktree.refine import guided
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from table import Table
from tasks import read_images

Segment = Callable[[np.ndarray], MaskTree]
SHOWN_SCORES = ("stability", "stability_per_image", "stable_masks", "boundary_contrast", "coverage", "masks_per_pixel",
                "nesting", "redundancy", "masks_per_image")  # fmt: skip


class CachedSegmenter:
    """A segmenter that keeps the trees of the current image and its views, for its filtered variants."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.trees: dict[bytes, MaskTree] = {}

    def __call__(self, image: np.ndarray) -> MaskTree:
        key = image.tobytes()
        if key not in self.trees:
            self.trees[key] = self.segment(image)
        return self.trees[key]


def tree_of_partitions(partitions: list[np.ndarray], min_area: int = 1) -> MaskTree:
    """All regions of several (H, W) int32 label maps, nested by coverage."""
    size = (partitions[0].shape[0], partitions[0].shape[1])
    rles = []
    for labels in partitions:
        numbers = np.arange(int(labels.max()) + 1)
        areas = np.bincount(labels.ravel())
        rles += [
            r for r, a in zip(rle.encode_intervals(labels, numbers, numbers + 1), areas, strict=True) if a >= min_area
        ]
    return MaskTree.from_rles(rles, size, hierarchy.parents_by_coverage(rles, size))


def segment_grid(image: np.ndarray) -> MaskTree:
    """Squares of a half, a quarter and an eighth of each side, whatever the image."""
    height, width = image.shape[:2]
    cells = [(np.arange(height) * n // height)[:, None] * n + np.arange(width) * n // width for n in (2, 4, 8)]
    return tree_of_partitions([c.astype(np.int32) for c in cells])


def segment_superpixels(image: np.ndarray) -> MaskTree:
    """Graph-based segmentation of scikit-image at three scales."""
    from skimage.segmentation import felzenszwalb

    scales = (100, 300, 800)
    partitions = [felzenszwalb(image, scale=s, sigma=0.8, min_size=50).astype(np.int32) for s in scales]
    return tree_of_partitions(partitions, 50)


def select_nodes(segment: Segment, image: np.ndarray, **options: Any) -> MaskTree:
    dendrogram = segment(image).dendrogram
    assert dendrogram is not None
    return MaskTree.from_dendrogram(dendrogram, **options)


def filter_masks(
    segment: Segment, image: np.ndarray, *, min_share: float = 0.0, max_masks: int | None = None
) -> MaskTree:
    """Masks of at least a share of the image, and of them the ``max_masks`` of highest score."""
    tree = segment(image)
    keep = tree.areas >= min_share * image.shape[0] * image.shape[1]
    if max_masks is not None:
        order = np.argsort(np.where(keep, -tree.scores, np.inf), kind="stable")
        keep[order[max_masks:]] = False
    return tree[keep]


def make_settings() -> tuple[dict[str, Segment], list[CachedSegmenter]]:
    """All settings by name, and the segmenters that they share."""
    bases: dict[str, Segment] = {
        "fast": masktree.load("embedded"),
        "best": masktree.load("embedded", quality="best"),
        "hassod": masktree.load("embedded", method="hassod", refiner=guided),  # the CRF would take half of the run
        "sohes": masktree.load("embedded", method="sohes"),
        "unsam": masktree.load("embedded", method="unsam"),
        "grid": segment_grid,
        "superpixels": segment_superpixels,
    }
    cached = {name: CachedSegmenter(base) for name, base in bases.items()}
    fast, best, sohes, unsam = (cached[name] for name in ("fast", "best", "sohes", "unsam"))
    settings: dict[str, Segment] = {
        "masktree, fast": fast,
        "masktree, 1000 masks": partial(select_nodes, fast, max_masks=1000),
        "masktree, 100 masks": partial(select_nodes, fast, max_masks=100),
        "masktree, 30 masks": partial(select_nodes, fast, max_masks=30),
        "masktree, 10 masks": partial(select_nodes, fast, max_masks=10),
        "masktree, min area 1000": partial(select_nodes, fast, min_area=1000),
        "masktree, duplicates .6": partial(select_nodes, fast, duplicate_iou=0.6),
        "masktree, 1 % and larger": partial(filter_masks, fast, min_share=0.01),
        "masktree, best": best,
        "masktree, best, 100 masks": partial(select_nodes, best, max_masks=100),
        "hassod": cached["hassod"],
        "sohes": sohes,
        "sohes, 20 masks": partial(filter_masks, sohes, max_masks=20),
        "sohes, 1 % and larger": partial(filter_masks, sohes, min_share=0.01),
        "unsam": unsam,
        "unsam, 1 % and larger": partial(filter_masks, unsam, min_share=0.01),
        "superpixels": cached["superpixels"],
        "superpixels, 1 % and larger": partial(filter_masks, cached["superpixels"], min_share=0.01),
        "grid": cached["grid"],
    }
    return settings, list(cached.values())


def measure(folder: Path, count: int, names: list[str] | None) -> dict[str, dict[str, float | None]]:
    """AR@1000 (``ar``) and the scores without ground truth, of each setting."""
    settings, cached = make_settings()
    settings = {name: settings[name] for name in names or settings}
    recalls, scores = defaultdict(list), defaultdict(list)
    for path, ground_truth in read_images(folder, count):
        image = read_image(path)
        for name, segment in settings.items():
            tree = segment(image)
            recalls[name].append(recall.score_image(ground_truth, ImageDetections.from_tree(tree)))
            scores[name].append(consistency.score_image(image, segment, tree))
        for segmenter in cached:
            segmenter.trees.clear()
    return {
        name: {"ar": recall.summarise(recalls[name])["ar1000"], **consistency.summarise(scores[name])}
        for name in settings
    }


def rank_correlation(rows: list[dict[str, float | None]], score: str) -> float | None:
    """Spearman's rank correlation with AR over the settings that have the score; None where it is constant."""
    pairs = np.array([(row["ar"], row[score]) for row in rows if row[score] is not None], np.float64)
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return None
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=25, help="of each set")
    parser.add_argument("--settings", nargs="+", help="only these")
    args = parser.parse_args()
    results = {}
    for file in sorted(args.folder.glob("*/annotations.json")):
        rows = results[file.parent.name] = measure(file.parent, args.images, args.settings)
        title = f"{file.parent.name}, {args.images} images"
        table = Table(title, {"setting": "", **dict.fromkeys(("ar", *SHOWN_SCORES), ".3f")})
        for name, row in rows.items():
            table.add(name, *(row[score] for score in ("ar", *SHOWN_SCORES)))
    if not results:
        raise SystemExit(f"expected folders with annotations.json in {args.folder}; got none")
    settings = next(iter(results.values()))
    scores = [score for score in next(iter(settings.values())) if score != "ar"]
    title = f"Rank correlation with AR@1000 over {len(settings)} settings"
    table = Table(title, {"score": "", **dict.fromkeys(results, ".2f")})
    for score in scores:
        table.add(score, *(rank_correlation(list(rows.values()), score) for rows in results.values()))


if __name__ == "__main__":
    main()
