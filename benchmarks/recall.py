"""Average recall and precision: seconds and peak memory beside pycocotools and faster-coco-eval, and their difference.

    python benchmarks/recall.py [--images 100] [--truths 100] [--detections 1000] [--size 480 640] [--kind masks]

Wavy blobs of all sizes, one truth in fifty a crowd; two thirds of the detections are changed copies of a truth, the
rest lie anywhere. Every tool starts from parsed annotations with compressed run lengths and does all its work up to the
twelve numbers at 1000 detections, one after the other in one process. Seconds and ratios are CPU seconds; wall seconds,
which other work on the machine prolongs, stand beside them. Peak memory is what a tool takes above the annotations
(Linux). ``resampling`` is one draw of a bootstrap over the images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from masktree.evaluate import recall  # noqa: E402
from masktree.evaluate.detections import ImageDetections  # noqa: E402
from masktree.evaluate.ground_truth import ImageGroundTruth  # noqa: E402
from masktree.trees import rle  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measurement import peak_megabytes  # noqa: E402
from tests.oracles import recall as oracle  # noqa: E402


def blob(shape: np.ndarray, size: tuple[int, int]) -> bytes:
    """A wavy ellipse: centre y, x, logarithm of the radius, of the squeeze, and phase and size of its waves."""
    cy, cx, log_radius, log_squeeze, phase, waves = shape
    reach = 1.5 * np.exp(log_radius + abs(log_squeeze))
    top, left = max(int(cy - reach), 0), max(int(cx - reach), 0)
    mask = np.zeros(size, bool)
    part = mask[top : max(int(cy + reach), 0), left : max(int(cx + reach), 0)]
    y = (np.arange(part.shape[0])[:, None] + top - cy) * np.exp(log_squeeze)
    x = (np.arange(part.shape[1]) + left - cx) * np.exp(-log_squeeze)
    edge = 1 + waves * np.sin(7 * np.arctan2(y, x) + phase)
    part[:] = y**2 + x**2 < (np.exp(log_radius) * edge) ** 2
    return rle.encode(mask)


def random_image(
    rng: np.random.Generator, number: int, truths: int, detections: int, size: tuple[int, int]
) -> tuple[ImageGroundTruth, ImageDetections]:
    def anywhere(n: int) -> np.ndarray:
        columns = [rng.random(n) * size[0], rng.random(n) * size[1], rng.uniform(np.log(6), np.log(140), n)]
        return np.stack([*columns, rng.normal(0, 0.3, n), rng.random(n) * 7, rng.uniform(0, 0.3, n)], 1)

    shapes = anywhere(truths)
    copies = shapes[rng.integers(truths, size=2 * detections // 3)]
    radii = np.exp(copies[:, 2:3])
    copies = copies + rng.normal(0, 0.1, copies.shape) * np.concatenate(
        [radii, radii, np.ones((len(copies), 2)), np.ones((len(copies), 2))], 1
    )
    found = [blob(shape, size) for shape in np.concatenate([copies, anywhere(detections - len(copies))])]
    masks = [blob(shape, size) for shape in shapes]
    truth = ImageGroundTruth.from_masks(number, f"{number}.jpg", size, masks, crowd=rng.random(truths) < 0.02)
    scores = rng.random(detections).astype(np.float32).astype(np.float64)
    return truth, ImageDetections(size, tuple(found), rle.boxes(found, size), scores)


def theirs(faster: bool, documents: tuple[dict[str, Any], list[dict[str, Any]]], kind: str) -> dict[str, float | None]:
    if faster:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = documents[0]
        coco.createIndex()
        run = Evaluation(coco, coco.loadRes(documents[1]), "segm" if kind == "masks" else "bbox")
        run.params.maxDets = [10, 100, 1000]
        run.evaluate()
        run.accumulate()
    return oracle.numbers(np.asarray(run.eval["recall"]), np.asarray(run.eval["precision"]))


def measured(work: Callable[[], Any]) -> tuple[Any, np.ndarray, float]:
    """Result, CPU and wall seconds, peak megabytes of one call."""
    kept: list[Any] = []

    def once() -> None:
        start = np.array([time.process_time(), time.perf_counter()])
        kept[:] = [work(), np.array([time.process_time(), time.perf_counter()]) - start]

    peak = peak_megabytes(once)
    return kept[0], kept[1], peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--truths", type=int, default=100)
    parser.add_argument("--detections", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--kind", choices=("masks", "boxes"), default="masks")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    make = (options.truths, options.detections, tuple(options.size))
    recall.summarise([recall.score_image(*random_image(rng, 0, 2, 5, (40, 40)), kind=options.kind)])  # compiles
    data = [random_image(rng, number, *make) for number in range(1, options.images + 1)]
    truths, founds = zip(*data, strict=True)
    counts = f"{options.truths} truths, {options.detections} detections each"
    print(f"{options.images} images of {options.size[0]} x {options.size[1]}, {counts}, {options.kind}")

    def score() -> list[recall.Stats]:
        return [recall.score_image(truth, found, kind=options.kind) for truth, found in data]

    stats, scoring, peak = measured(score)
    ours, summing, _ = measured(lambda: recall.summarise(stats))
    own = scoring + summing
    print(f"masktree          {own[0]:8.2f} s ({own[1]:.1f} wall)  {peak:7.0f} MB")
    for name, faster in (("faster-coco-eval", True), ("pycocotools", False)):
        documents = oracle.documents(truths, founds, options.kind)
        numbers, seconds, peak = measured(lambda f=faster, d=documents: theirs(f, d, options.kind))
        apart = max(
            np.inf if (a is None) != (b is None) else abs((a or 0) - (b or 0))
            for a, b in zip(ours.values(), numbers.values(), strict=True)
        )
        times = f"{seconds[0]:8.2f} s ({seconds[1]:.1f} wall)"
        print(f"{name:16}  {times}  {peak:7.0f} MB  {seconds[0] / own[0]:6.1f} x ours  largest difference {apart:.1e}")
    collected = recall.collect(stats)
    draws = [rng.multinomial(options.images, np.full(options.images, 1 / options.images)) for _ in range(20)]
    start = time.process_time()
    for weights in draws:
        collected.summary(weights)
    size = np.mean([len(json.dumps(one)) for one in stats])
    draw = (time.process_time() - start) / len(draws)
    print(f"resampling {draw * 1e3:.2f} ms a draw, JSON {size / 1e3:.1f} kB an image")
    print("  ".join(f"{name} {value:.4f}" if value is not None else f"{name} -" for name, value in ours.items()))


if __name__ == "__main__":
    main()
