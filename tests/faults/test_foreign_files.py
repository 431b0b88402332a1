"""No file that masktree did not write is changed or removed, and no output is an input."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import FormatError, InputError
from masktree.labels import LabelSet
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.merge import merge
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.rounds import run_rounds
from masktree.stages.segment import segment
from masktree.train.options import RunOptions
from masktree.train.self_training_settings import RoundsSettings, find_method
from masktree.trees.masktree import MaskTree
from tests.faults.injection import files
from tests.train.labelled import write_labels
from tests.train.planted import OPTIMISATION, PRESET, correct, make_labels, run

CONFIG = SegmenterConfig(method="masktree", backbone="texture")
MINE = {
    "failures.json": '{"mine": 1}',
    "run.json": '{"mine": 1}',
    "index.json": '{"mine": 1}',
    "card.md": "# mine",
    "plan.json": '{"mine": 1}',
    "thresholds.json": '{"mine": 1}',
    "pending/notes.txt": "mine",
    "annotations/instances_train2017.json": '{"images": []}',
    "a.json": '{"labels": []}',
    "a.png": "a picture",
}


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg")):
        image = np.zeros((30, 40, 3), np.uint8)
        image[5:20, 8 : 20 + 5 * number] = (200, 60, 30)
        Image.fromarray(image).save(folder / name)
    return folder


def write_mine(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(MINE[name])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["failures.json", "run.json", "a.json", "a.png"])
def test_segment_refuses_files_of_others(photos, tmp_path, name, overwrite):
    write_mine(tmp_path / "out", name)
    with pytest.raises((InputError, FormatError)):
        segment([photos], tmp_path / "out", CONFIG, workers=1, overwrite=overwrite)
    assert files(tmp_path / "out") == {name: MINE[name].encode()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name",
    ["failures.json", "run.json", "index.json", "card.md", "plan.json", "pending/notes.txt",
     "annotations/instances_train2017.json"],
)  # fmt: skip
def test_discover_refuses_files_of_others(photos, tmp_path, name, overwrite):
    write_mine(tmp_path / "out", name)
    with pytest.raises((InputError, FormatError)):
        discover(photos, tmp_path / "out", CONFIG, workers=1, overwrite=overwrite)
    assert files(tmp_path / "out") == {name: MINE[name].encode()}


def test_chosen_thresholds_do_not_replace_a_file_of_others(photos, tmp_path):
    write_mine(tmp_path / "out", "thresholds.json")
    with pytest.raises(FormatError, match=r"thresholds\.json"):
        discover(photos, tmp_path / "out", CONFIG, average_labels=5, workers=1, overwrite=True)
    assert files(tmp_path / "out") == {"thresholds.json": MINE["thresholds.json"].encode()}


def test_files_that_were_added_to_a_label_set_stay_when_it_is_made_anew(photos, tmp_path):
    discover(photos, tmp_path / "out", CONFIG, workers=1)
    for name in ("annotations/instances_train2017.json", "pending/notes.txt"):
        write_mine(tmp_path / "out", name)
    discover(photos, tmp_path / "out", CONFIG, workers=1, overwrite=True)
    for name in ("annotations/instances_train2017.json", "pending/notes.txt"):
        assert (tmp_path / "out" / name).read_text() == MINE[name]
    LabelSet.open(tmp_path / "out", verify=True)


def test_a_photograph_in_the_output_folder_is_neither_skipped_nor_replaced(photos, tmp_path):
    """a.png has a tree beside it from a first run without overlays: it is still a photograph."""
    for path in photos.iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    before = files(photos)
    segment([photos], photos, CONFIG, workers=1, pictures=NO_PICTURES)
    assert segment([photos], photos, CONFIG, workers=1, pictures=NO_PICTURES).skipped == 2
    with pytest.raises(InputError, match=r"no foreign files where results go; got .*a\.png"):
        segment([photos], photos, CONFIG, workers=1)
    assert {name: data for name, data in files(photos).items() if name.endswith(".png")} == before


@pytest.fixture
def sources(photos, tmp_path) -> list[Path]:
    mask = np.zeros((1, 30, 40), bool)
    folders = []
    for number, name in enumerate(("first", "second")):
        mask[0, 5:20, 5 : 20 + 5 * number] = True
        trees = dict.fromkeys(("a.jpg", "b.jpg"), MaskTree.from_masks(mask))
        write_labels(tmp_path / "sources" / name, photos, trees)
        folders.append(tmp_path / "sources" / name)
    return folders


@pytest.mark.parametrize("overwrite", [False, True])
def test_merge_does_not_write_over_its_sources(sources, photos, tmp_path, overwrite):
    before = files(tmp_path / "sources")
    shard = sources[0] / "annotations/00000.json"
    (tmp_path / "link").symlink_to(sources[0])
    for given, output in (
        (sources, sources[0]),
        (sources, tmp_path / "link"),
        ([shard, sources[1]], sources[0]),
        (sources, tmp_path / "sources"),
    ):
        with pytest.raises(InputError, match="expected an output apart from the inputs"):
            merge(given, output, images=photos, overwrite=overwrite, workers=1)
    assert files(tmp_path / "sources") == before


@pytest.fixture
def evaluated(photos, tmp_path) -> list[str]:
    """Arguments of an evaluation of trees by themselves."""
    segment([photos], tmp_path / "trees", CONFIG, workers=1)
    images, annotations = [], []
    for number, name in enumerate(("a", "b"), start=1):
        tree = MaskTree.load(tmp_path / "trees" / f"{name}.json")
        images.append({"id": number, "file_name": f"{name}.jpg", "height": 30, "width": 40})
        annotations += tree.coco_annotations(image_id=number, first_id=1000 * number)
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    return ["evaluate", "--protocol", "ar", "--pred", str(tmp_path / "trees"), "--gt", str(tmp_path / "gt.json")]


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_evaluate_writes_over_its_own_files_only(evaluated, tmp_path, flag, capsys):
    (tmp_path / "notes").write_text("mine")
    os.link(tmp_path / "gt.json", tmp_path / "same file")
    before = files(tmp_path)
    for name in ("gt.json", "same file", "notes"):
        assert cli.main([*evaluated, flag, str(tmp_path / name)]) == 2
        assert "expected" in capsys.readouterr().err
    assert files(tmp_path) == before
    for _ in range(2):
        assert cli.main([*evaluated, flag, str(tmp_path / "result")]) == 0


def test_a_comparison_does_not_replace_its_inputs(evaluated, tmp_path, capsys):
    results = [str(tmp_path / name) for name in ("first.json", "second.json")]
    for result in results:
        assert cli.main([*evaluated, "--json", result]) == 0
    before = files(tmp_path)
    assert cli.main(["evaluate", "--compare", *results, "--json", results[0]]) == 2
    assert "apart from the inputs" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_another_picture_of_the_same_size_and_an_older_date_is_done_again(photos, tmp_path):
    """As cp -p, rsync -t, unzip and git checkout leave it."""

    def replace_picture(name: str, value: int) -> None:
        image = np.zeros((30, 40, 3), np.uint8)
        image[:, value:] = 255
        path = photos / name
        Image.fromarray(image).save(path)
        os.utime(path, (time.time() - 1e6,) * 2)

    for name in ("a.bmp", "b.bmp"):
        replace_picture(name, 10)
    size = (photos / "a.bmp").stat().st_size
    segment([photos], tmp_path / "trees", CONFIG, workers=1)
    discover(photos, tmp_path / "labels", CONFIG, workers=1)
    replace_picture("a.bmp", 20)
    assert (photos / "a.bmp").stat().st_size == size
    for outcome in (
        segment([photos], tmp_path / "trees", CONFIG, workers=1),
        discover(photos, tmp_path / "labels", CONFIG, workers=1),
    ):
        assert (outcome.completed, outcome.skipped) == (1, 3)
    segment([photos], tmp_path / "anew", CONFIG, workers=1)
    assert (tmp_path / "trees/a.bmp.json").read_bytes() == (tmp_path / "anew/a.bmp.json").read_bytes()
    trees = {image["file_name"]: tree for image, tree in LabelSet.open(tmp_path / "labels", verify=True)}
    assert trees["a.bmp"].rles == MaskTree.load(tmp_path / "anew/a.bmp.json").rles


def test_training_does_not_write_over_the_run_that_it_starts_from(tmp_path):
    labels = make_labels(tmp_path / "planted", count=4)
    first = tmp_path / "rounds/round-1/run"
    run(labels, first, replace(PRESET, optimisation=replace(OPTIMISATION, steps=1)))
    before = files(first)
    message = "expected (another folder than that of the earlier run|an output apart from the inputs)"
    with pytest.raises(InputError, match=message):
        correct(first, labels, first, find_method("sohes", steps=1), overwrite=True)
    with pytest.raises(InputError, match=message):
        run(labels, first, init_from=first, overwrite=True)
    options = RunOptions(device="cpu", overwrite=True)
    with pytest.raises(InputError, match=message):
        run_rounds(first, labels, tmp_path / "rounds", RoundsSettings(steps=1), options)
    assert files(first) == before
