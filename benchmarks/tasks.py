"""Tasks, each a protocol on a data set: their command-line arguments, and evaluations that are kept on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.harness import evaluate
from masktree.evaluate.options import EvaluationOptions, ProtocolName
from masktree.evaluate.result import EvaluationResult
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment import segment

T = TypeVar("T")
METRICS = {
    "bsds": ("covering_ods", "covering_ois", "covering_best", "pri_ods", "vi_ods", "f_ods", "f_ois", "f_ap"),
    "ar": ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l", "ap"),
    "hierarchy": ("parent_child_f1", "best_cut", "best_granularity", "nesting", "coverage"),
    "points": ("max_iou", "oracle_iou", "noc80", "noc85", "noc90"),
}


class Task(NamedTuple):
    """One protocol on one data set."""

    name: str
    images: Path
    ground_truth: Path
    protocol: ProtocolName


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that ``tasks`` and ``cached_evaluation`` read."""
    parser.add_argument("work", type=Path, help="folder of trees and results; finished work in it is reused")
    parser.add_argument("--bsds", type=Path, help="folder of BSDS500, with images/SPLIT and groundTruth/SPLIT")
    parser.add_argument("--split", default="val", help="of BSDS500")
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="folders with images and annotations.json")
    parser.add_argument("--protocols", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--no-boundaries", action="store_true", help="skip boundary F, which takes most of the time")
    parser.add_argument("--workers", type=int, default=0)


def tasks(args: argparse.Namespace) -> list[Task]:
    """All protocols on all data sets that the arguments name."""
    result = []
    if args.bsds and "bsds" in args.protocols:
        result.append(Task(args.bsds.name, args.bsds / "images" / args.split, args.bsds, "bsds"))
    others = [protocol for protocol in args.protocols if protocol != "bsds"]
    return result + [Task(s.name, s / "images", s / "annotations.json", p) for p in others for s in args.sets]


def cached_evaluation(task: Task, name: str, config: SegmenterConfig, args: argparse.Namespace) -> EvaluationResult:
    """The scores of a configuration; trees and result are kept in ``args.work`` under ``name``, and reused."""
    name = f"{task.name}-{name}"
    result_path = args.work / "results" / f"{name}-{task.protocol}.json"
    if result_path.exists():
        return EvaluationResult.read(result_path)
    trees = args.work / name
    outcome = segment([task.images], trees, config, pictures=NO_PICTURES, workers=args.workers, show_progress=True)
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} images failed; see {trees / 'failures.json'}")
    options = EvaluationOptions(allow_empty=True)
    if task.protocol == "bsds":
        options = replace(options, split=args.split, boundaries=not args.no_boundaries)
    result = evaluate(
        task.protocol,
        trees,
        task.ground_truth,
        options,
        workers=args.workers,
        show_progress=True,
    )
    result.write(result_path)
    return result


def evenly_spaced(items: Sequence[T], count: int | None) -> list[T]:
    """At most ``count`` items, evenly spaced; all for None."""
    count = len(items) if count is None else min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def read_images(folder: Path, count: int | None = None) -> list[tuple[Path, ImageGroundTruth]]:
    """Photograph and ground truth of ``count`` evenly spaced images of a folder with images and annotations.json."""
    images = read_ground_truth("json", folder / "annotations.json", check_counts=False).images
    return [(folder / "images" / image.name, image) for image in evenly_spaced(images, count)]


def bsds_names(folder: Path, split: str, count: int | None) -> list[str]:
    """Names without suffix of ``count`` evenly spaced images of BSDS500."""
    return evenly_spaced(sorted(path.stem for path in (folder / "groundTruth" / split).glob("*.mat")), count)
