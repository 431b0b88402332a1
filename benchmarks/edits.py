"""Corrections of 1,000 masks on 4,096 x 4,096 pixels: milliseconds of each edit, and of reading all of them again.

    python benchmarks/edits.py [--side 4096] [--repeats 15]

Cost: 2 minutes, 3 GB. The tree is that of a mosaic of the example photographs. CPU time of an edit, and wall time, in
which its line is flushed to disk; "large" is an edit of one of the ten largest masks, which have hundreds of parts,
"any" of a random one; "+ tree" is the CPU time of making the new ``MaskTree``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import masktree
from arguments import make_parser
from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.trees import rle
from table import Table

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
COLUMNS = {
    "edit": "",
    "mask": "",
    "CPU ms": ".1f",
    "most": ".1f",
    "wall ms": ".1f",
    "+ tree": ".1f",
    "edits": "d",
}


def mosaic(side: int) -> np.ndarray:
    """(side, side, 3) uint8: the photographs in 4 x 4 tiles."""
    files = sorted(PHOTOS.glob("*.jpg"))
    tile = side // 4
    picture = Image.new("RGB", (4 * tile, 4 * tile))
    for index in range(16):
        photo = Image.open(files[index % len(files)]).convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)
        picture.paste(photo, (index % 4 * tile, index // 4 * tile))
    return np.asarray(picture)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mosaic.json")
        tree = masktree.load("embedded")(mosaic(arguments.side))
        tree.save(path)
        print(f"{len(tree)} masks of {tree.size[0]} x {tree.size[1]} pixels, {path.stat().st_size / 2**20:.1f} MB")
        measure(path, arguments.repeats)


def measure(path: Path, repeats: int) -> None:
    """Print the table of a tree file."""
    started = time.perf_counter()
    edited = EditedTree.open(path)
    print(
        f"opened in {time.perf_counter() - started:.2f} s; "
        f"{len(rle.runs(edited.tree.rles, edited.tree.size).starts):,} runs"
    )
    rng = np.random.default_rng(0)
    table = Table("edits", COLUMNS)
    for name, make in EDITS.items():
        for size in ("any", "large"):
            times = [seconds for _ in range(repeats) if (seconds := timed(edited, make, size, rng)) is not None]
            if times:
                made, wall, rebuilt = np.array(times[1:] or times).T * 1000  # the first one may compile
                medians = [float(np.median(values)) for values in (made, wall, rebuilt)]
                table.add(name, size, medians[0], made.max(), *medians[1:], len(made))
    started = time.perf_counter()
    again = EditedTree.open(path)
    seconds = time.perf_counter() - started
    print(f"\n{edited.version} edits in {edited.path.stat().st_size / 2**10:.0f} kB, all read again in {seconds:.2f} s")
    assert again.tree.rles == edited.tree.rles


def timed(
    edited: EditedTree, make: Callable[[np.random.Generator, EditedTree, int], dict[str, Any]], size: str, rng: Any
) -> tuple[float, float, float] | None:
    """CPU and wall seconds of an edit, and CPU seconds of the tree after it; it is undone again. None if refused."""
    order = np.argsort(-edited.areas)[:10] if size == "large" else np.arange(len(edited.ids))
    edit = make(rng, edited, int(rng.choice(order)))
    started, started_wall = time.process_time(), time.perf_counter()
    try:
        edited.apply(edit)
    except InputError:
        return None
    made, made_wall = time.process_time(), time.perf_counter()
    _ = edited.tree
    done = time.process_time()
    edited.apply({"op": "undo"})
    return made - started, made_wall - started_wall, done - made


def _lasso(rng: np.random.Generator, edited: EditedTree, index: int) -> list[list[float]]:
    """Around half the mask, with 200 points."""
    x, y, width, height = edited.boxes[index].tolist()
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radii = np.array([width / 2, height / 2]) * rng.uniform(0.6, 0.8)
    ring = np.array([x + width * rng.uniform(0.3, 0.9), y + height / 2]) + radii * np.stack(
        [np.cos(angles), np.sin(angles)], 1
    )
    return ring.tolist()


def _line(rng: np.random.Generator, edited: EditedTree, index: int) -> list[list[float]]:
    x, y, width, height = edited.boxes[index].tolist()
    return [[x - 2, y + height * rng.uniform(0.3, 0.7)], [x + width + 2, y + height * rng.uniform(0.3, 0.7)]]


def _id(edited: EditedTree, index: int) -> int:
    return int(edited.ids[index])


EDITS: dict[str, Callable[[np.random.Generator, EditedTree, int], dict[str, Any]]] = {
    "accept": lambda rng, t, i: {"op": "accept", "ids": [_id(t, i)]},
    "delete": lambda rng, t, i: {"op": "delete", "ids": [_id(t, i)]},
    "merge": lambda rng, t, i: {"op": "merge", "ids": [_id(t, i), _id(t, (i + 1) % len(t.ids))]},
    "split along the dendrogram": lambda rng, t, i: {"op": "split", "id": _id(t, i), "by": "dendrogram"},
    "split along a line": lambda rng, t, i: {"op": "split", "id": _id(t, i), "by": "line", "line": _line(rng, t, i)},
    "add": lambda rng, t, i: {"op": "add", "id": _id(t, i), "polygon": _lasso(rng, t, i)},
    "erase": lambda rng, t, i: {"op": "erase", "id": _id(t, i), "polygon": _lasso(rng, t, i)},
    "create by a polygon": lambda rng, t, i: {"op": "create", "polygon": _lasso(rng, t, i)},
    "create by run lengths": lambda rng, t, i: {"op": "create", "rle": t.tree.record(i)["segmentation"]},
}


if __name__ == "__main__":
    main()
