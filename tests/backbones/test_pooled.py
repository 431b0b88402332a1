"""One backbone for several threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masktree.backbones.pooled import PooledBackbone
from masktree.backbones.weights import PUBLISHED_WEIGHTS
from masktree.errors import InputError
from masktree.predict import DiscoverySegmenter


class MeansBackbone:
    """Mean colours of cells of 8 pixels, grey as 0; slow, and for one thread at a time."""

    name, stride, dim, device = "means", 8, 3, "cpu"
    provenance = PUBLISHED_WEIGHTS["dino-vits8"]

    def __init__(self) -> None:
        self.passes: list[tuple[int, ...]] = []
        self._busy = threading.Lock()

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        return H, W

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert self._busy.acquire(blocking=False)
        self.passes.append(images.shape[:3])
        time.sleep(0.05)
        b, H, W, _ = images.shape
        if (images == 255).all(axis=(1, 2, 3)).any():
            self._busy.release()
            raise MemoryError("too bright")
        grids = images.reshape(b, H // 8, 8, W // 8, 8, 3).mean(axis=(2, 4)).astype(np.float32) - 128
        self._busy.release()
        return grids


def pictures(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Stacks of one or two images of two shapes in turn."""
    shapes = [(1 + k % 2, 16, 24, 3) if k % 3 else (1, 32, 16, 3) for k in range(count)]
    return [rng.integers(0, 250, shape, np.uint8) for shape in shapes]


def test_threads_share_passes_and_each_gets_its_own_features(rng):
    backbone, images = MeansBackbone(), pictures(rng, 12)
    pooled = PooledBackbone(backbone, batch_size=4)
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(pooled, images))
    assert 5 <= len(backbone.passes) < 12  # 14 images of the wider shape and 4 others, at most 4 at a time
    assert max(count for count, *_ in backbone.passes) <= 4
    assert sum(count for count, *_ in backbone.passes) == sum(map(len, images))
    reference = MeansBackbone()
    for image, grids in zip(images, found, strict=True):
        np.testing.assert_array_equal(grids, reference(image))
    assert (pooled.name, pooled.stride, pooled.dim, pooled.input_size(8, 16)) == ("means", 8, 3, (8, 16))


def test_a_call_with_more_images_than_a_batch_goes_through_at_once(rng):
    backbone = MeansBackbone()
    images = rng.integers(0, 250, (5, 8, 8, 3), np.uint8)
    assert PooledBackbone(backbone, batch_size=2)(images).shape == (5, 1, 1, 3)
    assert backbone.passes == [(5, 8, 8)]


def test_a_pass_that_fails_is_an_error_of_its_calls_and_the_next_ones_go_on(rng):
    pooled = PooledBackbone(MeansBackbone(), batch_size=4)
    with pytest.raises(MemoryError, match="too bright"):
        pooled(np.full((1, 8, 8, 3), 255, np.uint8))
    assert pooled(rng.integers(0, 250, (1, 8, 8, 3), np.uint8)).shape == (1, 1, 1, 3)
    with pytest.raises(InputError, match="RGB images as a uint8 array"):
        pooled(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("method", ["hassod", "sohes", "unsam"])
def test_methods_give_in_batches_what_they_give_one_by_one(rng, method):
    """Blocks of colours of two sizes of image, on a backbone whose features are colours."""
    options = {"side": 64} if method == "hassod" else {"side": 64, "crop_side": 32}
    segmenter = DiscoverySegmenter(MeansBackbone(), method, options=options)
    images = [
        rng.integers(0, 250, (3, 4, 3)).astype(np.uint8).repeat(20 + 4 * (k % 2), 0).repeat(16, 1) for k in range(5)
    ]
    alone = segmenter.segment_batch(images)
    together = segmenter.segment_batch(images, batch_size=3)
    assert sum(map(len, alone)) >= 5
    for a, b in zip(alone, together, strict=True):
        assert a.rles == b.rles
        np.testing.assert_array_equal(a.parents, b.parents)
        np.testing.assert_array_equal(a.scores, b.scores)
    with pytest.raises(InputError, match="batch_size of at least 1"):
        segmenter.segment_batch(images, batch_size=0)
