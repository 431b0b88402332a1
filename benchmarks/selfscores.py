"""Which scores without any truth go with average recall? Spearman rank correlation over methods and settings.

    python benchmarks/selfscores.py FOLDER [--images 25] [--settings "masktree, fast" ...]

FOLDER holds data sets, each a folder with annotations.json (COCO, compressed run lengths) and images/. For each set and
setting: AR@1000 against the truth, and every score of ``masktree.evaluate.consistency`` on the same images; then, for
each score, its rank correlation with AR over the settings. The truth is used for this report only. Settings that
differ by a filter share the segmentation. Two bad methods are among them on purpose: a fixed grid, and superpixels.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import masktree
from masktree.evaluate import consistency as stability
from masktree.evaluate import recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.images import read_image
from masktree.refine import guided
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree

Segment = Callable[[np.ndarray], MaskTree]
SHOWN = ("stability", "stability_per_image", "stable_masks", "boundary_contrast", "coverage", "masks_per_pixel",
         "nesting", "redundancy", "masks_per_image")  # fmt: skip


class Remembered:
    """A segmenter that knows the views of the present image, so that its filtered variants cost nothing."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.trees: dict[bytes, MaskTree] = {}

    def __call__(self, image: np.ndarray) -> MaskTree:
        key = image.tobytes()
        if key not in self.trees:
            self.trees[key] = self.segment(image)
        return self.trees[key]


def overlapping(partitions: list[np.ndarray], min_area: int = 1) -> MaskTree:
    """All regions of several (H, W) int32 label maps, nested by coverage."""
    size = partitions[0].shape
    rles = []
    for labels in partitions:
        numbers = np.arange(int(labels.max()) + 1)
        areas = np.bincount(labels.ravel())
        rles += [
            r for r, a in zip(rle.encode_intervals(labels, numbers, numbers + 1), areas, strict=True) if a >= min_area
        ]
    return MaskTree.from_rles(rles, size, hierarchy.parents_by_coverage(rles, size))


