"""Images of known regions with their trees, and a server of them in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from masktree import MaskTree
from masktree.trees.dendrogram import PartitionTree

WIDTH, HEIGHT = 240, 160
# Corners (left, top, right, bottom) of the leaves; leaf 0 is the ground
BOXES = {
    1: (30, 30, 70, 80),
    2: (30, 80, 70, 130),
    3: (70, 30, 110, 130),
    4: (150, 40, 210, 80),
    5: (150, 80, 210, 120),
}
TOKEN = "planted"
_COLOURS = [(230, 228, 220), (200, 60, 50), (220, 120, 60), (90, 90, 200), (60, 160, 90), (30, 110, 60)]


def planted_leaves() -> np.ndarray:
    """(HEIGHT, WIDTH) int32: a square of a left half, itself of two pieces, and a right half; and a block of two."""
    leaves = np.zeros((HEIGHT, WIDTH), np.int32)
    for leaf, (left, top, right, bottom) in BOXES.items():
        leaves[top:bottom, left:right] = leaf
    return leaves


def planted_tree() -> MaskTree:
    """Masks: five leaves without the ground, the left half, the square and the block."""
    dendrogram = PartitionTree.from_merges(
        planted_leaves(),
        np.array([(1, 2), (4, 5), (6, 3), (7, 8), (9, 0)]),
        np.array([0.1, 0.2, 0.4, 0.8, 0.9]),
    )
    return MaskTree.from_dendrogram(dendrogram, min_area=1, max_area=0.3, duplicate_iou=1.0)


def overlapping_tree() -> MaskTree:
    """Two masks of 6,000 pixels that share 60 x 20, as published methods find them, without a dendrogram."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    masks[0, 20:120, 60:120] = True
    masks[1, 100:150, 60:180] = True
    return MaskTree.from_masks(masks)


def plant(folder: Path, output: Path, count: int) -> None:
    """Writes images ``00.png`` ... with their trees, and ``overlapping.png`` with its own."""
    folder.mkdir()
    output.mkdir()
    pixels = np.array(_COLOURS, np.uint8)[planted_leaves()]
    for number in range(count):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        planted_tree().save(output / f"{number:02}.json")
    Image.fromarray(pixels).save(folder / "overlapping.png")
    overlapping_tree().save(output / "overlapping.json")


class Server:
    """``masktree serve`` in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder, self.output = folder, output
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def entrance(self) -> str:
        """The address that lets a browser in."""
        return f"{self.address}/?token={TOKEN}"

    def start(self) -> None:
        options = ["-o", str(self.output), "--port", str(self.port), "--no-browser", "--token", TOKEN]
        with (self.output.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "masktree", "serve", str(self.folder), *options],
                stdout=log,
                stderr=log,
                env=os.environ | {"MASKTREE_CHECK_TYPES": "0"},
            )
        for _ in range(300):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {(self.output.parent / 'serve.log').read_text()}")
            try:
                with urllib.request.urlopen(self.address, timeout=1):
                    return
            except urllib.error.HTTPError:
                return  # refused without the token: it is there
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server does not answer within 30 seconds")

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
