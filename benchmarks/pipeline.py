"""The whole way from photograph to tree file, by method and stage, at one thread.

    python benchmarks/pipeline.py FOLDER [--quality best] [--methods hassod sohes] [--limit 10]
    python benchmarks/pipeline.py FOLDER --big

Each method runs in a process of its own, after one small image that loads and compiles. Seconds are CPU seconds per
image; the time of a stage is its own, without that of stages inside it. features: backbone, or the cues of
borders. clustering: merge trees, cuts, MaskCut, leaves. refinement: the refiner, or the redrawing of borders at full
size. hierarchy: suppression of duplicates, forest. writing: the JSON file. other: resizing, filters, run lengths.

--big makes one photograph of 6000 x 4000 pixels out of the folder's first (enlarged, with noise) and gives it to
``masktree segment``: wall and CPU seconds and peak memory of that command.
"""

from __future__ import annotations

import argparse
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

METHODS = ("masktree", "hassod", "sohes", "unsam")
STAGES = ("features", "clustering", "refinement", "hierarchy", "writing", "other")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
GOAL = "goal: everything but features <= 0.5 s per image for hassod with the CRF at 480 x 480"


class Stopwatch:
    """CPU seconds by stage; an outer stage does not count while an inner one runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack = ["other"]
        self._since = time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self._switch()
            self._stack.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self._switch()
                self._stack.pop()

        return run

    def start(self) -> None:
        self.seconds.clear()
        self._since = time.process_time()

    def stop(self) -> None:
        self._switch()


def install(watch: Stopwatch) -> None:
    """Put the stopwatch around the functions that make up the stages."""
    from masktree import discover, refine
    from masktree.trees import hierarchy
    from masktree.trees.masktree import MaskTree

    modules = {name: sys.modules[f"masktree.discover.{name}"] for name in ("region_masks", *METHODS)}
    assert discover
    for module, name, stage in (
        (modules["region_masks"], "merge_tree", "clustering"),
        (modules["region_masks"], "pooled_regions", "clustering"),
        (modules["sohes"], "pooled_regions", "clustering"),
        (modules["unsam"], "maskcut", "clustering"),
        (modules["masktree"], "boundary_cues", "features"),
        (modules["masktree"], "watershed_leaves", "clustering"),
        (modules["masktree"], "merge_leaves", "clustering"),
        (modules["masktree"], "upsample_leaves", "refinement"),
        (modules["region_masks"], "mask_nms", "hierarchy"),
        (hierarchy, "parents_by_coverage", "hierarchy"),
        (refine, "guided", "refinement"),
    ):
        setattr(module, name, watch.timed(stage, getattr(module, name)))
    for name in ("hassod", "sohes", "unsam"):  # the refiner of quality best is the default argument
        function = modules[name].__dict__[name]
        function.__kwdefaults__["refiner"] = watch.timed("refinement", function.__kwdefaults__["refiner"])
    make = MaskTree.from_dendrogram
    MaskTree.from_dendrogram = staticmethod(watch.timed("hierarchy", make))  # type: ignore[method-assign, assignment]


class TimedBackbone:
    """A backbone under the stopwatch."""

    def __init__(self, backbone: Any, watch: Stopwatch) -> None:
        self._backbone = backbone
        self._call = watch.timed("features", backbone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def __call__(self, images: Any) -> Any:
        return self._call(images)


def measure(paths: Sequence[str], method: str, quality: str, backbone: str) -> dict[str, Any]:
    """In the child: one method over all photographs."""
    import numpy as np

    import masktree
    from masktree.backbones import load_backbone
    from masktree.io.images import read_image
    from masktree.trees import rle

    watch = Stopwatch()
    install(watch)
    segmenter = masktree.DiscoverySegmenter(
        TimedBackbone(load_backbone(backbone, "cpu"), watch),
        method,
        quality,  # type: ignore[arg-type]
    )
    images = [read_image(path) for path in paths]
    segmenter(images[0][:64, :64])
    totals: dict[str, float] = dict.fromkeys((*STAGES, "wall", "masks", "coverage", "kilobytes"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree.json"
        for image in images:
            wall = time.perf_counter()
            watch.start()
            tree = segmenter(image)
            watch.timed("writing", tree.save)(path)
            watch.stop()
            totals["wall"] += time.perf_counter() - wall
            for stage in STAGES:
                totals[stage] += watch.seconds[stage]
            totals["masks"] += len(tree)
            totals["coverage"] += rle.areas([rle.union(tree.rles, tree.size)], tree.size)[0] / np.prod(tree.size)
            totals["kilobytes"] += path.stat().st_size / 1024
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {k: float(v) / len(images) for k, v in totals.items()} | {"peak": int(peak.split()[1]) / 1024}


def table(folder: Path, methods: Sequence[str], quality: str, backbone: str, limit: int) -> None:
    paths = photographs(folder)[:limit]
    print(f"{len(paths)} photographs, quality {quality}, backbone {backbone}; CPU seconds per image. {GOAL}")
    columns = (*STAGES, "total", "but net", "wall")
    print(f"{'':10}" + "".join(f"{c:>11}" for c in columns) + "   masks  covered   file KB  peak MB")
    for method in methods:
        arguments = [sys.executable, __file__, str(folder), "--child", json.dumps([paths, method, quality, backbone])]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment())
        if done.returncode:
            print(f"{method:10} failed: {done.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        row["total"] = sum(row[stage] for stage in STAGES)
        row["but net"] = row["total"] - row["features"]
        line = f"{method:10}" + "".join(f"{row[c]:11.3f}" for c in columns)
        print(f"{line}{row['masks']:8.1f}{row['coverage']:9.3f}{row['kilobytes']:10.1f}{row['peak']:9.0f}", flush=True)


def big(folder: Path) -> None:
    """One photograph of 24 megapixels through the command."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        source = Image.open(photographs(folder)[0]).convert("RGB")
        picture = np.asarray(source.resize((6000, 4000), Image.Resampling.BICUBIC)).astype(np.int16)
        picture += np.random.default_rng(0).normal(0, 6, picture.shape).astype(np.int16)
        path = Path(scratch) / "big.jpg"
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=92)
        del picture
        for options in ([], ["--no-overlay"]):
            out = Path(scratch) / f"out{len(options)}"
            command = [sys.executable, "-m", "masktree", "segment", str(path), "-o", str(out), *options]
            start = time.perf_counter()
            child = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
            size = sum(p.stat().st_size for p in out.glob("big.*")) / 1e6 if out.exists() else 0.0
            print(
                f"masktree segment, 6000 x 4000 {' '.join(options)}: exit {os.waitstatus_to_exitcode(status)}, "
                f"wall {wall:.1f} s, CPU {usage.ru_utime + usage.ru_stime:.1f} s, "
                f"peak {usage.ru_maxrss / 1024:.0f} MB, files {size:.1f} MB",
                flush=True,
            )


def photographs(folder: Path) -> list[str]:
    found = sorted(str(p) for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not found:
        sys.exit(f"expected .jpg or .png photographs in {folder}; got none")
    return found


def environment() -> dict[str, str]:
    return os.environ | dict.fromkeys(THREADS, "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--quality", choices=("fast", "best"), default="fast")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*json.loads(arguments.child))))
    elif arguments.big:
        big(arguments.folder)
    else:
        table(arguments.folder, arguments.methods, arguments.quality, arguments.backbone, arguments.limit)


if __name__ == "__main__":
    main()
