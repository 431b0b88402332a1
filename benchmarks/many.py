"""Many images on one machine: images per second, share of each step, and memory over time, by number of processes.

    python benchmarks/many.py WORK --images 200 --workers 1 2 --rounds 2
    python benchmarks/many.py WORK --images 5000 --workers 2 --rounds 1 --figure docs/images/memory.png

Cost: about 0.5 s per image and core. Expected: table "Many images" in docs/benchmarks.md. The images are copies of
photographs, in a label set of ``masktree discover``. Rounds alternate between the numbers of processes, so that what
else the machine does falls on all of them. The time to start the processes, which does not grow with the images, is
reported apart. Resident sizes are those of this process, which collects the results and writes the shards, and of the
largest worker, at every hundredth of the run: means of the second tenth and of the last.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
from PIL import Image

from arguments import make_parser
from masktree.io.photos import Photo, find_photos
from masktree.jobs import batch
from masktree.labels import LabelSetWriter
from masktree.labels.writer import pending_folder
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment_job import SegmentJob
from table import Table

PHOTOS = Path(__file__).parents[1] / "examples/photos"
STEPS = ("hash", "read", "network", "cluster", "write")


class TimedJob:
    """A job of ``masktree discover`` that returns the seconds of its steps and the resident size of its process."""

    def __init__(self, job: SegmentJob) -> None:
        self.job = job
        self._network = [0.0]
        self._is_timed = False

    def __call__(self, photo: Photo) -> tuple[dict[str, float], float]:
        self._time_network()
        self._network[0] = 0.0
        processor = time.process_time()
        begun = [("hash", time.perf_counter())]
        self.job(photo, lambda step: begun.append((step, time.perf_counter())))
        begun.append(("", time.perf_counter()))
        seconds = {name: end - start for (name, start), (_, end) in itertools.pairwise(begun)}
        seconds["processor"] = time.process_time() - processor
        seconds["network"] = self._network[0]
        seconds["cluster"] = seconds.pop("segment") - seconds["network"]
        return seconds, psutil.Process().memory_info().rss / 1e6

    def _time_network(self) -> None:
        """Measure calls of the backbone; the embedded one is part of the clustering."""
        if self._is_timed:
            return
        kind: Any = type(self.job.segmenter.backbone)
        call: Callable[..., Any] = kind.__call__

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self._network[0] += time.perf_counter() - start

        kind.__call__ = timed
        self._is_timed = True


@dataclass
class Round:
    """Measurements of one run.

    Attributes:
        start: seconds until the first result.
        rate: images per second after it.
        steps: seconds per image in the workers by step; "processor" is the CPU time of all of them.
        collecting: share of the run in which this process wrote shards.
        parent, worker: resident megabytes over time.
        stored: bytes per image of the label set.
    """

    start: float
    rate: float
    steps: Counter[str]
    collecting: float
    parent: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    stored: float = 0.0


def run(photos: list[Photo], root: Path, output: Path, config: SegmenterConfig, workers: int, shard_size: int) -> Round:
    """Make one label set."""
    shutil.rmtree(output, ignore_errors=True)
    job = SegmentJob(config, pending_folder(output), NO_PICTURES, for_labels=True)
    output.mkdir(parents=True)
    record = job.open_record(output, {}, overwrite=False)
    writer = LabelSetWriter.open(output, root, photos, shard_size=shard_size)
    steps: Counter[str] = Counter()
    parent, worker, times, collecting, latest = [], [], [], 0.0, 0.0
    begun = time.perf_counter()
    for number, result in enumerate(batch.run(photos, TimedJob(job), workers=workers)):
        assert result.error is None, result.error
        seconds, resident = result.value
        steps.update(seconds)
        latest = max(latest, resident)
        start = time.perf_counter()
        record.add(result)
        writer.add(result)
        collecting += time.perf_counter() - start
        times.append(time.perf_counter() - begun)
        if number % max(1, len(photos) // 100) == 0:
            parent.append(psutil.Process().memory_info().rss / 1e6)
            worker.append(latest)
            latest = 0.0
    writer.close(record)
    stored = sum(path.stat().st_size for path in (output / "annotations").iterdir()) / len(photos)
    first, last = times[workers], times[-1]
    rate = (len(photos) - workers - 1) / (last - first)
    per_image = Counter({name: value / len(photos) for name, value in steps.items()})
    return Round(first, rate, per_image, collecting / last, parent, worker, stored)


def draw(path: Path, rounds: dict[int, list[Round]], num_images: int) -> None:
    """Resident sizes over the images of the last round of each number of processes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for workers, results in rounds.items():
        last = results[-1]
        for name, sizes in (("command", last.parent), ("largest worker", last.worker)):
            positions = [num_images * i / len(sizes) for i in range(len(sizes))]
            axes.plot(positions, sizes, label=f"{name}, --workers {workers}")
    axes.set(xlabel="images done", ylabel="resident size (MB)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("work", type=Path, help="folder for copies and label sets")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--side", type=int, default=640, help="longest side of the copies")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--method", default="masktree")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--figure", type=Path, help="file of a figure of the resident sizes")
    args = parser.parse_args()
    sources = sorted(path for path in args.photos.iterdir() if path.suffix in (".jpg", ".png"))
    root = args.work / f"photos-{args.images}-{args.side}"
    root.mkdir(parents=True, exist_ok=True)
    for number in range(args.images):
        with Image.open(sources[number % len(sources)]) as photo:
            photo.thumbnail((args.side, args.side))
            photo.convert("RGB").save(root / f"{number:06d}.jpg", quality=92)
    photos, _ = find_photos([root])
    config = SegmenterConfig(method=args.method, backbone=args.backbone)
    rounds: dict[int, list[Round]] = {workers: [] for workers in args.workers}
    for _ in range(args.rounds):
        for workers in args.workers:
            rounds[workers].append(run(photos, root, args.work / "labels", config, workers, args.shard_size))
    columns = {"processes": "", "images/s": ".2f", "ratio": ".2f", "start (s)": ".1f", "CPU s/image": ".2f"}
    columns |= {f"{step} (%)": ".1f" for step in STEPS} | {"collecting (%)": ".1f"}
    columns |= {"command (MB)": "", "worker (MB)": "", "bytes/image": ".0f"}
    table = Table(f"{args.images} images, {args.method}, {args.backbone}", columns)
    one = mean(r.rate for r in rounds[args.workers[0]])
    for workers, results in rounds.items():
        total = sum(r.steps[step] for r in results for step in STEPS)
        shares = [100 * sum(r.steps[step] for r in results) / total for step in STEPS]
        last, rate = results[-1], mean(r.rate for r in results)
        tenth = max(1, len(last.parent) // 10)
        sizes = [f"{mean(s[tenth : 2 * tenth]):.0f} to {mean(s[-tenth:]):.0f}" for s in (last.parent, last.worker)]
        collecting = 100 * mean(r.collecting for r in results)
        start, processor = mean(r.start for r in results), mean(r.steps["processor"] for r in results)
        table.add(str(workers), rate, rate / one, start, processor, *shares, collecting, *sizes, last.stored)
    if args.figure is not None:
        draw(args.figure, rounds, args.images)


if __name__ == "__main__":
    main()
