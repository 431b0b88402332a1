"""From photograph to tree file: CPU seconds by method and stage on one thread.

    python benchmarks/pipeline.py FOLDER [--quality best] [--methods hassod sohes] [--limit 10]
    python benchmarks/pipeline.py FOLDER --workers
    python benchmarks/pipeline.py FOLDER --large-image

Cost: 1 to 10 s per photograph and method. Expected: everything but the features of hassod with the dense CRF at
480 x 480 in at most 0.5 s. Each method runs in a process of its own, after one small image that loads and compiles.
Stages do not count the stages inside them. features: backbone or boundary cues. clustering: merge trees, cuts, MaskCut,
leaves. refinement: the refiner, or upsampling of leaves. hierarchy: mask NMS, forest and order. writing: the JSON file.
other: resizing, filters, run-length encoding.

``--workers`` makes labels with one and with two processes and tells CPU seconds, without the first photograph of each
process: other programs beside do not count, up to their use of caches. The rate of two is that on two free cores.

``--large-image`` enlarges the first photograph to 6000 x 4000 pixels, adds noise, and runs ``masktree segment`` on it:
wall and CPU seconds and peak memory of the command.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

from arguments import make_parser
from masktree import DiscoverySegmenter
from masktree.backbones import load_backbone
from masktree.discover.methods import METHODS
from masktree.io.images import read_image
from masktree.io.photos import Photo, find_photos
from masktree.io.resize import resize_image
from masktree.jobs import batch
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment_job import SegmentJob
from masktree.trees import rle
from measurement import resident_megabytes
from table import Table

STAGES = ("features", "clustering", "refinement", "hierarchy", "writing", "other")
SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
STAGE_FUNCTIONS = (  # module below masktree, function, stage
    ("discover.region_masks", "merge_tree", "clustering"),
    ("discover.region_masks", "pooled_regions", "clustering"),
    ("discover.sohes", "pooled_regions", "clustering"),
    ("discover.maskcut", "cut_patches", "clustering"),
    ("discover.masktree", "boundary_cues", "features"),
    ("discover.masktree", "watershed_leaves", "clustering"),
    ("discover.masktree", "analyse_leaves", "clustering"),
    ("discover.masktree", "upsample_leaves", "refinement"),
    ("discover.masktree", "choose_by_motion", "hierarchy"),
    ("discover.region_masks", "mask_nms", "hierarchy"),
    ("trees.hierarchy", "parents_by_coverage", "hierarchy"),
    ("refine.guided", "guided", "refinement"),
)


class Stopwatch:
    """CPU seconds by stage; an outer stage pauses while an inner one runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack = ["other"]
        self._start = time.process_time()

    def lap(self) -> None:
        """Add the time since the last lap to the current stage."""
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._start
        self._start = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.lap()
            self._stack.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.lap()
                self._stack.pop()

        return run


def time_stages(watch: Stopwatch) -> None:
    """Replace the functions that make up the stages by timed ones."""
    for module_name, name, stage in STAGE_FUNCTIONS:
        module = importlib.import_module(f"masktree.{module_name}")
        setattr(module, name, watch.timed(stage, getattr(module, name)))
    for name in ("hassod", "sohes", "unsam", "maskcut"):  # the refiner of quality best is a default argument
        defaults: dict[str, Any] = METHODS[name].load().__kwdefaults__  # type: ignore[assignment]  # has defaults
        defaults["refiner"] = watch.timed("refinement", defaults["refiner"])
    module = importlib.import_module("masktree.trees.masktree")
    module.MaskTree.from_dendrogram = staticmethod(watch.timed("hierarchy", module.MaskTree.from_dendrogram))


