"""Refiners side by side: CPU seconds by labels and by pixels, peak memory, and agreement with the dense CRF.

    python benchmarks/crf.py [PHOTO ...]

Cost: 3 minutes on one core. Expected: dense_crf of 15 labels at 480 x 480 in 0.1 to 0.3 s. Without photographs a
synthetic image with their spectrum (1/f) is used. Seconds are the least of three calls on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from arguments import make_parser
from masktree.cluster import merge_tree
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.refine import Refiner, dense_crf, guided, refine_masks, upsample_labels
from measurement import measure_seconds, peak_megabytes
from table import Table

REFINERS: dict[str, Refiner] = {"dense_crf": dense_crf, "guided": guided}
LABELS = (2, 8, 15, 37, 64)
SIDES = (240, 480, 960)


def make_image(side: int, path: Path | None) -> np.ndarray:
    """A photograph, or noise with the spectrum of one, at (side, side)."""
    if path is not None:
        return resize_image(read_image(path), (side, side))
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, side, side))) / frequency).real
    mixed = planes[:1] + 0.4 * planes  # channels of photographs are correlated
    low, high = np.percentile(mixed, [1, 99])
    return np.moveaxis(np.clip((mixed - low) / (high - low) * 255, 0, 255), 0, 2).astype(np.uint8)


def coarse_labels(image: np.ndarray, k: int) -> np.ndarray:
    """(60, 60) int32 with k labels: regions of similar colour."""
    small = np.asarray(Image.fromarray(image).resize((60, 60), Image.Resampling.BOX), np.float32)
    return merge_tree(small).cut_count(k)


def time_by_labels(image: np.ndarray) -> None:
    table = Table("480 x 480, CPU seconds by number of labels", {"refiner": "", **{str(k): ".3f" for k in LABELS}})
    for name, refiner in REFINERS.items():
        seconds = []
        for k in LABELS:
            probabilities = upsample_labels(coarse_labels(image, k), 480, 480)
            refiner(image, probabilities)
            seconds.append(measure_seconds(partial(refiner, image, probabilities), 3).cpu)
        table.add(name, *seconds)


def time_by_side(path: Path | None) -> None:
    columns = {f"{side} {unit}": form for side in SIDES for unit, form in (("s", ".3f"), ("MB", ".0f"))}
    table = Table("15 labels, CPU seconds and peak memory by side in pixels", {"refiner": "", **columns})
    for name, refiner in REFINERS.items():
        cells = []
        for side in SIDES:
            image = make_image(side, path)
            probabilities = upsample_labels(coarse_labels(image, 15), side, side)
            work = partial(refiner, image, probabilities)
            cells += [measure_seconds(work, 2).cpu, peak_megabytes(work)]
        table.add(name, *cells)


def time_per_mask(image: np.ndarray) -> None:
    labels = coarse_labels(image, 32)
    masks = np.stack([np.kron(labels == i, np.ones((8, 8), bool)) for i in range(32)])
    title = "Masks as independent two-label problems, 480 x 480, CPU milliseconds per mask"
    table = Table(title, {"refiner": "", "batches of 32": ".1f", "single": ".1f"})
    for name, refiner in REFINERS.items():
        batch = measure_seconds(partial(refine_masks, image, masks, refiner), 2).cpu / len(masks)
        single = measure_seconds(partial(refine_masks, image, masks[:1], refiner), 2).cpu
        table.add(name, 1000 * batch, 1000 * single)


def compare_with_crf(images: Sequence[np.ndarray]) -> None:
    table = Table("Pixels with the label of dense_crf, 15 labels, mean over images", {"refiner": "", "equal": ".4f"})
    for name, refiner in REFINERS.items():
        equal = []
        for image in images:
            probabilities = upsample_labels(coarse_labels(image, 15), 480, 480)
            expected = dense_crf(image, probabilities).argmax(axis=0)
            equal.append((refiner(image, probabilities).argmax(axis=0) == expected).mean())
        table.add(name, np.mean(equal))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path, nargs="*", help="the first is timed, all are compared")
    photos = parser.parse_args().photos
    first = photos[0] if photos else None
    image = make_image(480, first)
    time_by_labels(image)
    time_by_side(first)
    time_per_mask(image)
    compare_with_crf([make_image(480, photo) for photo in photos] or [image])


if __name__ == "__main__":
    main()
