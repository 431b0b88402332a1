"""Predictions of every kind are read alike, and whatever does not fit is refused by name before anything is scored."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from masktree.errors import FormatError, InputError
from masktree.evaluate.coco_predictions import CocoPredictions
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.predictions import TreeFile, TreeFolder, UcmFolder, open_predictions, pair
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment import segment
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.evaluate.planted import NAMES, SIZE, masks, results, tree, write_ground_truth, write_json, write_trees


@pytest.fixture
def ground_truth(tmp_path):
    return read_ground_truth("json", write_ground_truth(tmp_path / "ground_truth")).images


def shifted(document, **changes):
    """The first entry changed."""
    return [document[0] | changes, *document[1:]]


def test_folders_before_all_names_are_left_out(tmp_path, ground_truth):
    """As Label Studio's converter writes them: images/sub/a.jpg for sub/a.jpg."""
    predictions = open_predictions(write_trees(tmp_path / "trees"))
    longer = [replace(image, name=f"data/images/{image.name}") for image in ground_truth]
    pairs = [pair(predictions, images)[0] for images in (ground_truth, longer)]
    assert [cast(TreeFile, image).path for image in pairs[1]] == [cast(TreeFile, image).path for image in pairs[0]]
    different = [replace(image, name=f"{index}/{image.name}") for index, image in enumerate(ground_truth)]
    with pytest.raises(InputError, match="got none for 0/"):
        pair(predictions, different)


