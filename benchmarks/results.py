"""The whole way in one table: published methods, the default step by step, trained models, a promptable one.

    python benchmarks/results.py --sets car_parts clothing msrc --bsds BSDS500 --images 30 \\
        --phase "phase 2" FINE_0 FINE_1 --phase "phase 3" AGAIN_0 AGAIN_1 --promptable RUN

Cost: about 12 s per image on one core for all rows of one phase. Expected: tables "Results" in docs/benchmarks.md.
Average recall and precision, F1 of parents and children, IoU of one click (the mask of the highest score), masks and
CPU seconds per image, on evenly spaced images of each set; covering of the cuts on those of BSDS500. A phase has a name
and runs of ``masktree train``, of one seed each: its cells are the mean over them ± the standard deviation. Nothing is
fitted or chosen here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import masktree
from arguments import make_parser
from masktree import MaskTree, Predictor
from masktree.evaluate import bsds, hierarchy, points, recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.images import read_image
from masktree.prompt.candidates import NUM_MASKS
from masktree.prompt.predictor import is_promptable
from table import Table, mean_and_deviation
from tasks import bsds_names, read_images

METRICS = ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l", "ap")
COVERINGS = ("covering_ods", "covering_ois", "covering_best")
Segment = Callable[[np.ndarray], MaskTree]
MODEL_ROWS = {
    "": {},
    ", snapped": {"snap": True},
    ", pooled": {"pool": True},
    ", regrouped and pooled": {"pool": True, "regroup": True},
}


def rows(args: argparse.Namespace) -> Iterator[tuple[str, list[Segment]]]:
    """Name of each row, and its segmenters, one of each seed."""
    for method in args.methods:
        yield method, [masktree.load(method=method)]
    if args.default:
        yield "nodes", [masktree.load(masks="nodes", order="stability")]
        yield "and combinations", [masktree.load(order="stability")]
        yield "in the order of motion (default)", [masktree.load()]
    for name, *runs in args.phase:
        for suffix, options in MODEL_ROWS.items():
            yield name + suffix, [masktree.load(run, **options) for run in runs]
    if args.promptable is not None:
        yield "promptable", [masktree.load(args.promptable)]


def measure_set(folder: Path, args: argparse.Namespace) -> None:
    images = read_images(folder, args.images)
    columns = {"masks of": "", **dict.fromkeys((*METRICS, "parents F1", "one click"), ".3f")}
    table = Table(f"{folder.name}, {len(images)} images", columns | {"masks": ".0f", "CPU s": ".2f"})
    for name, seeds in rows(args):
        add_means(table, name, [measure_seed(segment, images) for segment in seeds])


def add_means(table: Table, name: str, results: list[list[float | None]]) -> None:
    """A row: the values of one seed, or mean ± standard deviation of several."""
    table.add(name, *(results[0] if len(results) == 1 else map(mean_and_deviation, zip(*results, strict=True))))


def measure_seed(segment: Segment, images: Sequence[tuple[Path, ImageGroundTruth]]) -> list[float | None]:
    """The columns of a set."""
    segment(read_image(images[0][0]))  # compiles
    recalls, parents, clicks, seconds, counts = [], [], [], [], []
    for path, truth in images:
        picture = read_image(path)
        start = time.process_time()
        tree = segment(picture)
        seconds.append(time.process_time() - start)
        counts.append(len(tree))
        recalls.append(recall.score_image(truth, ImageDetections.from_tree(tree)))
        parents.append(hierarchy.score_image(truth, tree))
        predictor = Predictor(prompted(segment, tree), num_multimask_outputs=NUM_MASKS)
        clicks.append(points.score_image(predictor, picture, truth, max_clicks=1))
    metrics = recall.summarise(recalls)
    return [
        *(metrics[key] for key in METRICS),
        hierarchy.summarise(parents)["parent_child_f1"],
        points.summarise(clicks)["max_iou"],
        mean(counts),
        mean(seconds),
    ]


def prompted(segment: Segment, tree: MaskTree) -> Any:
    """What a ``Predictor`` of the segmenter answers with, without segmenting the image again."""
    if is_promptable(segment):
        return segment
    return tree if tree.dendrogram is None else tree.dendrogram


def measure_covering(folder: Path, args: argparse.Namespace) -> None:
    names = bsds_names(folder, args.split, args.images)
    title = f"{folder.name} {args.split}, {len(names)} images"
    table = Table(title, {"cuts of": "", **dict.fromkeys(COVERINGS, ".3f")})
    for name, seeds in rows(args):
        add_means(table, name, [covering(segment, folder, args.split, names) for segment in seeds])


def covering(segment: Segment, folder: Path, split: str, names: Sequence[str]) -> list[float | None]:
    stats = []
    for image in names:
        tree = segment(read_image(folder / "images" / split / f"{image}.jpg"))
        humans = [
            human.labels for human in bsds.read_human_segmentations(folder / "groundTruth" / split / f"{image}.mat")
        ]
        if tree.dendrogram is not None:
            stats.append(bsds.score_tree(tree.dendrogram, humans))
        else:
            stats.append(bsds.score_image(map(tree.cut, bsds.CONTOUR_THRESHOLDS), humans))
    metrics = bsds.summarise(stats)
    return [metrics[key] for key in COVERINGS]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="folders with images and annotations.json")
    parser.add_argument("--bsds", type=Path, help="folder of BSDS500, with images/SPLIT and groundTruth/SPLIT")
    parser.add_argument("--split", default="val", help="of BSDS500")
    parser.add_argument("--methods", nargs="*", default=["hassod", "sohes", "unsam"], help="published ones")
    parser.add_argument("--default", action=argparse.BooleanOptionalAction, default=True, help="its rows")
    parser.add_argument("--phase", nargs="+", action="append", default=[], metavar="NAME RUN")
    parser.add_argument("--promptable", type=Path, help="run of masktree train --preset promptable")
    parser.add_argument("--images", type=int, help="so many evenly spaced images of each set; default: all")
    args = parser.parse_args()
    for folder in args.sets:
        measure_set(folder, args)
    if args.bsds is not None:
        measure_covering(args.bsds, args)


if __name__ == "__main__":
    main()
