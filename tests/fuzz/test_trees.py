"""Tree files and run-length strings."""

from __future__ import annotations

import base64
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from masktree.cluster.merge import merge_tree
from masktree.errors import FormatError, InputError
from masktree.trees import rle
from masktree.trees.file import read_header
from masktree.trees.masktree import MaskTree

from .mutations import mutated_bytes, mutated_json
from .target import fuzz

SIZE = (12, 15)


@pytest.fixture(scope="module")
def tree() -> MaskTree:
    features = np.random.default_rng(0).normal(size=(*SIZE, 6)).astype(np.float32)
    dendrogram = merge_tree(features)
    return MaskTree.from_dendrogram(dendrogram.with_altitudes(dendrogram.altitudes / 2), min_area=3)


@pytest.fixture(scope="module")
def documents(tree: MaskTree, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A tree with its dendrogram, and one without."""
    path = tmp_path_factory.mktemp("trees") / "tree.json"
    tree.save(path, image={"file_name": "a.jpg"})
    document = json.loads(path.read_text())
    few = document["masks"][-4:]
    return [document, document | {"masks": [mask | {"parent_id": None} for mask in few], "dendrogram": None}]


def test_tree_files(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "tree.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_header(path)
        tree = MaskTree.load(path)
        assert len(tree.boxes) == len(tree)
        if len(tree) and tree.size[0] * tree.size[1] < 10**6:
            tree.mask(0)
            tree.cut(0.5)

    fuzz("tree files", mutated_json(documents), read)


def test_run_length_strings(tree: MaskTree) -> None:
    def read(data: tuple[bytes, tuple[int, int]]) -> None:
        text, size = data
        assert rle.decode(text, size).sum() == rle.areas([text], size)[0]
        rle.counts(text, size)
        rle.iou([text], [text], size)

    sizes = st.sampled_from([SIZE, (15, 12), (1, 180), (0, 0), (-1, 5), (2**16, 2**16)])
    texts = st.one_of(mutated_bytes(tree.rles), st.binary(max_size=40))
    fuzz("run-length strings", st.tuples(texts, sizes), read)


def test_run_lengths_whose_sum_runs_over_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \d+ pixels"):
        rle.areas([b"oooooo7" * 100_000], (12, 15))


@pytest.fixture(scope="module")
def bomb() -> str:
    """192 MB of zeros in 30 kB."""
    compressor, block = lzma.LZMACompressor(preset=0), bytes(2**24)
    return base64.b64encode(b"".join([*(compressor.compress(block) for _ in range(12)), compressor.flush()])).decode()


@pytest.mark.parametrize("name", ["leaves", "parents", "altitudes"])
def test_an_array_that_decompresses_to_a_large_one_takes_no_memory(
    documents: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str, name: str
) -> None:
    monkeypatch.setattr("masktree.trees.file._MAX_NODES", 2**18)
    path = tmp_path / "bomb.json"
    path.write_text(json.dumps(documents[0] | {"dendrogram": documents[0]["dendrogram"] | {name: bomb}}))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"damaged tree: expected {name} of at most"):
            MaskTree.load(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_declared_size_takes_no_memory(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    height, width = 2**15, 2**16 - 1
    counts = rle.encode_runs(np.array([0]), np.array([1]), (height, width)).decode()
    mask = documents[1]["masks"][0] | {"segmentation": {"size": [height, width], "counts": counts}}
    path.write_text(
        json.dumps(documents[1] | {"image": {"height": height, "width": width}, "masks": [mask]}), encoding="ascii"
    )
    tracemalloc.start()
    try:
        assert MaskTree.load(path).areas.tolist() == [1]
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
