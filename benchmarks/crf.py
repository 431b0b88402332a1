"""Refiners side by side: CPU seconds by labels and by pixels, peak memory, and agreement with the dense CRF.

    python benchmarks/crf.py [photo ...]

Without photographs a synthetic image with the spectrum of one (1/f) is used. Seconds are CPU seconds of one thread,
the best of three, so that other work on the machine does not count; compare columns of one run only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.cluster import merge_tree
from masktree.refine import Refiner, dense_crf, guided, refine_masks, upsample_labels
from memory import peak_megabytes

REFINERS: dict[str, Refiner] = {"dense_crf": dense_crf, "guided": guided}


def picture(size: int, paths: list[Path]) -> np.ndarray:
    if paths:
        return np.asarray(Image.open(paths[0]).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / frequency
    planes = np.fft.ifft2(spectrum).real
    mixed = planes[:1] + 0.4 * planes  # channels of photographs are correlated
    low, high = np.percentile(mixed, [1, 99])
    return np.moveaxis(np.clip((mixed - low) / (high - low) * 255, 0, 255), 0, 2).astype(np.uint8)


def coarse_labels(image: np.ndarray, k: int) -> np.ndarray:
    """60 x 60 label grid with k labels: regions of similar colour."""
    small = np.asarray(Image.fromarray(image).resize((60, 60), Image.Resampling.BOX), np.float32)
    return merge_tree(small).cut_count(k)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:]]
    image = picture(480, paths)
    print(f"480 x 480, CPU seconds by labels\n{'':10}" + "".join(f"{k:>9}" for k in (2, 8, 15, 37, 64)))
    for name, refiner in REFINERS.items():
        row = []
        for k in (2, 8, 15, 37, 64):
            probabilities = upsample_labels(coarse_labels(image, k), 480, 480)
            row.append(seconds(lambda r=refiner, p=probabilities: r(image, p)))
        print(f"{name:10}" + "".join(f"{t:9.3f}" for t in row))

    print(f"\n15 labels, by side in pixels: CPU seconds (MB above the arguments)\n{'':10}{240:>16}{480:>16}{960:>16}")
    for name, refiner in REFINERS.items():
        cells = []
        for size in (240, 480, 960):
            picked = picture(size, paths)
            probabilities = upsample_labels(coarse_labels(picked, 15), size, size)

            def work(r: Refiner = refiner, i: np.ndarray = picked, p: np.ndarray = probabilities) -> object:
                return r(i, p)

            cells.append(f"{seconds(work, 2):8.3f} ({peak_megabytes(work):5.0f})")
        print(f"{name:10}" + "".join(f"{cell:>16}" for cell in cells))

    print("\nmasks one by one (two-label problems), 480 x 480: CPU milliseconds a mask, and as many single calls")
    masks = coarse_labels(image, 32)
    stack = np.stack([np.kron(masks == i, np.ones((8, 8), bool)) for i in range(32)])
    for name, refiner in REFINERS.items():
        batch = seconds(lambda r=refiner: refine_masks(image, stack, r), 2) / len(stack)
        single = seconds(lambda r=refiner: [refine_masks(image, m[None], r) for m in stack[:4]], 2) / 4
        print(f"{name:10}{1000 * batch:9.1f}{1000 * single:9.1f}")

    print("\nagreement with dense_crf, 15 labels: pixels of equal label, mean over the images")
    images = [picture(480, [path]) for path in paths] or [image]
    for name, refiner in REFINERS.items():
        shares = []
        for picked in images:
            probabilities = upsample_labels(coarse_labels(picked, 15), 480, 480)
            expected = dense_crf(picked, probabilities).argmax(axis=0)
            shares.append((refiner(picked, probabilities).argmax(axis=0) == expected).mean())
        print(f"{name:10}{np.mean(shares):9.4f}")


if __name__ == "__main__":
    main()
