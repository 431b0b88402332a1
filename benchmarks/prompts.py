"""Clicks on trees, dendrograms, features and networks, side by side: how well, how many clicks, how fast.

    python benchmarks/prompts.py --gt annotations.json --images images/ [--limit 20] [--entities 20] [--curve iou.png]
    python benchmarks/prompts.py --gt BSDS500/ --split val --limit 20
    python benchmarks/prompts.py --gt annotations.json --images images/ --model run/ --methods network redrawn
    python benchmarks/prompts.py --speed photo.jpg

Protocol and names of the scores are those of ``masktree.evaluate.points``; ``*`` is with oracle granularity: the loop
goes on with the best mask of each answer. ``curve`` asks each entity once, by its first click, at ten granularities:
mean IoU by size of the entity, and of the best of the ten. Truth is for reporting only: nothing was chosen by it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from scipy import ndimage  # noqa: E402

import masktree  # noqa: E402
from masktree import Predictor, refine  # noqa: E402
from masktree.evaluate.datasets import read_ground_truth  # noqa: E402
from masktree.evaluate.ground_truth import ImageGroundTruth  # noqa: E402
from masktree.evaluate.harness import click  # noqa: E402
from masktree.evaluate.points import farthest_point, summarise  # noqa: E402
from masktree.io.images import read_image, resize_image  # noqa: E402
from masktree.trees import rle  # noqa: E402

COLUMNS = ("max_iou", "oracle_iou", "one_iou", "noc80", "noc85", "noc90", "noc80_oracle", "noc90_oracle")
GRANULARITIES = np.linspace(0.1, 1, 10)
REGIONS = 200  # of the baseline of superpixels
SIZES = ((0, 32**2, "small"), (32**2, 96**2, "medium"), (96**2, np.inf, "large"))  # COCO's areas


class Superpixels:
    """The baseline of no entities: the regions under the clicks inside, of one cut of the dendrogram."""

    def __init__(self, tree: masktree.PartitionTree) -> None:
        self.labels = tree.cut_count(min(REGIONS, tree.n_leaves))

    def set_image(self, image: object) -> None:
        pass

    def predict(self, point_coords: Any, point_labels: Any, multimask_output: bool = True, **_: Any) -> tuple:
        x, y = np.asarray(point_coords, int)[np.asarray(point_labels) == 1].T
        return np.isin(self.labels, self.labels[y, x])[None], np.ones(1), None


class Similar:
    """The baseline of features alone: cells like those clicked inside and unlike those clicked outside, what hangs
    together with a click inside, redrawn by the guided filter. Without a click outside the threshold stands a quarter,
    half and three quarters of the way from the mean similarity of the image to 1."""

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
        like = (self.grid @ cells[inside].T).max(2)
        if inside.all():
            cuts = [like.mean() + part * (1 - like.mean()) for part in (0.5, 0.25, 0.75)]
            found = np.stack([like > cut for cut in cuts])
        else:
            found = (like > (self.grid @ cells[~inside].T).max(2))[None]
        found = found if multimask_output else found[:1]
        kept = []
        for one in found:
            pieces, _n = ndimage.label(one, np.ones((3, 3)))
            own = np.unique(pieces[y[inside] * h // H, x[inside] * w // W])
            kept.append(np.isin(pieces, own[own > 0]))
        big = np.stack([np.asarray(Image.fromarray(one).convert("L").resize((W, H))) for one in kept])
        soft = refine.guided(self.image, (big > 127).astype(np.float32), independent=True)
        return soft > 0.5, np.linspace(1, 0.8, len(soft)), None


@cache
def segmenter(name: str, **options: Any) -> Any:
    return masktree.load(name, device="cpu", **options)


def predictors(image: np.ndarray, backbone: str, model: str | None, methods: Sequence[str]) -> dict[str, Any]:
    """One predictor for each method."""
    tree = segmenter(backbone)(image)
    makers: dict[str, Callable[[], Any]] = {
        "superpixels": lambda: Superpixels(tree.dendrogram),
        "features": lambda: Similar(segmenter(backbone).backbone),
        "masks": lambda: Predictor(tree),
        "dendrogram": lambda: Predictor(tree.dendrogram),
        "network": lambda: Predictor(segmenter(str(model))),
        "redrawn": lambda: Predictor(segmenter(str(model), snap=True)),
    }
    return {name: makers[name]() for name in methods}


def curve(predictor: Any, truth: ImageGroundTruth) -> list[tuple[int, list[float]]]:
    """Area of each entity, and IoU of the answer to its first click at each granularity."""
    rows = []
    for text in truth.masks():
        target = rle.decode(text, truth.size)
        if not target.any():
            continue
        ious = []
        for g in GRANULARITIES:
            masks, _, _ = predictor.predict([farthest_point(target)], [1], granularity=float(g))
            ious.append(float((masks[0] & target).sum() / (masks[0] | target).sum()))
        rows.append((int(target.sum()), ious))
    return rows


def thinned(truth: ImageGroundTruth, entities: int) -> ImageGroundTruth:
    """At most so many entities, drawn by the image's id."""
    n = len(truth.boxes)
    if n <= entities:
        return truth
    keep = np.sort(np.random.default_rng(truth.id).permutation(n)[:entities])
    return replace(
        truth,
        rles=tuple(truth.masks()[i] for i in keep),
        boxes=truth.boxes[keep],
        areas=truth.areas[keep],
        crowd=truth.crowd[keep],
        parents=np.full(len(keep), -1, np.int32),
    )


