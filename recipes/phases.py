"""The three phases from a folder of photographs to a self-trained model, and a picture of them.

    masktree discover PHOTOS -o LABELS --method masktree --average-labels 30
    masktree train LABELS -o RUN --preset sohes --size tiny --steps 4800
    masktree train LABELS -o FINE --preset sohes --size tiny --image-size 320 --from RUN --lr 3e-4 --steps 800
    masktree self-train FINE LABELS -o RUN2 --steps 350 --lr 1e-4
    python recipes/phases.py examples/photos docs/images/phases.jpg LABELS FINE

The last command draws the masks of photographs that were not used for training: one column for the discovery method of
the label set and two per run, of its confident masks without and with snapping to the regions of the default method.
``benchmarks/phases.py`` measures them; docs/benchmarks.md has the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import masktree
from masktree.io.images import read_image
from masktree.predict import SegmenterConfig
from sheets import beside, resized

MIN_SCORE = 0.6  # of the masks of a run
WIDTH = 220  # pixels


def segmenters_of(folder: Path) -> list[Callable[[np.ndarray], masktree.MaskTree]]:
    """The discovery method of a label set; or a run, without and with snapping."""
    config = SegmenterConfig.from_folder(folder)
    if config.model is None:
        return [config.load()]
    return [replace(config, options={"min_score": MIN_SCORE, "snap": snap}).load() for snap in (False, True)]


def row(image: np.ndarray, phases: list[Callable[[np.ndarray], masktree.MaskTree]]) -> np.ndarray:
    """A photograph and the masks of each phase."""
    size = WIDTH, round(WIDTH * image.shape[0] / image.shape[1])
    pictures = [image, *(phase(image).draw(image) for phase in phases)]
    return beside([resized(picture, size) for picture in pictures], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("phases", type=Path, nargs="+", metavar="LABELS_OR_RUN")
    parser.add_argument("--names", nargs="*", default=["astronaut", "cat", "coffee", "photographer", "rocket"])
    options = parser.parse_args()
    phases = [segmenter for folder in options.phases for segmenter in segmenters_of(folder)]
    rows = [row(read_image(options.photos / f"{name}.jpg"), phases) for name in options.names]
    Image.fromarray(beside(rows, axis=0)).save(options.picture, quality=80)


if __name__ == "__main__":
    main()
