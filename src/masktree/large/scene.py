"""What all blocks of a large image share: words and the network's mean, from a fixed sample of windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from masktree.backbones.base import Backbone
from masktree.backbones.texture import Vocabulary
from masktree.discover.masktree import SceneStatistics
from masktree.io.files import write_atomically
from masktree.io.windows import ImageWindows, Window

_SAMPLE_SIDE = 384  # pixels of a sampled window; wider than what the cues see (our choice)
_SAMPLES_A_SIDE = 6  # so that an image of up to 2,304 pixels is sampled completely (our choice)
_ALIGNMENT = 32  # windows begin where the network's coarsest cells do


def sample_windows(size: tuple[int, int]) -> list[Window]:
    """Windows on a regular grid over the image; they depend on its size only."""
    tops, lefts = (_starts(length) for length in size)
    return [
        Window(top, left, min(top + _SAMPLE_SIDE, size[0]), min(left + _SAMPLE_SIDE, size[1]))
        for top in tops
        for left in lefts
    ]


def read_scene(windows: ImageWindows, backbone: Backbone) -> SceneStatistics:
    """The statistics of an image."""
    samples = [windows.read(window) for window in sample_windows(windows.size)]
    return SceneStatistics.of_samples(samples, backbone)


def save_scene(path: Path, scene: SceneStatistics) -> None:
    """Write the statistics atomically."""
    vocabulary = scene.vocabulary
    arrays: dict[str, Any] = {
        "colours": vocabulary.colours,
        "textons": vocabulary.textons,
        "embedding": vocabulary.embedding,
    }
    if scene.network_mean is not None:
        arrays["network_mean"] = scene.network_mean
    write_atomically(path, lambda handle: np.savez(handle, **arrays))


def load_scene(path: Path) -> SceneStatistics:
    """Read what ``save_scene`` has written."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    vocabulary = Vocabulary(arrays["colours"], arrays["textons"], arrays["embedding"])
    return SceneStatistics(vocabulary, arrays.get("network_mean"))


def _starts(length: int) -> list[int]:
    count = min(_SAMPLES_A_SIDE, -(-length // _SAMPLE_SIDE))
    last = max(length - _SAMPLE_SIDE, 0)
    return sorted({round(k * last / max(count - 1, 1)) // _ALIGNMENT * _ALIGNMENT for k in range(count)})
