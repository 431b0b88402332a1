"""Segmenters work in forked children of a process in which torch has computed on several threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own, as a hang must end; with several threads, as one thread never hangs.
PROGRAM = """
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import torch

import masktree
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.models.build import build_model, save_pretrained
from tests.test_model_segmenter import CONFIG

torch.set_num_threads(4)
image = resize_image(read_image(sys.argv[1]), (72, 96))

def predict(segmenter):
    predictor = masktree.Predictor(segmenter)
    predictor.set_image(image)
    return predictor.predict(np.array([[40, 30]]), np.array([1]))[0]

def answer(index):
    segmenter = segmenters[index]
    return predict(segmenter).tobytes() if index < 0 else segmenter(image).rles

save_pretrained(build_model(CONFIG, weights=True), Path(sys.argv[2]))
segmenters = [
    masktree.load("embedded"),
    masktree.load("texture"),
    masktree.load("embedded", method="hassod"),
    masktree.load(sys.argv[2]),
]
indices = [0, 1, 2, 3, -len(segmenters)]  # the last: a predictor on the first
expected = [answer(index) for index in indices]
with multiprocessing.get_context("fork").Pool(2) as pool:  # leaving it ends children that hang
    assert pool.map_async(answer, indices).get(timeout=60) == expected
print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_forked_children_segment_and_predict(tmp_path, photos):
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(photos[0]), str(tmp_path / "run")],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "equal\n"
