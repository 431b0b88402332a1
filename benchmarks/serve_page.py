"""Speed of the page of ``masktree serve`` in headless Chromium: 1,000 masks on 4,096 x 4,096 pixels.

    python benchmarks/serve_page.py

Cost: 1 minute. Expected: table "The page" in docs/benchmarks.md. Milliseconds are medians. Those of drawing are of the
page's own work, from the event to the end of the frame that it causes, without what the browser does to show the frame;
those of edits and clicks last until the answer is on the screen. Needs Chromium and the package playwright.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from arguments import make_parser
from masktree import MaskTree
from masktree.trees.dendrogram import PartitionTree
from table import Table

LEAVES = 800
WORK_SIDE = 1024  # pixels at which the cells are computed; they are enlarged to the side that is asked for

# Work of the page between an event and the end of the frame that it causes, in milliseconds
_TIME = """(act) => new Promise((done) => {
  let start, before;
  requestAnimationFrame(() => { start = performance.now(); });
  const first = performance.now();
  act();
  before = performance.now() - first;
  requestAnimationFrame(() => done(before + performance.now() - start));
})"""


def planted_tree(side: int, seed: int = 0) -> MaskTree:
    """1,000 nested masks that cover an image: cells around random points, merged two by two by position."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, WORK_SIDE, (LEAVES, 2))
    grid = np.stack(np.mgrid[:WORK_SIDE, :WORK_SIDE], -1).reshape(-1, 2) + 0.5
    cells = cKDTree(points).query(grid)[1].astype(np.int32).reshape(WORK_SIDE, WORK_SIDE)
    leaves = np.kron(cells, np.ones((side // WORK_SIDE,) * 2, np.int32))
    merges: list[tuple[int, int]] = []

    def merge(members: np.ndarray) -> tuple[int, int]:
        """Node of the members and the number of merges below it."""
        if len(members) == 1:
            return int(members[0]), 0
        axis = int(np.argmax(np.ptp(points[members], axis=0)))
        order = members[np.argsort(points[members, axis])]
        (first, a), (second, b) = merge(order[: len(order) // 2]), merge(order[len(order) // 2 :])
        merges.append((first, second))
        return LEAVES + len(merges) - 1, a + b + 1

    merge(np.arange(LEAVES))
    tree = PartitionTree.from_merges(leaves, np.array(merges), np.linspace(0.05, 0.95, len(merges)))
    return MaskTree.from_dendrogram(tree, min_area=1, duplicate_iou=1.0, max_masks=1000)


class Measured:
    """The page at one image, and what is measured in it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def frames(self, prepare: str, act: str, count: int) -> float:
        """Median milliseconds of ``count`` times ``act``, a function of the number k of the repetition."""
        script = f"""async () => {{
          const time = {_TIME};
          const {{ scene, viewer }} = masktree;
          {prepare}
          const times = [];
          for (let k = 0; k < {count}; k++) times.push(await time(() => {{ {act} }}));
          return times;
        }}"""
        return statistics.median(self.page.evaluate(script))

    def answers(self, act: str, count: int) -> float:
        """Median milliseconds until ``act`` is answered and drawn."""
        script = f"""async () => {{
          const {{ scene, edits, tools }} = masktree;
          const times = [];
          for (let k = 0; k < {count}; k++) {{
            const start = performance.now();
            await (async () => {{ {act} }})();
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            times.push(performance.now() - start);
          }}
          return times;
        }}"""
        return statistics.median(self.page.evaluate(script))


_POINTER = """
const box = viewer.area.getBoundingClientRect();
const place = (start, side, step) => start + side * (0.2 + 0.6 * ((k * step) % 1));
const [clientX, clientY] = [place(box.left, box.width, 0.618), place(box.top, box.height, 0.382)];
viewer.area.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));"""
_SLIDER = """
const slider = document.getElementById("granularity");
slider.value = (k % 97) / 96;
slider.dispatchEvent(new Event("input"));"""
_VIEWS = {"whole image": "viewer.fit();", "pixel by pixel": "viewer.fit(); viewer.zoom(1 / viewer.view.scale);"}


def measure(page: Any) -> list[tuple[str, float]]:
    measured = Measured(page)
    rows = []
    for name, view in _VIEWS.items():
        for mode in ("regions", "masks"):
            prepare = f"{view} scene.setDisplay({{ mode: '{mode}' }}); await new Promise(requestAnimationFrame);"
            rows.append((f"slider, {mode}, {name}", measured.frames(prepare, _SLIDER, 100)))
        rows.append((f"hover, {name}", measured.frames(view, _POINTER, 200)))
        rows.append((f"moving the image, {name}", measured.frames(view, "viewer.pan(k % 2 ? 9 : -9, 0);", 60)))
    ids = "const id = scene.tree.masks[100 + k].id;"
    accept = f"{ids} scene.select([id]); await edits.apply({{ op: 'accept', ids: [id] }}, 'accepted');"
    rows.append(("accepting a mask", measured.answers(accept, 20)))
    split = f"{ids} scene.select([id]); await edits.apply({{ op: 'delete', ids: [id] }}, 'deleted');"
    rows.append(("deleting a mask, until its pixels are drawn", measured.answers(split, 10)))
    click = "tools.prompt.clear(); await tools.prompt.addPoint(500 + 100 * k, 900, true);"
    measured.answers(click, 1)
    rows.append(("click to preview", measured.answers(click, 20)))
    return rows


def serve(folder: Path, output: Path, port: int) -> subprocess.Popen[bytes]:
    command = ["masktree", "serve", folder, "-o", output, "--port", port, "--no-browser", "--token", "none"]
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)], stdout=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=1).close()
            return process
        except urllib.error.HTTPError:
            return process
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server does not answer within 30 seconds")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = make_parser(__doc__)
    parser.add_argument("--side", type=int, default=4096, help=f"of the image in pixels, a multiple of {WORK_SIDE}")
    parser.add_argument("--port", type=int, default=8797)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="masktree-page-"))
    (folder / "photos").mkdir()
    (folder / "out").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (arguments.side // 8, arguments.side // 8, 3), np.uint8)
    Image.fromarray(np.kron(noise, np.ones((8, 8, 1), np.uint8))).save(folder / "photos" / "large.jpg")
    tree = planted_tree(arguments.side)
    tree.save(folder / "out" / "large.json")
    process = serve(folder / "photos", folder / "out", arguments.port)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            start = time.perf_counter()
            page.goto(f"http://127.0.0.1:{arguments.port}")
            page.wait_for_selector("[role=treeitem]")
            opened = 1000 * (time.perf_counter() - start)
            area = page.evaluate("[masktree.viewer.width, masktree.viewer.height]")
            title = f"{len(tree)} masks, {arguments.side} x {arguments.side} pixels, drawn on {area[0]} x {area[1]}"
            table = Table(title, {"what": "", "ms": ".1f"})
            for name, milliseconds in [("opening the page, with the masks", opened), *measure(page)]:
                table.add(name, milliseconds)
            browser.close()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
