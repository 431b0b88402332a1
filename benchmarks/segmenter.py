"""From regions to things, step by step: nodes, combinations, the order learned from motion, a trained model, both.

    python benchmarks/segmenter.py --sets car_parts clothing msrc --bsds BSDS500 --model RUN --images 30

Cost: about 5 s per image on one core for all rows. Expected: table "A network that groups" in docs/benchmarks.md.
Average recall and precision on evenly spaced images of the sets, covering of the cuts on those of BSDS500, CPU seconds
and masks per image. Rows of the model are left out without --model. Nothing is fitted or chosen here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np

import masktree
from arguments import make_parser
from masktree import MaskTree
from masktree.evaluate import bsds, recall
from masktree.evaluate.detections import ImageDetections
from masktree.io.images import read_image
from table import Table
from tasks import bsds_names, read_images

METRICS = ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l", "ap")
COVERINGS = ("covering_ods", "covering_ois", "covering_best")
Segment = Callable[[np.ndarray], MaskTree]


def segmenters(args: argparse.Namespace) -> dict[str, Segment]:
    """The rows of the table."""
    rows: dict[str, Segment] = {
        "nodes": masktree.load(masks="nodes", order="stability"),
        "and combinations": masktree.load(order="stability"),
        "in the order of motion": masktree.load(),
    }
    if args.model is not None:
        rows |= {
            "model": masktree.load(args.model),
            "model, snapped": masktree.load(args.model, snap=True),
            "pooled": masktree.load(args.model, pool=True),
            "pooled, regrouped": masktree.load(args.model, pool=True, regroup=True),
        }
    return rows


def measure_recall(folder: Path, args: argparse.Namespace) -> None:
    images = read_images(folder, args.images)
    columns = {"masks of": "", **dict.fromkeys(METRICS, ".3f"), "CPU s": ".2f", "masks": ".0f"}
    table = Table(f"{folder.name}, {len(images)} images", columns)
    for name, segment in segmenters(args).items():
        segment(read_image(images[0][0])[:128, :128])  # compiles
        stats, seconds, counts = [], [], []
        for path, truth in images:
            picture = read_image(path)
            start = time.process_time()
            tree = segment(picture)
            seconds.append(time.process_time() - start)
            counts.append(len(tree))
            stats.append(recall.score_image(truth, ImageDetections.from_tree(tree)))
        metrics = recall.summarise(stats)
        table.add(name, *(metrics[key] for key in METRICS), mean(seconds), mean(counts))


def measure_covering(folder: Path, args: argparse.Namespace) -> None:
    names = bsds_names(folder, args.split, args.images)
    table = Table(
        f"{folder.name} {args.split}, {len(names)} images", {"cuts of": "", **dict.fromkeys(COVERINGS, ".3f")}
    )
    rows = segmenters(args)
    for name in ("in the order of motion", "pooled, regrouped"):
        if name not in rows:
            continue
        stats = []
        for image in names:
            tree = rows[name](read_image(folder / "images" / args.split / f"{image}.jpg"))
            assert tree.dendrogram is not None
            humans = bsds.read_human_segmentations(folder / "groundTruth" / args.split / f"{image}.mat")
            stats.append(bsds.score_tree(tree.dendrogram, [human.labels for human in humans]))
        metrics = bsds.summarise(stats)
        table.add(name, *(metrics[key] for key in COVERINGS))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="folders with images and annotations.json")
    parser.add_argument("--bsds", type=Path, help="folder of BSDS500, with images/SPLIT and groundTruth/SPLIT")
    parser.add_argument("--split", default="val", help="of BSDS500")
    parser.add_argument("--model", type=Path, help="run of masktree train")
    parser.add_argument("--images", type=int, help="so many evenly spaced images of each set; default: all")
    args = parser.parse_args()
    for folder in args.sets:
        measure_recall(folder, args)
    if args.bsds is not None:
        measure_covering(args.bsds, args)


if __name__ == "__main__":
    main()
