"""Average recall and precision: seconds and peak memory of masktree, faster-coco-eval and pycocotools.

    python benchmarks/recall.py [--images 100] [--truths 100] [--detections 1000] [--size 480 640] [--iou-type masks]

Cost: 10 minutes, most of it pycocotools. Expected: numbers equal to 1e-12, masktree several times faster. Masks are
wavy ellipses of all sizes, one ground truth in fifty a crowd; two thirds of the detections are perturbed copies of a
ground truth, the rest random. Every tool starts from parsed annotations with compressed RLE and computes the twelve
numbers at 1000 detections, in one process on one thread. "resampling" is one bootstrap draw over the images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from arguments import make_parser
from masktree.evaluate import recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.image_stats import ImageStats
from masktree.trees import rle
from measurement import Seconds, measure_seconds, peak_megabytes
from table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import recall as oracle

COLUMNS = {
    "tool": "",
    "CPU s": ".2f",
    "wall s": ".2f",
    "peak MB": ".0f",
    "CPU ratio": ".1f",
    "largest difference": ".1e",
}


def wavy_ellipse(parameters: np.ndarray, size: tuple[int, int]) -> bytes:
    """Run-length mask of (centre y, centre x, log radius, log aspect, phase of the waves, height of the waves)."""
    cy, cx, log_radius, log_aspect, phase, height = parameters
    reach = 1.5 * np.exp(log_radius + abs(log_aspect))
    top, left = max(int(cy - reach), 0), max(int(cx - reach), 0)
    mask = np.zeros(size, bool)
    window = mask[top : max(int(cy + reach), 0), left : max(int(cx + reach), 0)]
    y = (np.arange(window.shape[0])[:, None] + top - cy) * np.exp(log_aspect)
    x = (np.arange(window.shape[1]) + left - cx) * np.exp(-log_aspect)
    edge = 1 + height * np.sin(7 * np.arctan2(y, x) + phase)
    window[:] = y**2 + x**2 < (np.exp(log_radius) * edge) ** 2
    return rle.encode(mask)


def random_image(
    rng: np.random.Generator, number: int, truths: int, detections: int, size: tuple[int, int]
) -> tuple[ImageGroundTruth, ImageDetections]:
    def random_ellipses(n: int) -> np.ndarray:
        columns = [rng.random(n) * size[0], rng.random(n) * size[1], rng.uniform(np.log(6), np.log(140), n)]
        return np.stack([*columns, rng.normal(0, 0.3, n), rng.random(n) * 7, rng.uniform(0, 0.3, n)], 1)

    ellipses = random_ellipses(truths)
    copies = ellipses[rng.integers(truths, size=2 * detections // 3)]
    radii = np.exp(copies[:, 2:3])
    scale = np.concatenate([radii, radii, np.ones((len(copies), 4))], 1)
    copies = copies + 0.1 * scale * rng.normal(size=copies.shape)
    detected = np.concatenate([copies, random_ellipses(detections - len(copies))])
    rles = [wavy_ellipse(parameters, size) for parameters in detected]
    masks = [wavy_ellipse(parameters, size) for parameters in ellipses]
    truth = ImageGroundTruth.from_masks(number, f"{number}.jpg", size, masks, crowd=rng.random(truths) < 0.02)
    scores = rng.random(detections).astype(np.float32).astype(np.float64)
    return truth, ImageDetections(size, tuple(rles), rle.boxes(rles, size), scores)


def evaluate_with(
    tool: str, documents: tuple[dict[str, Any], list[dict[str, Any]]], kind: str
) -> dict[str, float | None]:
    """The twelve numbers by ``pycocotools`` or ``faster-coco-eval``."""
    if tool == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = documents[0]
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(documents[1]), "segm" if kind == "masks" else "bbox")
        evaluation.params.maxDets = [10, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return oracle.numbers(np.asarray(evaluation.eval["recall"]), np.asarray(evaluation.eval["precision"]))


def measure(work: Callable[[], Any]) -> tuple[Any, Seconds, float]:
    """Result, seconds and peak megabytes of one call."""
    results: list[Any] = []
    seconds: list[Seconds] = []
    peak = peak_megabytes(lambda: seconds.append(measure_seconds(lambda: results.append(work()))))
    return results[0], seconds[0], peak


def time_resampling(stats: list[ImageStats], rng: np.random.Generator) -> None:
    collected = recall.collect(stats)
    n = len(stats)
    draws = [rng.multinomial(n, np.full(n, 1 / n)) for _ in range(20)]
    seconds = measure_seconds(lambda: [collected.summary(weights) for weights in draws]).cpu / len(draws)
    size = np.mean([len(json.dumps(one)) for one in stats])
    print(f"\nresampling {seconds * 1e3:.2f} ms per draw, JSON {size / 1e3:.1f} kB per image")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--truths", type=int, default=100, help="ground truths per image")
    parser.add_argument("--detections", type=int, default=1000, help="per image")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width in pixels")
    parser.add_argument("--iou-type", choices=("masks", "boxes"), default="masks")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rng = np.random.default_rng(0)
    size = (args.size[0], args.size[1])
    recall.summarise([recall.score_image(*random_image(rng, 0, 2, 5, (40, 40)), iou_type=args.iou_type)])  # compiles
    images = [random_image(rng, i, args.truths, args.detections, size) for i in range(1, args.images + 1)]
    truths, detections = zip(*images, strict=True)
    title = f"{args.images} images, {args.truths} ground truths and {args.detections} detections each, {args.iou_type}"
    table = Table(title, COLUMNS)

    def score_all() -> list[ImageStats]:
        return [recall.score_image(truth, found, iou_type=args.iou_type) for truth, found in images]

    stats, scoring, peak = measure(score_all)
    numbers, summing, _ = measure(partial(recall.summarise, stats))
    ours = Seconds(scoring.cpu + summing.cpu, scoring.wall + summing.wall)
    table.add("masktree", *ours, peak, None, None)
    for tool in ("faster-coco-eval", "pycocotools"):
        documents = oracle.documents(truths, detections, args.iou_type)
        others, seconds, peak = measure(partial(evaluate_with, tool, documents, args.iou_type))
        difference = max(
            np.inf if (a is None) != (b is None) else abs((a or 0) - (b or 0))
            for a, b in zip(numbers.values(), others.values(), strict=True)
        )
        table.add(tool, *seconds, peak, seconds.cpu / ours.cpu, difference)
    time_resampling(stats, rng)


if __name__ == "__main__":
    main()
