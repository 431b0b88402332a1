"""A label set made in shards, as on many machines, and of several folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import InputError
from masktree.labels import LabelSet
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.shards import Shard

CONFIG = SegmenterConfig(method="masktree", backbone="texture")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Seven pictures of blocks in two folders, with names in common."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for name in ("train/1.png", "train/2.png", "train/3.png", "more/1.png", "more/2.png", "more/8.png", "more/9.png"):
        (root / name).parent.mkdir(exist_ok=True)
        blocks = rng.integers(0, 255, (3, 3, 3)).astype(np.uint8).repeat(20, 0).repeat(24, 1)
        Image.fromarray(blocks).save(root / name)
    return [root / "train", root / "more"]


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    discover(folders, output, CONFIG, shard_size=2, workers=1)
    return output


def contents(labels: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (labels / "annotations").iterdir()}


def index(labels: Path) -> dict:
    found = LabelSet.open(labels, verify=True).index
    return {**found, "summary": {k: v for k, v in found["summary"].items() if k != "seconds_per_image"}}


def test_gathered_shards_are_the_label_set_of_one_machine(folders, whole, tmp_path):
    completed = []
    for number in (2, 1, 3):
        outcome = discover(folders, tmp_path, CONFIG, shard_size=2, workers=1, shard=Shard(number, 3))
        completed.append(outcome.completed)
    assert completed == [2, 3, 2]  # the fourth file has one image, and the first machine makes it
    assert not (tmp_path / "index.json").exists()
    gathered = discover(folders, tmp_path, CONFIG, shard_size=2, workers=1)
    assert (gathered.completed, gathered.skipped) == (0, 7)
    assert contents(tmp_path) == contents(whole)
    assert index(tmp_path) == index(whole)
    assert None not in json.loads((tmp_path / "run.json").read_text())["seconds"].values()
    labels = LabelSet.open(tmp_path)
    assert labels.index["root"] == str(folders[0].parent)
    assert {image["file_name"] for image, _ in labels} >= {"train/1.png", "more/1.png"}


def test_what_a_machine_has_not_made_is_made_when_the_shards_are_gathered(folders, whole, tmp_path):
    discover(folders, tmp_path, CONFIG, shard_size=2, workers=1, shard=Shard(1, 2))
    again = discover(folders, tmp_path, CONFIG, shard_size=2, workers=1, shard=Shard(1, 2))
    assert again.completed == 0
    outcome = discover(folders, tmp_path, CONFIG, shard_size=2, workers=1)
    assert (outcome.completed, outcome.skipped) == (3, 4)
    assert contents(tmp_path) == contents(whole)


def test_a_shard_of_another_run_is_refused(folders, tmp_path):
    discover(folders, tmp_path, CONFIG, shard_size=2, workers=1, shard=Shard(2, 2))
    part = Shard(2, 2).folder(tmp_path)
    plan = json.loads((part / "plan.json").read_text())
    (part / "plan.json").write_text(json.dumps(plan | {"images": plan["images"][::-1]}))
    with pytest.raises(InputError, match=r"2-of-2 a shard of this collection .* other values for images"):
        discover(folders, tmp_path, CONFIG, shard_size=2, workers=1)
    shutil.rmtree(tmp_path)
    discover(folders, tmp_path, CONFIG, shard_size=2, workers=1, shard=Shard(2, 2), labels_per_image=3)
    with pytest.raises(InputError, match="other values for labels_per_image"):
        discover(folders, tmp_path, CONFIG, shard_size=2, workers=1)


def test_shards_out_of_range_are_refused(folders, tmp_path, capsys):
    for text in ("0/2", "3/2"):
        with pytest.raises(InputError, match="from 1/N to N/N"):
            Shard.parse(text)
    command = ["discover", *map(str, folders), "-o", str(tmp_path / "out"), "--method", "masktree", "--shard"]
    assert cli.main([*command, "two"]) == 2
    assert "such as 3/8" in capsys.readouterr().err
