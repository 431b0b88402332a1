"""The server of the page: milliseconds of each address on a large image, and 100 clients that edit at once.

    python benchmarks/serve.py [--side 4096] [--masks 1000] [--clients 100]

Cost: a minute on one core. Expected: docs/log.md, 2026-11-29. The image is planted: regions of random seeds and their
dendrogram by Ward's method. Milliseconds are wall time on loopback, the answer read whole: of the first request, which
computes what is then kept, and medians of the next ones; the CPU time of the server is the mean of these. Clients edit
four images; each repeats an edit whose version is stale.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import linkage
from scipy.spatial import cKDTree

from arguments import make_parser
from masktree.io.files import sha256_of
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from table import Table

TOKEN = "benchmark"
NUM_IMAGES = 4
NUM_CLIENT_EDITS = 5
REPEATS = 15


def planted_tree(side: int, num_masks: int, rng: np.random.Generator) -> MaskTree:
    """Nested masks of a dendrogram over regions with straight borders."""
    seeds = rng.random((num_masks, 2)) * side
    half = max(1, side // 2048)
    grid = np.stack(np.meshgrid(np.arange(0, side, half), np.arange(0, side, half), indexing="ij"), -1)
    small = cKDTree(seeds).query(grid.reshape(-1, 2))[1].reshape(grid.shape[:2]).astype(np.int32)
    leaves = np.repeat(np.repeat(small, half, 0), half, 1)[:side, :side].copy()
    merges = linkage(seeds, "ward")
    tree = PartitionTree.from_merges(leaves, merges[:, :2].astype(np.int32), merges[:, 2] / merges[-1, 2])
    return MaskTree.from_dendrogram(tree, max_masks=num_masks, duplicate_iou=1)


def write_images(folder: Path, side: int, num_masks: int) -> None:
    """Photographs of noise with their trees; the first one is large."""
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES + 1):
        pixels = side if number == 0 else 512
        blocks = rng.integers(0, 256, (-(-pixels // 8), -(-pixels // 8), 3), np.uint8)
        photo = folder / f"{number}.jpg"
        Image.fromarray(blocks).resize((pixels, pixels), Image.Resampling.BICUBIC).save(photo, quality=92)
        tree = planted_tree(pixels, num_masks if number == 0 else 100, rng)
        tree.save(photo.with_suffix(".json"), image={"file_name": str(photo), "sha256": sha256_of(photo)})


@dataclass
class Server:
    """``masktree serve`` in a process of its own."""

    folder: Path
    seconds: float = 0.0

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "masktree", "serve", str(self.folder), "--port", "0", "--no-browser"]
        start = time.perf_counter()
        self.process = subprocess.Popen([*command, "--token", TOKEN], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        assert found
        self.port = int(found[1])
        self.call(HTTPConnection("127.0.0.1", self.port), "GET", "/api/images")
        self.seconds = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def call(self, connection: HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, bytes, float]:
        """Status, body as it was sent (compressed), milliseconds."""
        headers = {"Cookie": f"masktree_{self.port}={TOKEN}", "X-Masktree": "1"}
        start = time.perf_counter()
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, content, 1000 * (time.perf_counter() - start)

    @property
    def cpu_milliseconds(self) -> float:
        """Of all its threads, in steps of 10."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return 1000 * (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_megabytes(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure_addresses(server: Server, id: str, side: int) -> list[tuple[str, float, float, float, float]]:
    """Name, milliseconds of the first call and of the next ones, CPU of the server for each of these, kB of the
    answer."""
    connection, path = HTTPConnection("127.0.0.1", server.port), f"/api/images/{id}"
    rng, version, rows = np.random.default_rng(1), 0, []

    def measure(name: str, method: str, address: str, make_body: Any = lambda: None) -> None:
        calls = []
        for repeat in range(REPEATS + 1):
            if repeat == 1:
                busy = server.cpu_milliseconds
            status, content, milliseconds = server.call(connection, method, address, make_body())
            assert status == 200, content
            calls.append(milliseconds)
        cpu = (server.cpu_milliseconds - busy) / REPEATS
        rows.append((name, calls[0], statistics.median(calls[1:]), cpu, len(content) / 1000))

    def edit(operation: Any) -> Any:
        def make() -> dict[str, Any]:
            nonlocal version
            version += 1
            return {"version": version - 1, "edit": operation()}

        return make

    def lasso() -> dict[str, Any]:
        x, y = (rng.random(2) * side * 0.9).tolist()
        d = side / 20
        return {"op": "create", "polygon": [[x, y], [x + d, y], [x + d, y + d], [x, y + d]]}

    def click() -> dict[str, Any]:
        return {"points": [(rng.random(2) * side).tolist()], "labels": [1]}

    measure("picture", "GET", f"{path}/picture")
    measure("thumbnail", "GET", f"{path}/thumbnail")
    measure("tree", "GET", f"{path}/tree")
    measure("map", "GET", f"{path}/map")
    measure("overlaps", "GET", f"{path}/overlaps")
    measure("regions", "GET", f"{path}/regions")
    measure("click", "POST", f"{path}/click", click)
    measure("edit: accept", "POST", f"{path}/edits", edit(lambda: {"op": "accept", "ids": [version]}))
    measure("edit: new mask of a lasso", "POST", f"{path}/edits", edit(lasso))
    deleted = iter(range(100, 200))
    measure("edit: delete", "POST", f"{path}/edits", edit(lambda: {"op": "delete", "ids": [next(deleted)]}))
    measure("map, after edits", "GET", f"{path}/map")
    return rows