def grid(image: np.ndarray) -> MaskTree:
    """Squares of a half, a quarter and an eighth of each side: what is found without looking."""
    height, width = image.shape[:2]
    cells = [(np.arange(height) * n // height)[:, None] * n + np.arange(width) * n // width for n in (2, 4, 8)]
    return overlapping([c.astype(np.int32) for c in cells])


def superpixels(image: np.ndarray) -> MaskTree:
    """Graph-based segmentation of scikit-image at three scales."""
    from skimage.segmentation import felzenszwalb

    scales = (100, 300, 800)
    return overlapping([felzenszwalb(image, scale=s, sigma=0.8, min_size=50).astype(np.int32) for s in scales], 50)


def nodes(segment: Segment, image: np.ndarray, **options: float) -> MaskTree:
    return MaskTree.from_dendrogram(segment(image).dendrogram, **options)


def filtered(segment: Segment, image: np.ndarray, *, min_share: float = 0.0, most: int | None = None) -> MaskTree:
    """Masks of at least a share of the image, and of them the best ``most``."""
    tree = segment(image)
    keep = tree.areas >= min_share * image.shape[0] * image.shape[1]
    order = np.argsort(np.where(keep, -tree.scores, np.inf), kind="stable")
    keep[order[most:] if most is not None else []] = False
    return tree[keep]


def settings() -> tuple[dict[str, Segment], list[Remembered]]:
    bases = {
        "fast": masktree.load("embedded"),
        "best": masktree.load("embedded", quality="best"),
        "hassod": masktree.load("embedded", method="hassod", refiner=guided),  # the CRF takes half of the run
        "sohes": masktree.load("embedded", method="sohes"),
        "unsam": masktree.load("embedded", method="unsam"),
        "grid": grid,
        "superpixels": superpixels,
    }
    known = {name: Remembered(base) for name, base in bases.items()}
    fast, best, sohes, unsam = (known[name] for name in ("fast", "best", "sohes", "unsam"))
    result: dict[str, Segment] = {
        "masktree, fast": fast,
        "masktree, 1000 masks": partial(nodes, fast, max_masks=1000),
        "masktree, 100 masks": partial(nodes, fast, max_masks=100),
        "masktree, 30 masks": partial(nodes, fast, max_masks=30),
        "masktree, 10 masks": partial(nodes, fast, max_masks=10),
        "masktree, min area 1000": partial(nodes, fast, min_area=1000),
        "masktree, duplicates .6": partial(nodes, fast, duplicate_iou=0.6),
        "masktree, 1 % and larger": partial(filtered, fast, min_share=0.01),
        "masktree, best": best,
        "masktree, best, 100 masks": partial(nodes, best, max_masks=100),
        "hassod": known["hassod"],
        "sohes": sohes,
        "sohes, 20 masks": partial(filtered, sohes, most=20),
        "sohes, 1 % and larger": partial(filtered, sohes, min_share=0.01),
        "unsam": unsam,
        "unsam, 1 % and larger": partial(filtered, unsam, min_share=0.01),
        "superpixels": known["superpixels"],
        "superpixels, 1 % and larger": partial(filtered, known["superpixels"], min_share=0.01),
        "grid": known["grid"],
    }
    return result, list(known.values())


def read_truths(folder: Path, images: int) -> list[tuple[Path, ImageGroundTruth]]:
    """Truths of ``images`` images, evenly spread over the set."""
    content = json.loads((folder / "annotations.json").read_text())
    records = content["images"]
    chosen = [records[i * len(records) // images] for i in range(min(images, len(records)))]
    result = []
    for record in chosen:
        masks = [a["segmentation"]["counts"].encode() for a in content["annotations"] if a["image_id"] == record["id"]]
        size = (record["height"], record["width"])
        truth = ImageGroundTruth.from_masks(record["id"], record["file_name"], size, masks)
        result.append((folder / "images" / record["file_name"], truth))
    return result


def measure(folder: Path, images: int, names: list[str] | None) -> dict[str, dict[str, float | None]]:
    """AR@1000 (``ar``) and the scores without truth, of each setting."""
    variants, bases = settings()
    variants = {name: variants[name] for name in names or variants}
    found: dict[str, list[dict]] = {name: [] for name in variants}
    own: dict[str, list[dict]] = {name: [] for name in variants}
    for path, truth in read_truths(folder, images):
        image = read_image(path)
        for name, segment in variants.items():
            tree = segment(image)
            found[name].append(recall.score_image(truth, ImageDetections.from_tree(tree)))
            own[name].append(stability.score_image(image, segment, tree))
        for base in bases:
            base.trees.clear()
    return {
        name: {"ar": recall.summarise(found[name])["ar1000"], **stability.summarise(own[name])} for name in variants
    }


def correlation(rows: list[dict[str, float | None]], score: str) -> float:
    """Spearman's rank correlation with AR over the settings that have the score; NaN where it is constant."""
    from scipy.stats import spearmanr

    pairs = np.array([(row["ar"], row[score]) for row in rows if row[score] is not None], np.float64)
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return float("nan")
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=25, help="of each set")
    parser.add_argument("--settings", nargs="+", help="only these")
    options = parser.parse_args()
    tables = {}
    for file in sorted(options.folder.glob("*/annotations.json")):
        folder = file.parent
        rows = tables[folder.name] = measure(folder, options.images, options.settings)
        print(f"\n{folder.name}, {options.images} images")
        print(f"{'':28s}" + "".join(f"{name[:13]:>14s}" for name in ("ar", *SHOWN)))
        for name, row in rows.items():
            cells = "".join("             -" if row[s] is None else f"{row[s]:14.3f}" for s in ("ar", *SHOWN))
            print(f"{name:28s}{cells}", flush=True)
    scores = [score for score in next(iter(next(iter(tables.values())).values())) if score != "ar"]
    print(f"\nrank correlation with AR@1000 over {len(next(iter(tables.values())))} settings")
    print(f"{'':28s}" + "".join(f"{name[:13]:>14s}" for name in tables))
    for score in scores:
        print(f"{score:28s}" + "".join(f"{correlation(list(t.values()), score):14.2f}" for t in tables.values()))


if __name__ == "__main__":
    main()
