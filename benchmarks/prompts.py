"""Prompts on trees, dendrograms, features and networks: IoU, number of clicks, seconds.

    python benchmarks/prompts.py --gt annotations.json --images images/ [--limit 20] [--entities 20] [--curve iou.png]
    python benchmarks/prompts.py --gt BSDS500/ --split val --limit 20
    python benchmarks/prompts.py --gt annotations.json --images images/ --model run/ --methods model snapped
    python benchmarks/prompts.py --speed photo.jpg

Cost: 1 to 3 s per entity on one core; --speed a minute. Expected: tables "Clicks" in docs/benchmarks.md. Protocol and
metrics are those of ``masktree.evaluate.points``; ``*`` is with oracle granularity: the simulation continues with the
best of the returned masks. --curve prompts each entity by its first click at ten granularities: mean IoU by size of the
entity, and of the best of the ten. The ground truth serves this report only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import masktree
from arguments import make_parser
from masktree import Predictor, refine
from masktree.evaluate.click_points import farthest_point
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.points import score_image_twice, summarise
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.prompt.candidates import NUM_MASKS
from masktree.trees import rle
from measurement import Seconds, measure_seconds
from table import Table

METRICS = ("max_iou", "oracle_iou", "one_iou", "noc80", "noc85", "noc90", "noc80_oracle", "noc90_oracle")
GRANULARITIES = np.linspace(0.1, 1, 10)
NUM_SUPERPIXELS = 200
AREA_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf), "all": (0, np.inf)}  # COCO's
SPEED_SIDE = 1024  # pixels


class SuperpixelPredictor:
    """Baseline without entities: the regions under the clicks inside, of one cut of the dendrogram."""

    def __init__(self, tree: masktree.PartitionTree) -> None:
        self.labels = tree.cut_count(min(NUM_SUPERPIXELS, tree.n_leaves))

    def set_image(self, image: object) -> None:
        pass

    def predict(self, point_coords: Any, point_labels: Any, multimask_output: bool = True, **_: Any) -> tuple:
        x, y = np.asarray(point_coords, int)[np.asarray(point_labels) == 1].T
        return np.isin(self.labels, self.labels[y, x])[None], np.ones(1), None


class FeaturePredictor:
    """Baseline of features alone: cells more similar to clicks inside than to clicks outside, in components with a
    click inside, refined by the guided filter. Without a click outside, the thresholds are a quarter, half and three
    quarters of the way from the image's mean similarity to 1."""

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone

    def set_image(self, image: np.ndarray) -> None:
        self.image = image
        grid = self.backbone(image[None])[0]
        self.grid = grid / np.maximum(np.linalg.norm(grid, axis=2, keepdims=True), 1e-6)

    def predict(self, point_coords: Any, point_labels: Any, multimask_output: bool = True, **_: Any) -> tuple:
        h, w, _d = self.grid.shape
        H, W, _c = self.image.shape
        x, y = np.asarray(point_coords, int).T
        cells, inside = self.grid[y * h // H, x * w // W], np.asarray(point_labels) == 1
        similarity = (self.grid @ cells[inside].T).max(2)
        if inside.all():
            thresholds = [similarity.mean() + part * (1 - similarity.mean()) for part in (0.5, 0.25, 0.75)]
            masks = np.stack([similarity > threshold for threshold in thresholds])
        else:
            masks = (similarity > (self.grid @ cells[~inside].T).max(2))[None]
        kept = []
        for mask in masks if multimask_output else masks[:1]:
            components, _n = ndimage.label(mask, np.ones((3, 3)))
            clicked = np.unique(components[y[inside] * h // H, x[inside] * w // W])
            kept.append(np.isin(components, clicked[clicked > 0]))
        upscaled = np.stack([np.asarray(Image.fromarray(mask).convert("L").resize((W, H))) for mask in kept])
        refined = refine.guided(self.image, (upscaled > 127).astype(np.float32), independent=True)
        return refined > 0.5, np.linspace(1, 0.8, len(refined)), None


@cache
def cached_segmenter(name: str, **options: Any) -> Any:
    return masktree.load(name, device="cpu", **options)


def predictor_of(model: Any) -> Predictor:
    """Predictor with as many masks as ``masktree evaluate points`` has."""
    return Predictor(model, num_multimask_outputs=NUM_MASKS)


def make_predictors(image: np.ndarray, backbone: str, model: str | None, methods: Sequence[str]) -> dict[str, Any]:
    """One predictor for each method."""
    tree = cached_segmenter(backbone)(image)
    makers: dict[str, Callable[[], Any]] = {
        "superpixels": lambda: SuperpixelPredictor(tree.dendrogram),
        "features": lambda: FeaturePredictor(cached_segmenter(backbone).backbone),
        "masks": lambda: predictor_of(tree),
        "dendrogram": lambda: predictor_of(tree.dendrogram),
        "model": lambda: predictor_of(cached_segmenter(str(model))),
        "snapped": lambda: predictor_of(cached_segmenter(str(model), snap=True)),
    }
    return {name: makers[name]() for name in methods}


def ious_by_granularity(predictor: Any, ground_truth: ImageGroundTruth) -> list[tuple[int, list[float]]]:
    """Area of each entity, and IoU of the mask for its first click at each granularity."""
    rows = []
    for text in ground_truth.masks():
        target = rle.decode(text, ground_truth.size)
        if not target.any():
            continue
        ious = []
        for g in GRANULARITIES:
            masks, _, _ = predictor.predict([farthest_point(target)], [1], granularity=float(g))
            ious.append(float((masks[0] & target).sum() / (masks[0] | target).sum()))
        rows.append((int(target.sum()), ious))
    return rows


def random_entities(ground_truth: ImageGroundTruth, count: int) -> ImageGroundTruth:
    """At most ``count`` entities, drawn with the image's id as seed."""
    n = len(ground_truth.boxes)
    if n <= count:
        return ground_truth
    keep = np.sort(np.random.default_rng(ground_truth.id).permutation(n)[:count])
    return replace(
        ground_truth,
        rles=tuple(ground_truth.masks()[i] for i in keep),
        boxes=ground_truth.boxes[keep],
        areas=ground_truth.areas[keep],
        crowd=ground_truth.crowd[keep],
        parents=np.full(len(keep), -1, np.int32),
    )


def score_image(args: argparse.Namespace, ground_truth: ImageGroundTruth) -> tuple[dict[str, Any], dict[str, Any]]:
    """Click statistics of each method, and ``ious_by_granularity`` of those that take a granularity."""
    image = read_image(args.images / ground_truth.name)
    ground_truth = random_entities(ground_truth, args.entities)
    stats, curves = {}, {}
    for name, predictor in make_predictors(image, args.backbone, args.model, args.methods).items():
        stats[name] = score_image_twice(predictor, image, ground_truth)
        if args.curve and isinstance(predictor, Predictor):
            predictor.set_image(image)
            curves[name] = ious_by_granularity(predictor, ground_truth)
    return stats, curves


def plot(curves: dict[str, list], path: Path) -> None:
    """Write a picture of mean IoU against granularity, one colour per method."""
    side, margin = 420, 40
    picture = Image.new("RGB", (side + 2 * margin, side + 2 * margin), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((margin, margin, margin + side, margin + side), outline="black")
    for tick in range(11):
        at = margin + side * tick / 10
        pen.text((margin - 26, 2 * margin + side - at - 6), f"{tick / 10:.1f}", fill="black")
        pen.text((at - 8, margin + side + 6), f"{tick / 10:.1f}", fill="black")
    colours = ("firebrick", "steelblue", "seagreen", "orange")
    for row, ((name, rows), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        means = np.mean([ious for _, ious in rows], 0)
        points = [(margin + side * g, margin + side * (1 - iou)) for g, iou in zip(GRANULARITIES, means, strict=True)]
        pen.line(points, fill=colour, width=2)
        pen.line((margin + side - 110, margin + 20 + 16 * row, margin + side - 90, margin + 20 + 16 * row), colour, 2)
        pen.text((margin + side - 84, margin + 14 + 16 * row), name, fill=colour)
    pen.text((margin, 10), "mean IoU of one click against granularity", fill="black")
    picture.save(path)


def report_curves(curves: dict[str, list], path: Path) -> None:
    columns = {"method": "", "entities": "", "n": "d", **{f"g = {g:.1f}": ".2f" for g in GRANULARITIES}, "best": ".3f"}
    table = Table("IoU of one click by granularity", columns)
    for name, rows in curves.items():
        areas, ious = np.array([area for area, _ in rows]), np.array([ious for _, ious in rows])
        for size, (low, high) in AREA_RANGES.items():
            selected = ious[(areas >= low) & (areas < high)]
            if len(selected):
                table.add(name, size, len(selected), *selected.mean(0), selected.max(1).mean())
    plot(curves, path)


def measure_quality(args: argparse.Namespace) -> None:
    split = {"split": args.split} if args.split else {}
    dataset = "bsds500" if (args.gt / "groundTruth").is_dir() else "json"
    images = read_ground_truth(dataset, args.gt, check_counts=False, **split).images[: args.limit]
    if args.images is None:
        args.images = args.gt / "images" / (args.split or "") if args.gt.is_dir() else args.gt.parent / "images"
    with ProcessPoolExecutor(args.workers) as pool:
        results = list(pool.map(partial(score_image, args), images))
    title = f"{args.gt.parent.name}/{args.gt.name}: {len(images)} images, at most {args.entities} entities of each"
    names = [name.replace("_oracle", "*") for name in METRICS]
    table = Table(title, {"method": "", "n": "d", **dict.fromkeys(names, ".3f")})
    for name in args.methods:
        stats = [result[name] for result, _ in results]
        means = summarise(stats)
        table.add(name, sum(one["n"] for one in stats), *(means[key] for key in METRICS))
    if args.curve:
        curves = {name: [row for _, by_name in results for row in by_name[name]] for name in results[0][1]}
        report_curves(curves, args.curve)


def measure_speed(args: argparse.Namespace) -> None:
    """Time of set_image, of prompts (median of 50) and of all masks, for a photograph resized to 1024 pixels."""
    image = read_image(args.speed)
    scale = SPEED_SIDE / max(image.shape[:2])
    image = resize_image(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
    segmenter = cached_segmenter(args.model or args.backbone)
    rng = np.random.default_rng(0)
    pixels = rng.permutation(image.shape[0] * image.shape[1])[: 60 * 5].reshape(60, 5)
    clicks = np.stack([pixels % image.shape[1], pixels // image.shape[1]], -1)
    predictors = {"model": Predictor(segmenter)}
    if not args.model:
        predictors = {
            "dendrogram": Predictor(segmenter),
            "masks": Predictor(segmenter(image)),
        }
    table = Table("Milliseconds", {"source": "", "call": "", "CPU": ".1f", "wall": ".1f"})

    def add(source: str, call: str, seconds: Seconds) -> None:
        table.add(source, call, 1e3 * seconds.cpu, 1e3 * seconds.wall)

    for name, predictor in predictors.items():
        predictor.set_image(image)
        add(name, "set_image", measure_seconds(partial(predictor.set_image, image)))
        for multimask in (True, False):
            for count in (1, 5):
                labels = np.array([1, 0, 1, 0, 1])[:count]
                calls = [
                    partial(predictor.predict, points[:count], labels, multimask_output=multimask) for points in clicks
                ]
                seconds = Seconds(*np.median([measure_seconds(call) for call in calls][10:], axis=0))
                add(name, f"{count} clicks, {'several masks' if multimask else 'one mask'}", seconds)
    generator = masktree.AutomaticMaskGenerator(segmenter)
    masks = len(generator.tree(image))
    add("generator", f"all {masks} masks", measure_seconds(partial(generator.tree, image)))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--gt", type=Path, help="annotations.json or folder of BSDS500")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", help="of BSDS500")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--entities", type=int, default=1000, help="at most so many of each image")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--model", help="folder of a promptable run")
    parser.add_argument("--methods", nargs="+", default=["superpixels", "features", "masks", "dendrogram"])
    parser.add_argument("--curve", type=Path, help="picture to write")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--speed", type=Path, help="photograph")
    args = parser.parse_args()
    if args.speed:
        measure_speed(args)
    if args.gt:
        measure_quality(args)


if __name__ == "__main__":
    main()
