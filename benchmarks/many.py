"""Many images on one machine: images per second, share of each step, and memory over time, by number of processes.

    python benchmarks/many.py WORK --images 200 --workers 1 2 --rounds 2
    python benchmarks/many.py WORK --photos "PHOTOS/*.tar" --side 224 --images 5000 --rounds 1 --figure memory.png

Cost: CPU seconds per image, in the table. Expected: table "Memory and steps" in docs/guides/many.md. The images are
copies of photographs, in a label set of ``masktree discover``. Rounds alternate between the numbers of processes, so
that what else the machine does falls on all of them. The time to start the processes, which does not grow with the
images, is reported apart. Resident sizes are those of this process, which collects the results and writes the shards,
and of the largest worker, sampled every second: means of the second tenth of the run and of the last.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
from PIL import Image

from arguments import make_parser
from masktree.io.photos import Photo, find_photos
from masktree.io.stored import find_stored, is_stored
from masktree.jobs import batch
from masktree.labels import LabelSetWriter
from masktree.labels.writer import pending_folder
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment_job import SegmentJob
from table import Table

PHOTOS = Path(__file__).parents[1] / "examples/photos"
STEPS = ("read", "network", "cluster", "write")
SAMPLE_SECONDS = 1.0


class TimedJob:
    """A job of ``masktree discover`` that returns the seconds of its steps."""

    def __init__(self, job: SegmentJob) -> None:
        self.job = job
        self._network = [0.0]
        self._is_timed = False

    def __call__(self, photo: Photo) -> dict[str, float]:
        if not self._is_timed:
            self._time_network(self.job.segmenter.backbone)
            self._is_timed = True
        self._network[0] = 0.0
        processor = time.process_time()
        begun: list[tuple[str, float]] = []
        self.job(photo, lambda step: begun.append((step, time.perf_counter())))
        begun.append(("", time.perf_counter()))
        seconds = {name: end - start for (name, start), (_, end) in itertools.pairwise(begun)}
        seconds["processor"] = time.process_time() - processor
        seconds["network"] = self._network[0]
        seconds["cluster"] = seconds.pop("segment") - seconds["network"]
        return seconds

    def _time_network(self, backbone: Any) -> None:
        """Measure the calls of the backbone's network; the cues of the embedded one count as clustering."""
        owner, name = (backbone._network, "forward") if backbone.name == "embedded" else (type(backbone), "__call__")
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self._network[0] += time.perf_counter() - start

        setattr(owner, name, timed)


class ResidentSizes:
    """Resident megabytes of this process and of its largest worker, sampled by a thread while the block runs.

    Attributes:
        minutes, parent, worker: of each sample.
    """

    def __init__(self) -> None:
        self.minutes: list[float] = []
        self.parent: list[float] = []
        self.worker: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> ResidentSizes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        this, start = psutil.Process(), time.perf_counter()
        while not self._ended.wait(SAMPLE_SECONDS):
            workers = [0.0]
            for child in this.children():
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    workers.append(child.memory_info().rss / 1e6)
            self.minutes.append((time.perf_counter() - start) / 60)
            self.parent.append(this.memory_info().rss / 1e6)
            self.worker.append(max(workers))


@dataclass
class Round:
    """Measurements of one run.

    Attributes:
        start: seconds until the first result.
        rate: images per second after it.
        steps: seconds per image in the workers by step; "processor" is the CPU time of all of them.
        collecting: CPU seconds per image in which this process wrote shards.
        sizes: resident sizes over time.
        stored: bytes per image of the label set.
    """

    start: float
    rate: float
    steps: Counter[str]
    collecting: float
    sizes: ResidentSizes
    stored: float


