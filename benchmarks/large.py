"""Images of any size: CPU seconds, peak memory and leaves of ``masktree segment`` at growing sizes.

    python benchmarks/large.py PHOTOS OUT [--sides 2500 5000 10000 20000] [--workers 1] [--cuts cuts.jpg]
        [--figure growth.png]

PHOTOS is a folder of photographs, of which a mosaic is written to OUT as a tiled TIFF file. Cost on two free
cores with --workers 2: 20 s, 40 s, 2 minutes, 7 minutes, plus the mosaics. Peak memory is the sum over all processes
of what each has for itself, sampled every half second. --cuts shows the last image and its cuts at three
granularities, --figure the growth of time and memory.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from PIL import Image

from arguments import make_parser
from masktree.trees.draw import overlay
from masktree.trees.tiled import TiledTree
from measurement import growth_exponent
from table import Table

CELL, TILE = 1500, 512  # pixels of a photograph in the mosaic, and of a tile of the file
PANEL = 400  # side of a picture of a cut
COLUMNS = {"side": "d", "CPU s": ".0f", "wall s": ".0f", "peak MB": ".0f", "leaves": "d", "us per pixel": ".2f"}


def write_mosaic(photos: list[Path], path: Path, side: int) -> None:
    """A mosaic of photographs in random order, from a fixed seed."""
    import tifffile

    cells = -(-side // CELL)
    pictures = [np.asarray(Image.open(photo).convert("RGB").resize((CELL, CELL))) for photo in photos]
    choice = np.random.default_rng(0).integers(len(pictures), size=(cells, cells))

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                rows, columns = np.arange(top, min(top + TILE, side)), np.arange(left, min(left + TILE, side))
                tile = np.zeros((TILE, TILE, 3), np.uint8)
                for row in np.unique(rows // CELL):
                    for column in np.unique(columns // CELL):
                        y, x = rows[rows // CELL == row], columns[columns // CELL == column]
                        part = pictures[choice[row, column]][np.ix_(y % CELL, x % CELL)]
                        tile[y[0] - top : y[-1] + 1 - top, x[0] - left : x[-1] + 1 - left] = part
                yield tile

    options = {"tile": (TILE, TILE), "compression": "zlib", "compressionargs": {"level": 1}, "photometric": "rgb"}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, bigtiff=True, **options)


def run(image: Path, output: Path, workers: int) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak megabytes of one run and its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.perf_counter(), 0.0
    command = [sys.executable, "-m", "masktree", "segment", image, "-o", output, "--tile", "2048", "--overwrite"]
    process = subprocess.Popen([*map(str, command), "--workers", str(workers)])
    while process.poll() is None:
        peak = max(peak, sum(_own_megabytes(p) for p in _family(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start, peak


def draw_cuts(tree: TiledTree, path: Path) -> None:
    """The overview of an image beside its cuts at granularities of .1, .3 and .6."""
    masks = tree.overview_tree()
    pictures = [tree.overview, *(overlay(tree.overview, masks, granularity=g, shows="cut") for g in (0.1, 0.3, 0.6))]
    panels = [np.asarray(Image.fromarray(p).resize((PANEL, PANEL), Image.Resampling.LANCZOS)) for p in pictures]
    Image.fromarray(np.concatenate(panels, axis=1)).save(path, quality=85)


def draw_growth(sides: list[int], seconds: list[float], megabytes: list[float], path: Path) -> None:
    """CPU seconds and peak memory by megapixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    megapixels = [side**2 / 1e6 for side in sides]
    gigabytes = [value / 1024 for value in megabytes]
    left.loglog(megapixels, seconds, "o-")
    left.set(ylabel="CPU seconds")
    left.set_yticks(seconds, [f"{value:.0f}" for value in seconds], minor=False)
    right.semilogx(megapixels, gigabytes, "o")
    right.set(ylabel="peak memory in GB", ylim=(0, 1.15 * max(gigabytes)))
    for axes in (left, right):
        axes.minorticks_off()
        axes.set_xticks(megapixels, [f"{value:.0f}" for value in megapixels])
        axes.set_xlabel("megapixels")
    figure.savefig(path, dpi=120)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _own_megabytes(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().uss / 2**20
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cuts", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix in {".jpg", ".png"})
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, seconds = Table("masktree segment --tile 2048", COLUMNS), []
    peaks: list[float] = []
    for side in arguments.sides:
        image = arguments.out / f"mosaic{side}.tif"
        if not image.exists():
            write_mosaic(photos, image, side)
        cpu, wall, peak = run(image, arguments.out / f"out{side}", arguments.workers)
        tree = TiledTree.load(arguments.out / f"out{side}" / f"mosaic{side}.dendrogram.npz")
        leaves = tree.graph.n_leaves
        seconds.append(cpu)
        peaks.append(peak)
        table.add(side, cpu, wall, peak, leaves, 1e6 * cpu / side**2)
    if arguments.figure is not None:
        draw_growth(arguments.sides, seconds, peaks, arguments.figure)
    if arguments.cuts is not None:
        draw_cuts(tree, arguments.cuts)
    pixels = [side**2 for side in arguments.sides]
    print(f"CPU seconds grow with the pixels to the power of {growth_exponent(pixels, seconds):.2f}")


if __name__ == "__main__":
    main()
