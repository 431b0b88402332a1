"""A label set made in shards, as on many machines, and of several folders."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masktree import cli
from masktree.errors import InputError
from masktree.jobs.recorded_batch import BatchOutcome
from masktree.labels import LabelSet
from masktree.predict import SegmenterConfig
from masktree.stages import devices
from masktree.stages.devices import discover_on_devices
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


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("files", [1, 4, 20])
def test_shares_of_a_share_have_its_files_between_them(number, count, files):
    whole = Shard(min(number, count), count)
    parts = [set(part.files(files)) for part in whole.split(4)]
    assert set().union(*parts) == set(whole.files(files))
    assert sum(map(len, parts)) == len(whole.files(files))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_processes_make_the_label_set_of_one(folders, whole, tmp_path, capsys):
    common = ["--method", "masktree", "--backbone", "texture", "--shard-size", "2", "--workers", "1"]
    command = ["discover", *map(str, folders), "-o", str(tmp_path), *common, "--devices", "2", "--device", "cpu"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("7 done; results in")
    assert contents(tmp_path) == contents(whole)
    assert index(tmp_path) == index(whole)
    parts = [len(contents(Shard(number, 2).folder(tmp_path))) for number in (1, 2)]
    assert parts == [2, 2]


def test_errors_of_processes_are_those_of_the_command(folders, tmp_path, capsys):
    command = ["discover", *map(str, folders), "-o", str(tmp_path / "out"), "--devices", "2"]
    common = ["--method", "masktree", "--backbone", "texture", "--workers", "1", "--device", "cpu", "--shard-size"]
    assert cli.main([*command, *common, "0"]) == 2
    assert "a shard size of at least 1 image; got 0" in capsys.readouterr().err
    assert cli.main([*command, *common, "2", "--engine", "ray"]) == 2
    assert "--devices of at least 1, and without --engine" in capsys.readouterr().err


def test_a_process_that_dies_is_told_of():
    with pytest.raises(InputError, match="expected process 1 to end with a result; it died"):
        devices._run_processes([partial(die)], [{}])


def die() -> BatchOutcome:
    os._exit(3)


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="This machine has eight GPUs.")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_more_devices_than_there_are_are_refused(folders, tmp_path, monkeypatch, device):
    monkeypatch.setattr("masktree.stages.devices.resolve_device", torch.device)
    config = SegmenterConfig(method="hassod", device=device)
    with pytest.raises(InputError, match=f"expected 8 devices of a kind, such as cuda; got '{device}' where torch"):
        discover_on_devices(folders, tmp_path, config, devices=8)


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