def run(photos: list[Photo], root: Path, output: Path, config: SegmenterConfig, workers: int, shard_size: int) -> Round:
    """Make one label set."""
    shutil.rmtree(output, ignore_errors=True)
    job = SegmentJob(config, pending_folder(output), NO_PICTURES, for_labels=True)
    output.mkdir(parents=True)
    record = job.open_record(output, {}, overwrite=False)
    writer = LabelSetWriter.open(output, root, photos, shard_size=shard_size)
    steps: Counter[str] = Counter()
    times = []
    collecting, write = [0.0], writer._write_shard

    def write_shard(shard: int) -> None:
        start = time.thread_time()
        write(shard)
        collecting[0] += time.thread_time() - start

    writer._write_shard = write_shard  # type: ignore[method-assign]
    begun = time.perf_counter()
    with writer.in_background(), ResidentSizes() as sizes:
        for result in batch.run(photos, TimedJob(job), workers=workers):
            assert result.error is None, result.error
            steps.update(result.value)
            record.add(result)
            writer.add(result)
            times.append(time.perf_counter() - begun)
    writer.close(record)
    stored = sum(path.stat().st_size for path in (output / "annotations").iterdir()) / len(photos)
    first, last = times[workers], times[-1]
    rate = (len(photos) - workers - 1) / (last - first)
    per_image = Counter({name: value / len(photos) for name, value in steps.items()})
    return Round(first, rate, per_image, collecting[0] / len(photos), sizes, stored)


def draw(path: Path, rounds: dict[int, list[Round]]) -> None:
    """Resident sizes over time in the last round of each number of processes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for workers, results in rounds.items():
        sizes = results[-1].sizes
        processes = "1 process" if workers == 1 else f"{workers} processes"
        if workers > 1:
            axes.plot(sizes.minutes, sizes.worker, label=f"largest worker, {processes}")
        axes.plot(sizes.minutes, sizes.parent, label=f"command, {processes}")
    axes.set(xlabel="minutes", ylabel="resident size (MB)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def make_copies(source: str, folder: Path, count: int, side: int) -> list[Photo]:
    """Copies of photographs, repeated where there are fewer; those of an earlier call are kept."""
    sources = find_stored(source)[1] if is_stored(source) else find_photos([source])[0]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        copy = folder / f"{number:06d}.jpg"
        if copy.exists():
            continue
        with sources[number % len(sources)].local() as path, Image.open(path) as photo:
            photo.thumbnail((side, side))
            photo.convert("RGB").save(copy, quality=92)
    return find_photos([folder])[0]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("work", type=Path, help="folder for copies and label sets")
    parser.add_argument("--photos", default=str(PHOTOS), help="folder, glob or tar files")
    parser.add_argument("--side", type=int, default=640, help="longest side of the copies")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--method", default="masktree")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--figure", type=Path, help="file of a figure of the resident sizes")
    args = parser.parse_args()
    root = args.work / f"photos-{args.images}-{args.side}"
    photos = make_copies(args.photos, root, args.images, args.side)
    options = {"masks": "nodes"} if args.method == "masktree" else {}  # as ``masktree discover``
    config = SegmenterConfig(method=args.method, backbone=args.backbone, options=options)
    rounds: dict[int, list[Round]] = {workers: [] for workers in args.workers}
    for _ in range(args.rounds):
        for workers in args.workers:
            rounds[workers].append(run(photos, root, args.work / "labels", config, workers, args.shard_size))
    columns = {"processes": "", "images/s": ".2f", "ratio": ".2f", "start (s)": ".1f", "CPU s/image": ".2f"}
    columns |= {f"{step} (%)": ".1f" for step in STEPS} | {"collecting (CPU s)": ".3f"}
    columns |= {"command (MB)": "", "worker (MB)": "", "bytes/image": ".0f"}
    table = Table(f"{args.images} images, {args.method}, {args.backbone}", columns)
    one = mean(r.rate for r in rounds[min(args.workers)])
    for workers, results in rounds.items():
        total = sum(r.steps[step] for r in results for step in STEPS)
        shares = [100 * sum(r.steps[step] for r in results) / total for step in STEPS]
        last, rate = results[-1], mean(r.rate for r in results)
        tenth = max(1, len(last.sizes.minutes) // 10)
        sizes = [
            f"{mean(s[tenth : 2 * tenth]):.0f} to {mean(s[-tenth:]):.0f}"
            for s in (last.sizes.parent, last.sizes.worker)
        ]
        collecting = mean(r.collecting for r in results)
        start, processor = mean(r.start for r in results), mean(r.steps["processor"] for r in results)
        table.add(str(workers), rate, rate / one, start, processor, *shares, collecting, *sizes, last.stored)
    if args.figure is not None:
        draw(args.figure, rounds)


if __name__ == "__main__":
    main()