@dataclass
class Client:
    """Edits one image until each of its edits is acknowledged."""

    server: Server
    id: str
    number: int
    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self) -> None:
        connection, version = HTTPConnection("127.0.0.1", self.server.port), 0
        for k in range(NUM_CLIENT_EDITS):
            status = 409
            while status != 200:
                edit = {"op": "rename", "id": 0, "name": f"{self.number} {k}"}
                body = {"version": version, "edit": edit}
                status, content, milliseconds = self.server.call(
                    connection, "POST", f"/api/images/{self.id}/edits", body
                )
                self.statuses[status] += 1
                assert status in (200, 409), content
                version = json.loads(content)["version"] if status == 409 else version + 1
            self.milliseconds.append(milliseconds)


def measure_load(server: Server, ids: list[str], num_clients: int, folder: Path) -> None:
    """Print how long clients wait that edit all at once."""
    clients = [Client(server, ids[i % len(ids)], i) for i in range(num_clients)]
    threads = [threading.Thread(target=client.run) for client in clients]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    times = np.array([value for client in clients for value in client.milliseconds])
    statuses = sum((client.statuses for client in clients), Counter())
    lines = sum(len(path.read_text().splitlines()) - 1 for path in folder.glob("[1-9].edits.jsonl"))
    assert lines == statuses[200] == num_clients * NUM_CLIENT_EDITS
    print(
        f"{num_clients} clients, {NUM_CLIENT_EDITS} edits each on {len(ids)} images: {lines} of {lines} edits are in "
        f"the logs, after {statuses[409]} answers 409\n"
        f"{statuses[200] / seconds:.0f} edits and {statuses.total() / seconds:.0f} requests a second\n"
        f"an acknowledged request takes {np.median(times):.0f} ms in the median, {np.percentile(times, 95):.0f} ms at "
        f"95 %, {times.max():.0f} ms at most"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--side", type=int, default=4096, help="of the large image, in pixels")
    parser.add_argument("--masks", type=int, default=1000, help="of the large image")
    parser.add_argument("--clients", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, options.side, options.masks)
        with Server(folder) as server:
            print(f"from the start to the first answer: {server.seconds:.2f} s")
            connection = HTTPConnection("127.0.0.1", server.port)
            images = json.loads(server.call(connection, "GET", "/api/images")[1])["images"]
            ids = [image["id"] for image in images]
            title = f"{images[0]['width']} x {images[0]['height']} pixels, {images[0]['masks']} masks"
            table = Table(
                title, {"address": "", "first, ms": ".0f", "next, ms": ".1f", "CPU, ms": ".1f", "kB sent": ".0f"}
            )
            for row in measure_addresses(server, ids[0], options.side):
                table.add(*row)
            measure_load(server, ids[1:], options.clients, folder)
            print(f"peak memory of the server: {server.peak_megabytes:.0f} MB")


if __name__ == "__main__":
    main()