def measure(paths: Sequence[str], method: Any, quality: Any, backbone: str) -> dict[str, float]:
    """Means over the photographs by one method, in a child process."""
    watch = Stopwatch()
    time_stages(watch)
    network = load_backbone(backbone, "cpu")
    for name in ("__call__", "predict_boundaries"):  # of the class: methods ask which one a backbone has
        if hasattr(network, name):
            setattr(type(network), name, watch.timed("features", getattr(type(network), name)))
    segmenter = DiscoverySegmenter(network, method, quality)
    images = [read_image(path) for path in paths]
    segmenter(images[0][:256, :256])
    totals: dict[str, float] = dict.fromkeys((*STAGES, "wall", "masks", "coverage", "file kB"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree.json"
        for image in images:
            watch.lap()
            watch.seconds.clear()
            start = time.perf_counter()
            tree = segmenter(image)
            watch.timed("writing", tree.save)(path)
            watch.lap()
            totals["wall"] += time.perf_counter() - start
            for stage in STAGES:
                totals[stage] += watch.seconds[stage]
            totals["masks"] += len(tree)
            totals["coverage"] += rle.areas([rle.union(tree.rles, tree.size)], tree.size)[0] / np.prod(tree.size)
            totals["file kB"] += path.stat().st_size / 1024
    return {k: float(v) / len(images) for k, v in totals.items()} | {"peak MB": resident_megabytes("VmHWM")}


def compare_methods(folder: Path, methods: Sequence[str], quality: str, backbone: str, limit: int | None) -> None:
    paths = [str(path) for path in photographs(folder)[:limit]]
    columns = {"method": "", **dict.fromkeys((*STAGES, "total", "but features", "wall"), ".3f")}
    columns |= {"masks": ".1f", "coverage": ".3f", "file kB": ".1f", "peak MB": ".0f"}
    table = Table(
        f"{len(paths)} photographs, quality {quality}, backbone {backbone}; CPU seconds per photograph", columns
    )
    for method in methods:
        job = json.dumps([paths, method, quality, backbone])
        done = subprocess.run(
            [sys.executable, __file__, str(folder), "--child", job],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | SINGLE_THREAD,
        )
        row = json.loads(done.stdout.splitlines()[-1])
        row["total"] = sum(row[stage] for stage in STAGES)
        row["but features"] = row["total"] - row["features"]
        table.add(method, *(row[column] for column in list(columns)[1:]))


class TimedJob:
    """A job whose value is the process that did an item, and the CPU seconds that it took."""

    def __init__(self, job: SegmentJob) -> None:
        self.job = job

    def __call__(self, photo: Photo) -> tuple[int, float]:
        start = time.process_time()
        self.job(photo)
        return os.getpid(), time.process_time() - start


def compare_workers(folder: Path, methods: Sequence[str], quality: Any, backbone: str, limit: int | None) -> None:
    """CPU seconds of a photograph's labels with one process and with two, without the first one of each process."""
    photos = find_photos([folder])[0][:limit]
    columns = {"method": "", "one": ".2f", "two": ".2f", "rate of two": ".2f"}
    table = Table(f"{len(photos)} photographs, backbone {backbone}; CPU seconds per photograph", columns)
    for method in methods:
        config = SegmenterConfig(method=method, backbone=backbone, quality=quality, device="cpu")
        seconds = []
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as output:
                job = TimedJob(SegmentJob(config, Path(output), NO_PICTURES, for_labels=True))
                values = [result.value for result in batch.run(photos, job, workers=workers)]
            firsts = dict(reversed(values))
            total = sum(spent for _, spent in values) - sum(firsts.values())
            seconds.append(total / (len(values) - len(firsts)))
        table.add(method, *seconds, 2 * seconds[0] / seconds[1])


def segment_large_image(folder: Path) -> None:
    """One photograph of 24 megapixels through ``masktree segment``, with and without overlay."""
    from PIL import Image

    columns = {"options": "", "exit": "d", "wall s": ".1f", "CPU s": ".1f", "peak MB": ".0f", "files MB": ".1f"}
    table = Table("masktree segment, 6000 x 4000 pixels", columns)
    with tempfile.TemporaryDirectory() as scratch:
        image = resize_image(read_image(photographs(folder)[0]), (4000, 6000)).astype(np.int16)
        image += np.random.default_rng(0).normal(0, 6, image.shape).astype(np.int16)
        path = Path(scratch) / "large.jpg"
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path, quality=92)
        del image
        for options in ([], ["--picture", "none"]):
            out = Path(scratch) / f"out{len(options)}"
            command = [sys.executable, "-m", "masktree", "segment", str(path), "-o", str(out), *options]
            start = time.perf_counter()
            child = subprocess.Popen(command, env=os.environ | SINGLE_THREAD, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
            megabytes = sum(p.stat().st_size for p in out.glob("large.*")) / 1e6 if out.exists() else 0.0
            cpu = usage.ru_utime + usage.ru_stime
            code = os.waitstatus_to_exitcode(status)
            table.add(" ".join(options) or "none", code, wall, cpu, usage.ru_maxrss / 1024, megabytes)


def photographs(folder: Path) -> list[Path]:
    return [photo.path for photo in find_photos([folder])[0]]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="of photographs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quality", choices=("fast", "best"), default="fast")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--limit", type=int, help="only the first so many photographs")
    parser.add_argument("--workers", action="store_true", help="one and two processes of masktree discover")
    parser.add_argument("--large-image", action="store_true", help="one enlarged photograph through the command")
    parser.add_argument("--child", help="used internally")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(*json.loads(args.child))))
    elif args.large_image:
        segment_large_image(args.folder)
    elif args.workers:
        compare_workers(args.folder, args.methods, args.quality, args.backbone, args.limit)
    else:
        compare_methods(args.folder, args.methods, args.quality, args.backbone, args.limit)


if __name__ == "__main__":
    main()
