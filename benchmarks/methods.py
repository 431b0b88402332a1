"""The discovery methods side by side: every figure of ``masktree evaluate`` on BSDS500 and on COCO-style sets.

    python benchmarks/methods.py WORK --bsds /data/BSDS500 --sets /data/car_parts /data/clothing --workers 2

A set is a folder with ``images`` and ``annotations.json``. Trees and results (JSON) stay in WORK, so that a second call
goes on where the first one stopped, and ``masktree evaluate --compare`` can be used on the results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from masktree.evaluate.harness import evaluate
from masktree.evaluate.metrics import number
from masktree.evaluate.result import EvaluationResult
from masktree.predict import Method
from masktree.stages.segment import Config, segment

COLUMNS = {
    "bsds": ("covering_ods", "covering_ois", "covering_best", "pri_ods", "vi_ods", "f_ods", "f_ois", "f_ap"),
    "ar": ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l", "ap"),
    "hierarchy": ("parent_child_f1", "best_cut", "best_granularity", "nesting", "coverage"),
    "points": ("max_iou", "oracle_iou", "noc80", "noc85", "noc90"),
}


def scored(
    work: Path,
    data: Path,
    images: Path,
    truth: Path,
    name: str,
    config: Config,
    protocol: str,
    args: argparse.Namespace,
) -> EvaluationResult:
    """Trees of all images, and their scores by one protocol; kept in WORK under ``name`` from before where they are."""
    name = f"{data.name}-{name}"
    result = work / "results" / f"{name}-{protocol}.json"
    if result.exists():
        return EvaluationResult.read(result)
    outcome = segment([images], work / name, config, overlay=False, workers=args.workers, show_progress=True)
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} images failed; see {work / name / 'failures.json'}")
    split = {"split": args.split, "boundaries": not args.no_boundaries} if protocol == "bsds" else {}
    scores = evaluate(protocol, work / name, truth, allow_empty=True, workers=args.workers, show_progress=True, **split)
    scores.write(result)
    return scores


def sources(args: argparse.Namespace) -> list[tuple[Path, Path, Path, str]]:
    """Data set, its photographs, its truth and protocol, of all that the arguments name."""
    found = []
    if args.bsds and "bsds" in args.protocols:
        found.append((args.bsds, args.bsds / "images" / args.split, args.bsds, "bsds"))
    others = [protocol for protocol in args.protocols if protocol != "bsds"]
    return found + [(d, d / "images", d / "annotations.json", protocol) for protocol in others for d in args.sets]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that say where the data sets are and how they are measured."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bsds", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--sets", type=Path, nargs="*", default=[])
    parser.add_argument("--protocols", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--no-boundaries", action="store_true", help="no boundary F, which takes most of the time")
    parser.add_argument("--workers", type=int, default=0)
    return parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=get_args(Method), default=list(get_args(Method)))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--quality", choices=("fast", "best"), default="fast")
    args = parser.parse_args()
    for data, images, truth, protocol in sources(args):
        print(f"\n{data.name}, {protocol}\n\n| | " + " | ".join(COLUMNS[protocol]) + " |")
        print("|---" * (len(COLUMNS[protocol]) + 1) + "|")
        for method in args.methods:
            config = Config(method=method, backbone=args.backbone, quality=args.quality)
            name = f"{method}-{args.backbone.replace('/', '_')}-{args.quality}"
            metrics = scored(args.work, data, images, truth, name, config, protocol, args).metrics
            print(f"| {method} | " + " | ".join(number(metrics[key]) for key in COLUMNS[protocol]) + " |", flush=True)


if __name__ == "__main__":
    main()