def test_all_kinds_give_the_same_masks(tmp_path, ground_truth):
    document = {
        "images": [
            {"id": 7 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(NAMES)
        ],
        "annotations": [a for i in range(3) for a in tree().coco_annotations(image_id=7 + i, first_id=1 + 10 * i)],
    }
    paths = [
        write_trees(tmp_path / "trees"),
        write_json(tmp_path / "results.json", results()),
        write_json(tmp_path / "document.json", document),
    ]
    for path in paths:
        predicted, empty = pair(open_predictions(path), ground_truth)
        assert empty == []
        for image in predicted:
            found = image.detections(SIZE)
            assert found.rles == tree().rles
            assert found.scores == pytest.approx([0.9, 0.8, 0.7])
            assert found.boxes.tolist() == tree().boxes.tolist()
            assert image.tree(SIZE, nested=False).areas.tolist() == tree().areas.tolist()
    for path in (paths[0], paths[2]):
        for image in pair(open_predictions(path), ground_truth)[0]:
            read = image.tree(SIZE)
            assert read.parents.tolist() == [-1, 0, -1]
            assert read.granularities == pytest.approx(tree().granularities, abs=2e-5)
    with pytest.raises(FormatError, match=r"results.json, image 1: expected a hierarchy \(parent_id\)"):
        pair(open_predictions(paths[1]), ground_truth)[0][0].tree(SIZE)


def test_names_may_keep_their_suffix(tmp_path, ground_truth):
    folder = write_trees(tmp_path / "trees")
    (folder / "a.json").rename(folder / "a.jpg.json")
    files = cast("Sequence[TreeFile]", pair(open_predictions(folder), ground_truth)[0])
    assert [file.path.name for file in files] == ["a.jpg.json", "b.json", "c.json"]


def test_records_and_results_of_evaluations_are_no_trees(tmp_path):
    folder = write_trees(tmp_path / "trees")
    write_json(folder / "failures.json", [])
    write_json(folder / "ar.json", {"format": "masktree-evaluation", "version": 1})
    assert sorted(open_predictions(folder).names()) == ["a", "c", "sub/b"]
    write_json(folder / "other.json", {"shapes": []})
    with pytest.raises(FormatError, match=r"other.json: expected a tree of masktree"):
        open_predictions(folder)


def test_run_is_known_also_in_a_folder_below(tmp_path):
    photos = tmp_path / "photos"
    for name in ("x/a.png", "b.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(photos / name)
    segment([photos], tmp_path / "out", SegmenterConfig(backbone="texture", min_area=20), pictures=NO_PICTURES)
    for folder in (tmp_path / "out", tmp_path / "out" / "x"):
        opened = open_predictions(folder)
        assert isinstance(opened, TreeFolder)
        assert opened.origin["config"]["min_area"] == 20
        assert opened.origin["weights"]["name"]
    (tmp_path / "out" / "y").mkdir()
    tree().save(tmp_path / "out" / "y" / "foreign.json")
    assert open_predictions(tmp_path / "out" / "y").origin == {}  # not of that run


def test_label_sets_are_read_as_predictions(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(photos / name)
    config = SegmenterConfig(backbone="texture", min_area=20)
    segment([photos], tmp_path / "trees", config, pictures=NO_PICTURES)
    discover(photos, tmp_path / "labels", config, shard_size=2)
    labels = open_predictions(tmp_path / "labels")
    assert isinstance(labels, CocoPredictions)
    assert labels.kind == "label set"
    assert labels.origin["config"]["min_area"] == 20
    for name in ("a", "b", "c"):
        expected = MaskTree.load(tmp_path / "trees" / f"{name}.json")
        read = labels.image(f"{name}.png").tree((24, 32))
        assert read.rles == expected.rles
        for column in ("parents", "levels"):
            assert getattr(read, column).tolist() == getattr(expected, column).tolist()
        assert read.granularities.tolist() == expected.granularities.tolist()
    (tmp_path / "labels" / "index.json").unlink()
    with pytest.raises(FormatError, match="unfinished"):
        open_predictions(tmp_path / "labels")


def test_contour_maps_are_read_as_predictions(tmp_path, ground_truth):
    contours = np.zeros((2 * SIZE[0] + 1, 2 * SIZE[1] + 1))
    contours[:, 40] = 0.5
    for name in ("a", "sub/b", "c"):
        (tmp_path / "ucm" / name).parent.mkdir(parents=True, exist_ok=True)
        savemat(tmp_path / "ucm" / f"{name}.mat", {"ucm2": contours})
    opened = open_predictions(tmp_path / "ucm")
    assert isinstance(opened, UcmFolder)
    image = pair(opened, ground_truth)[0][1]
    assert np.array_equal(image.contours(SIZE), contours)
    with pytest.raises(InputError, match=r"b.mat: expected masks of 41 x 60 pixels .* got 40 x 60"):
        image.contours((41, 60))
    with pytest.raises(InputError, match="expected scored masks; got a contour map"):
        image.detections(SIZE)
    write_trees(tmp_path / "ucm")
    with pytest.raises(InputError, match="got both"):
        open_predictions(tmp_path / "ucm")


def test_uncompressed_run_lengths_are_read(tmp_path, ground_truth):
    entries = results()
    for entry, mask in zip(entries, [*masks()] * 3, strict=True):
        entry["segmentation"]["counts"] = rle.counts(rle.encode(mask), SIZE)
    entries[0]["segmentation"]["counts"] += [0, 0]  # lengths of 0 say nothing
    predicted, _ = pair(open_predictions(write_json(tmp_path / "r.json", entries)), ground_truth)
    assert all(image.detections(SIZE).rles == tree().rles for image in predicted)


def test_boxes_without_masks_are_read(tmp_path, ground_truth):
    entries = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in results()]
    image = pair(open_predictions(write_json(tmp_path / "r.json", entries)), ground_truth)[0][0]
    assert image.detections(SIZE).rles is None
    assert image.detections(SIZE).boxes.tolist() == tree().boxes.tolist()
    with pytest.raises(FormatError, match="expected masks; got boxes only"):
        image.tree(SIZE)
    entries[1] = results()[1]
    mixed = open_predictions(write_json(tmp_path / "r.json", entries)).image("1")
    with pytest.raises(FormatError, match=r"image 1: expected masks in all entries or in none; got 1 of 3"):
        mixed.detections(SIZE)


def test_boxes_missing_beside_masks_are_those_of_the_masks(tmp_path):
    entries = [{k: v for k, v in entry.items() if k != "bbox"} for entry in results()]
    image = open_predictions(write_json(tmp_path / "r.json", entries)).image("1")
    assert image.detections(SIZE).boxes.tolist() == tree().boxes.tolist()


def test_missing_and_extra_images_are_refused(tmp_path, ground_truth):
    folder = write_trees(tmp_path / "trees")
    (folder / "c.json").unlink()
    with pytest.raises(InputError, match=r"for each of 3 images; got none for c.jpg; predicted are a, sub/b"):
        pair(open_predictions(folder), ground_truth)
    with pytest.raises(InputError, match=r"names it does not have: c; .*--only"):
        pair(open_predictions(write_trees(folder)), ground_truth[:2])
    assert len(pair(open_predictions(folder), ground_truth[:2], ignore_extra=True)[0]) == 2
    listed = open_predictions(write_json(tmp_path / "r.json", results()))
    with pytest.raises(InputError, match=r"r.json: expected predictions for the 2 images .* image ids .* have: 3"):
        pair(listed, ground_truth[:2])


def test_images_without_predictions(tmp_path, ground_truth):
    folder = write_trees(tmp_path / "trees")
    nothing = tree()[np.zeros(3, bool)]
    nothing.save(folder / "c.json")
    listed = write_json(tmp_path / "r.json", results(images=2))
    for path in (folder, listed):
        with pytest.raises(InputError, match=r"expected masks in every image; got none in c.jpg; with --allow-empty"):
            pair(open_predictions(path), ground_truth)
        predicted, empty = pair(open_predictions(path), ground_truth, allow_empty=True)
        assert empty == ["c.jpg"]
        assert len(predicted[2].detections(SIZE)) == 0
        assert len(predicted[2].tree(SIZE)) == 0
    with pytest.raises(InputError, match="expected predictions; got none for any image"):
        open_predictions(write_json(tmp_path / "none.json", []))


def test_masks_of_another_size_are_refused(tmp_path, ground_truth):
    folder = write_trees(tmp_path / "trees")
    other = MaskTree.from_masks(np.ones((1, 20, 30), bool))
    other.save(folder / "sub" / "b.json")
    with pytest.raises(InputError, match=r"image sub/b.png: expected masks of 40 x 60 .* got 20 x 30"):
        pair(open_predictions(folder), ground_truth)
    entries = shifted(results(), segmentation={"size": [20, 30], "counts": other.rles[0].decode()})
    with pytest.raises(FormatError, match=r"image 1, entry 1: expected masks of one size, 20 x 30; got \[40, 60\]"):
        open_predictions(write_json(tmp_path / "r.json", entries))
    shared_mask = [entry | {"segmentation": entries[0]["segmentation"]} for entry in results()]
    with pytest.raises(InputError, match=r"r.json, image a.jpg: expected masks of 40 x 60 .* got 20 x 30"):
        pair(open_predictions(write_json(tmp_path / "r.json", shared_mask)), ground_truth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": float("nan")}, "image 1, entry 0: expected a score, a finite number; got nan"),
        ({"score": float("inf")}, "expected a score, a finite number; got inf"),
        ({"score": None}, "expected a score"),
        ({"score": "0.5"}, "expected a score"),
        ({"bbox": [0, 0, float("nan"), 3]}, "expected bbox"),
        ({"bbox": [1, 2]}, "expected bbox"),
        ({"segmentation": [[1, 1, 5, 1, 5, 5]]}, "run lengths .* got polygons; convert it"),
        (
            {"segmentation": {"size": [40, 60]}},
            "expected counts as a string, or whole numbers with the sum 2400; got something else",
        ),
        ({"segmentation": {"size": [40, 60], "counts": [1, 2]}}, "with the sum 2400; got another sum"),
        ({"segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "got something else"),
        ({"segmentation": None, "bbox": None}, "expected a segmentation or a bbox; got neither"),
        ({"image_id": "a"}, "expected a whole number 'image_id'; got 'a'"),
    ],
)
def test_bad_entries_name_file_and_image(tmp_path, changes, message):
    path = write_json(tmp_path / "r.json", shifted(results(), **changes))
    with pytest.raises(FormatError, match=f"r.json.*{message}"):
        open_predictions(path)


def test_damaged_masks_name_file_and_image(tmp_path):
    entries = shifted(results(), segmentation={"size": list(SIZE), "counts": "0o0"})
    image = open_predictions(write_json(tmp_path / "r.json", entries)).image("1")
    with pytest.raises(InputError, match=r"r.json, image 1: expected run lengths"):
        image.tree(SIZE, nested=False)


def test_damaged_hierarchies_are_refused(tmp_path):
    def opened(**changes):
        annotations = shifted(tree().coco_annotations(image_id=1), **changes)
        record = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
        path = write_json(tmp_path / "d.json", {"images": [record], "annotations": annotations})
        return open_predictions(path).image("a.jpg")

    with pytest.raises(FormatError, match=r"image 1 \(a.jpg\), annotation 1: expected parent_id as the id .* got 99"):
        opened(parent_id=99).tree(SIZE)
    with pytest.raises(FormatError, match="expected one id per annotation"):
        opened(id=2).tree(SIZE)
    with pytest.raises(InputError, match=r"image 1 \(a.jpg\)"):
        opened(parent_id=2).tree(SIZE)  # a cycle
    with pytest.raises(FormatError, match=r"expected scores in \[0, 1\]"):
        opened(score=3.0).tree(SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "got a damaged one"),
        ("3", "got a damaged one"),
        ('{"annotations": []}', "expected a list of records 'images'"),
        ("[{}]", "expected a whole number 'image_id'; got none"),
        ('{"images": [{"id": 1}], "annotations": []}', "expected a whole number 'height'; got none"),
    ],
)
def test_files_of_other_formats_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FormatError, match=f"x.json.*{message}"):
        open_predictions(tmp_path / "x.json")


def test_inconsistent_documents_are_refused(tmp_path):
    record = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    good = {"images": [record], "annotations": tree().coco_annotations(image_id=1)}
    for change, message in (
        ({"images": [record, record]}, "expected each image id once"),
        ({"images": [record | {"id": 2}]}, "image 1, annotation 1: expected an image of the file"),
        ({"images": [record | {"width": 61}]}, r"image 1 \(a.jpg\): expected masks of 40 x 61 pixels; got \(40, 60\)"),
    ):
        with pytest.raises(FormatError, match=message):
            open_predictions(write_json(tmp_path / "d.json", good | change))


def test_missing_predictions_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"got nothing at .*nowhere"):
        open_predictions(tmp_path / "nowhere")
    with pytest.raises(InputError, match="got an empty folder at"):
        open_predictions(tmp_path)


def test_predictions_are_read_from_disk_in_worker_processes(tmp_path):
    prediction = open_predictions(write_json(tmp_path / "r.json", results())).image("2")
    sent = pickle.dumps(prediction)
    assert len(sent) < 1000
    assert pickle.loads(sent).detections(SIZE).rles == tree().rles