def run(options: argparse.Namespace, truth: ImageGroundTruth) -> tuple[dict[str, Any], dict[str, Any]]:
    image = read_image(options.images / truth.name)
    truth = thinned(truth, options.entities)
    stats, curves = {}, {}
    for name, predictor in predictors(image, options.backbone, options.model, options.methods).items():
        stats[name] = click(predictor, image, truth)
        if options.curve and isinstance(predictor, Predictor):
            predictor.set_image(image)
            curves[name] = curve(predictor, truth)
    return stats, curves


def draw(curves: dict[str, list], path: Path) -> None:
    """Mean IoU against granularity, one colour a method."""
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


def quality(options: argparse.Namespace) -> None:
    split = {"split": options.split} if options.split else {}
    dataset = "bsds500" if (options.gt / "groundTruth").is_dir() else "json"
    truth = read_ground_truth(dataset, options.gt, check_counts=False, **split)
    images = truth.images[: options.limit]
    if options.images is None:
        options.images = (
            options.gt / "images" / (options.split or "") if options.gt.is_dir() else options.gt.parent / "images"
        )
    with ProcessPoolExecutor(options.workers) as pool:
        results = list(pool.map(partial(run, options), images))
    print(
        f"{options.gt.parent.name}/{options.gt.name}: {len(images)} images, at most {options.entities} entities of each"
    )
    print(f"{'':12}{'n':>5} " + " ".join(f"{name.replace('_oracle', '*'):>10}" for name in COLUMNS))
    for name in options.methods:
        stats = [result[name] for result, _ in results]
        means = summarise(stats)
        values = " ".join(f"{means[column] or 0:10.3f}" for column in COLUMNS)
        print(f"{name:12}{sum(one['n'] for one in stats):5} {values}")
    curves = {name: [row for _, found in results for row in found[name]] for name in results[0][1]}
    for name, rows in curves.items():
        areas, ious = np.array([area for area, _ in rows]), np.array([ious for _, ious in rows])
        print(f"{name}: IoU at g = .1 ... 1, best of the ten")
        for low, high, size in (*SIZES, (0, np.inf, "all")):
            some = ious[(areas >= low) & (areas < high)]
            if len(some):
                print(
                    f"  {size:7}{len(some):5}  "
                    + " ".join(f"{v:.2f}" for v in some.mean(0))
                    + f"  {some.max(1).mean():.3f}"
                )
    if curves:
        draw(curves, options.curve)


def measured(work: Callable[[], Any]) -> np.ndarray:
    """CPU and wall seconds of one call; other work on the machine prolongs the latter."""
    start = np.array([time.process_time(), time.perf_counter()])
    work()
    return np.array([time.process_time(), time.perf_counter()]) - start


def shown(seconds: np.ndarray) -> str:
    return f"{1e3 * seconds[0]:8.1f} ms CPU ({1e3 * seconds[1]:.1f} wall)"


def speed(options: argparse.Namespace) -> None:
    """Time of set_image, of a click (median of 50) and of everything, for a photograph brought to 1024 pixels."""
    image = read_image(options.speed)
    scale = 1024 / max(image.shape[:2])
    image = resize_image(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
    model = segmenter(options.model or options.backbone)
    rng = np.random.default_rng(0)
    places = rng.permutation(image.shape[0] * image.shape[1])[: 60 * 5].reshape(60, 5)
    clicks = np.stack([places % image.shape[1], places // image.shape[1]], -1)
    kinds = {"network": Predictor(model)}
    if not options.model:
        kinds = {"dendrogram": Predictor(model), "masks": Predictor(model(image))}
    for name, predictor in kinds.items():
        predictor.set_image(image)
        print(f"{name:11} set_image                {shown(measured(partial(predictor.set_image, image)))}")
        for several in (True, False):
            for number in (1, 5):
                labels = np.array([1, 0, 1, 0, 1])[:number]
                asks = [partial(predictor.predict, c[:number], labels, multimask_output=several) for c in clicks]
                times = np.median([measured(ask) for ask in asks][10:], axis=0)
                what = f"{number} click{'s' * (number > 1)}, {'several masks' if several else 'one mask'}"
                print(f"{name:11} {what:24} {shown(times)}")
    generator = masktree.AutomaticMaskGenerator(model)
    print(f"everything, {len(generator.tree(image))} masks: {shown(measured(partial(generator.tree, image)))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--entities", type=int, default=1000, help="at most so many of each image")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--model", help="folder of a promptable run")
    parser.add_argument("--methods", nargs="+", default=["superpixels", "features", "masks", "dendrogram"])
    parser.add_argument("--curve", type=Path, help="picture to write")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--speed", type=Path, help="photograph")
    options = parser.parse_args()
    if options.speed:
        speed(options)
    if options.gt:
        quality(options)


if __name__ == "__main__":
    main()
