"""What only a CUDA device can show of segmentation: batches and lower precision. Run by ``make gpu``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import masktree
from masktree.io.images import read_image
from masktree.models.build import build_model, save_pretrained
from masktree.train.presets import find_preset
from masktree.trees import rle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="This test needs a CUDA device."),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_batches_on_a_gpu_have_nearly_the_masks_of_the_cpu(photos, tmp_path, dtype):
    torch.manual_seed(0)
    save_pretrained(build_model(find_preset("unsam", "tiny", num_queries=12).model, weights=True), tmp_path)
    images = [read_image(path) for path in photos[:4]]
    reference = masktree.load(tmp_path, device="cpu").segment_batch(images)
    found = masktree.load(tmp_path, device="cuda", dtype=dtype).segment_batch(images, batch_size=4)
    for a, b in zip(reference, found, strict=True):
        best = rle.iou(list(a.rles), list(b.rles), a.size).max(axis=1)
        assert np.median(best) > (0.99 if dtype == "float32" else 0.9)
