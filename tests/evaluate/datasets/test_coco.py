"""COCO-style files: masks against COCO's own tools, what is computed where it is not annotated, damage."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from masktree.errors import FormatError, InputError
from masktree.evaluate.datasets import read_ground_truth
from masktree.trees import rle
from tests.evaluate.datasets.tiny import annotation, box_mask, document, image, masks, write


def read_one(path, records, size=(8, 10)):
    write(path, document([image(size=size)], records))
    return read_ground_truth("json", path).images[0]


def random_polygons(rng, size, count):
    """Rounded blobs, some partly outside, some of several pieces, some pieces of two points only."""
    for _ in range(count):
        pieces = []
        for _ in range(rng.integers(1, 4)):
            angles = np.sort(rng.random(rng.integers(3, 12))) * 2 * math.pi
            centre, radius = rng.random(2) * size[::-1], rng.random() * min(size)
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            pieces.append(points.round(2).ravel().tolist())
        if rng.random() < 0.3:
            pieces.insert(0, pieces[0][:4])
        yield pieces


@pytest.mark.parametrize("size", [(48, 64), (1, 30), (30, 1), (7, 7)])
def test_polygons_are_drawn_as_by_coco(tmp_path, rng, size):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed.")
    polygons = list(random_polygons(rng, size, 40))
    records = [{"id": i, "image_id": 1, "segmentation": pieces} for i, pieces in enumerate(polygons)]
    ground_truth = read_one(tmp_path / "a.json", records, size)
    for mask, pieces in zip(ground_truth.masks(), polygons, strict=True):
        longest_first = sorted(
            pieces, key=len, reverse=True
        )  # COCO's reader takes a first piece of two points for a box
        assert mask == coco.merge(coco.frPyObjects(longest_first, *size))["counts"]
    theirs = [{"size": list(size), "counts": mask} for mask in ground_truth.masks()]
    assert ground_truth.areas.tolist() == coco.area(theirs).tolist()
    assert ground_truth.boxes.tolist() == coco.toBbox(theirs).tolist()
    assert max(ground_truth.areas) > 0


def test_masks_are_read_as_polygons_and_run_lengths(tmp_path):
    mask = box_mask(2, 3, 4, 2)
    lists = [
        {"size": [8, 10], "counts": rle.counts(rle.encode(mask), mask.shape)},
        {"size": [8, 10], "counts": [0, 0, 5, 3, 0, 5, 67]},  # runs of length 0 are allowed
        {"size": [8, 10], "counts": [80]},
        {"size": [8, 10], "counts": [0, 80]},
    ]
    records = [{"id": i, "image_id": 1, "segmentation": entry} for i, entry in enumerate(lists)]
    records.append(annotation(9, mask))
    records.append({"id": 10, "image_id": 1, "segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]})
    ground_truth = read_one(tmp_path / "a.json", records)
    got = masks(ground_truth)
    assert got[0] == got[4] == got[5] == mask.tolist()
    column_major = np.zeros(80, bool)
    column_major[5:13] = True
    assert got[1] == column_major.reshape(10, 8).T.tolist()
    assert not np.any(got[2])
    assert np.all(got[3])
    assert ground_truth.areas.tolist() == [8, 8, 0, 80, 8, 8]
    assert ground_truth.boxes[0].tolist() == [2, 3, 4, 2]
    assert not ground_truth.crowd.any()
    assert (ground_truth.parents == -1).all()


def test_annotated_values_come_before_computed_ones(tmp_path):
    mask = box_mask(2, 3, 4, 2)
    records = [
        annotation(1, mask, area=7.5, bbox=[1, 2, 3.5, 4], iscrowd=1),
        annotation(2, mask, area=6),
        annotation(3, mask, bbox=[0, 0, 1, 1], iscrowd=0),
    ]
    ground_truth = read_one(tmp_path / "a.json", records)
    assert ground_truth.areas.tolist() == [7.5, 6, 8]
    assert ground_truth.boxes.tolist() == [[1, 2, 3.5, 4], [2, 3, 4, 2], [0, 0, 1, 1]]
    assert ground_truth.crowd.tolist() == [True, False, False]


def test_parents_are_ids_of_annotations(tmp_path):
    nested = [box_mask(0, 0, k, k) for k in (2, 8, 5)]
    records = [annotation(70 + i, mask) for i, mask in enumerate(nested)]
    records[0]["parent_id"], records[1]["parent_id"], records[2]["parent_id"] = 72, None, 71
    ground_truth = read_one(tmp_path / "a.json", records)
    assert ground_truth.parents.tolist() == [2, -1, 1]


def test_images_keep_order_ids_and_names(tmp_path):
    images = [image(7, "val/./b.jpg"), image(3, "a.jpg", (4, 5)), image(5, "empty.jpg")]
    records = [annotation(2, box_mask(0, 0, 2, 2, (4, 5)), 3), annotation(1, box_mask(1, 1, 3, 3), 7)]
    write(tmp_path / "annotations.json", document(images, records))
    ground_truth = read_ground_truth("json", tmp_path)  # a folder with annotations.json will do
    assert [(i.id, i.name, i.size, len(i)) for i in ground_truth.images] == [
        (7, "val/b.jpg", (8, 10), 1),
        (3, "a.jpg", (4, 5), 1),
        (5, "empty.jpg", (8, 10), 0),
    ]
    assert ground_truth.images[2].masks() == ()
    assert ground_truth.dataset == "json"
    assert [i.name for i in read_ground_truth("json", tmp_path, only=["a.jpg"]).images] == ["a.jpg"]


def test_annotations_may_have_boxes_alone(tmp_path):
    records = [
        {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4.5]},
        {"id": 2, "image_id": 1, "bbox": [0, 0, 2, 2], "area": 3},
    ]
    records[1]["segmentation"] = []
    ground_truth = read_one(tmp_path / "a.json", records)
    assert ground_truth.rles is None
    assert ground_truth.boxes.tolist() == [[1, 2, 3, 4.5], [0, 0, 2, 2]]
    assert ground_truth.areas.tolist() == [13.5, 3]


def test_boxes_beside_masks_are_compared_as_boxes(tmp_path):
    """Label Studio's converter writes an empty list for the mask of a box."""
    mask = box_mask(2, 3, 4, 2)
    for nothing in ({"segmentation": []}, {"segmentation": [[]]}, {"segmentation": None}, {}):
        records = [annotation(1, mask), {"id": 2, "image_id": 1, "bbox": [1, 1, 3, 2]} | nothing]
        ground_truth = read_one(tmp_path / "a.json", records)
        assert ground_truth.boxes.tolist() == [[2, 3, 4, 2], [1, 1, 3, 2]]
        assert ground_truth.areas.tolist() == [8, 6]
        with pytest.raises(InputError, match="got annotations with a box only; compare boxes with --iou-type boxes"):
            ground_truth.masks()


def test_null_stands_for_what_is_not_annotated(tmp_path):
    record = annotation(1, box_mask(2, 3, 4, 2)) | {"bbox": None, "area": None, "iscrowd": None, "parent_id": None}
    ground_truth = read_one(tmp_path / "a.json", [record])
    assert ground_truth.boxes.tolist() == [[2, 3, 4, 2]]
    assert ground_truth.areas.tolist() == [8]
    assert ground_truth.crowd.tolist() == [False]


def test_polygons_beyond_the_image_are_clipped_as_by_coco(tmp_path):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed.")
    polygons = [[[3, 2, 400, 2, 400, 6, 3, 6]], [[-90, -50, 5, -50, 5, 5, -90, 5], []], [[50, 50, 60, 50, 60, 60]]]
    records = [{"id": i, "image_id": 1, "segmentation": pieces} for i, pieces in enumerate(polygons)]
    ground_truth = read_one(tmp_path / "a.json", records)
    for mask, pieces in zip(ground_truth.masks(), polygons, strict=True):
        assert mask == coco.frPyObjects(pieces[:1], 8, 10)[0]["counts"]
    assert ground_truth.areas.tolist() == [28, 25, 0]


def test_names_of_windows_and_byte_order_marks_are_read(tmp_path):
    write(tmp_path / "a.json", document([image(1, "images\\sub\\a.jpg")], [annotation(1, box_mask(2, 3, 4, 2))]))
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())
    assert [i.name for i in read_ground_truth("json", tmp_path / "a.json").images] == ["images/sub/a.jpg"]


GOOD = document([image()], [annotation(i, box_mask(i, 1, 3, 3), area=9, bbox=[i, 1, 3, 3]) for i in (1, 2)])


def set_in(target, value):
    def change(document):
        parent = document
        for key in target[:-1]:
            parent = parent[key]
        if value is KeyError:
            del parent[target[-1]]
        else:
            parent[target[-1]] = value

    return change


FIRST = ("annotations", 0)
IMAGE = ("images", 0)
MASK = (*FIRST, "segmentation")
DAMAGE = {
    "no images": (set_in(["images"], KeyError), r"a\.json: expected a list of records 'images'"),
    "images no records": (set_in(["images"], [1]), "list of records 'images'"),
    "annotations no list": (set_in(["annotations"], {}), "list of records 'annotations'"),
    "image without id": (
        set_in([*IMAGE, "id"], KeyError),
        r"image None \(a.jpg\): expected a whole number 'id'; got none",
    ),
    "image id text": (set_in([*IMAGE, "id"], "x"), "whole number 'id'; got 'x'"),
    "image id true": (set_in([*IMAGE, "id"], True), "whole number 'id'; got True"),
    "no width": (set_in([*IMAGE, "width"], KeyError), "whole number 'width'; got none"),
    "width 0": (set_in([*IMAGE, "width"], 0), "at least 1 x 1 .* got 8 x 0"),
    "width beyond run lengths": (set_in([*IMAGE, "width"], 2**28), "fewer than 2.31 pixels; got 8 x 268435456"),
    "no file_name": (set_in([*IMAGE, "file_name"], KeyError), "image 1: expected a file_name"),
    "file_name empty": (set_in([*IMAGE, "file_name"], ""), "expected a file_name"),
    "image twice": (lambda d: d["images"].append(d["images"][0]), "each image id once"),
    "annotation twice": (set_in([*FIRST, "id"], 2), "annotation 2: expected each annotation id once"),
    "annotation without id": (set_in([*FIRST, "id"], KeyError), "image 1, entry 0: expected a whole number 'id'"),
    "unknown image": (set_in([*FIRST, "image_id"], 9), "image 9, annotation 1: expected an image of the file"),
    "segmentation number": (set_in(MASK, 5), "annotation 1: expected a segmentation"),
    "neither mask nor box": (
        lambda d: d["annotations"][0].update(segmentation=[], bbox=None),
        r"image 1 \(a.jpg\), annotation 1: expected a segmentation or a bbox; got neither",
    ),
    "other size": (set_in([*MASK, "size"], [10, 8]), r"size \[8, 10\] \(height, width\); got \[10, 8\]"),
    "string cut off": (set_in([*MASK, "counts"], "1o"), "annotation 1: .*ends inside a number"),
    "string of another size": (set_in([*MASK, "counts"], "5"), "annotation 1: .*= 80 pixels .* got 5 pixels"),
    "string not ascii": (set_in([*MASK, "counts"], "é"), "annotation 1: .*ascii"),
    "counts too short": (set_in([*MASK, "counts"], [3, 4]), "annotation 1: .*with the sum 80; got another sum"),
    "counts negative": (set_in([*MASK, "counts"], [-3, 83]), "got something else"),
    "counts fractions": (set_in([*MASK, "counts"], [40.0, 40.0]), "got something else"),
    "counts none": (set_in([*MASK, "counts"], KeyError), "got something else"),
    "two points": (set_in(MASK, [[1, 1, 5, 5]]), "at least three points"),
    "odd numbers": (set_in(MASK, [[1, 1, 5, 5, 3, 3, 2]]), "annotation 1: expected polygons as lists"),
    "polygon of text": (set_in(MASK, [["a", "b"]]), "expected polygons as lists"),
    "polygon flat": (set_in(MASK, [1, 1, 5, 5, 3, 3]), "expected polygons as lists"),
    "polygon far away": (set_in(MASK, [[1, 1, 5, 5, 1e9, 3]]), "annotation 1: expected polygons near the image"),
    "polygon NaN": (set_in(MASK, [[1, 1, 5, 5, math.nan, 3]]), "near the image"),
    "bbox short": (set_in([*FIRST, "bbox"], [1, 2, 3]), r"annotation 1: expected bbox as .* got \[1, 2, 3\]"),
    "bbox negative": (set_in([*FIRST, "bbox"], [1, 2, -3, 4]), "width and height not negative"),
    "bbox text": (set_in([*FIRST, "bbox"], [1, 2, "3", 4]), "expected bbox"),
    "area infinite": (set_in([*FIRST, "area"], math.inf), "annotation 1: expected an area of at least 0; got inf"),
    "area huge": (set_in([*FIRST, "area"], 10**400), "expected an area"),
    "bbox NaN": (set_in([*FIRST, "bbox"], [1, 2, math.nan, 4]), "expected bbox"),
    "area negative": (set_in([*FIRST, "area"], -1), "expected an area"),
    "iscrowd": (set_in([*FIRST, "iscrowd"], 2), "annotation 1: expected iscrowd 0 or 1; got 2"),
    "parent unknown": (set_in([*FIRST, "parent_id"], 5), "annotation 1: expected parent_id as the id"),
    "parent text": (set_in([*FIRST, "parent_id"], "2"), "annotation 1: expected parent_id as the id"),
    "parent itself": (set_in([*FIRST, "parent_id"], 1), r"a\.json, image 1 \(a.jpg\): .*cycle"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_annotations_are_named(tmp_path, name):
    change, match = DAMAGE[name]
    broken = copy.deepcopy(GOOD)
    change(broken)
    with pytest.raises(FormatError, match=match) as error:
        read_ground_truth("json", write(tmp_path / "a.json", broken))
    assert str(tmp_path / "a.json") in str(error.value)


def test_annotations_without_mask_and_box_are_refused(tmp_path):
    with pytest.raises(FormatError, match="annotation 4: expected a segmentation or a bbox"):
        read_one(tmp_path / "a.json", [{"id": 4, "image_id": 1, "area": 3}])


@pytest.mark.parametrize("text", ['{"images": [', "\0", "[" * 100_000, "[1]", '"text"'])
def test_json_of_another_format_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"a\.json: expected"):
        read_ground_truth("json", tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="damaged"):
        read_ground_truth("json", tmp_path / "a.json")


def test_missing_images_and_annotations_raise_an_input_error(tmp_path):
    with pytest.raises(InputError, match="got nothing; check the path"):
        read_ground_truth("json", tmp_path / "none.json")
    with pytest.raises(InputError, match=r"expected annotations\.json in this folder"):
        read_ground_truth("json", tmp_path)
    with pytest.raises(InputError, match="at least one image"):
        read_ground_truth("json", write(tmp_path / "a.json", document([], [])))
    with pytest.raises(InputError, match="expected annotations"):
        read_ground_truth("json", write(tmp_path / "a.json", document([image()], [])))


def test_masks_of_a_large_image_are_kept_as_outlines(tmp_path):
    """Memory is that of the outlines: a dense array of each mask would take 24 GB."""
    size = (4000, 6000)
    records = [
        {"id": i, "image_id": 1, "segmentation": [[0, 0, 6000 - i, 0, 6000 - i, 4000 - i, 0, 4000 - i]]}
        for i in range(1000)
    ]
    ground_truth = read_one(tmp_path / "a.json", records, size)
    assert len(ground_truth) == 1000
    assert ground_truth.areas[10] == 5990 * 3990


@pytest.mark.parametrize(
    ("name", "images", "annotations"), [("car_parts", 100, 856), ("clothing", 120, 996), ("msrc", 150, 458)]
)
def test_small_evaluation_sets(shared, name, images, annotations):
    path = shared / "data" / "eval" / name / "annotations.json"
    if not path.exists():
        pytest.skip("This data set is not on this machine.")
    ground_truth = read_ground_truth("json", path)
    assert (len(ground_truth), sum(map(len, ground_truth.images))) == (images, annotations)
    for entry in ground_truth.images:
        assert np.allclose(entry.areas, rle.areas(entry.masks(), entry.size))
        assert (entry.parents >= 0).any() == (name != "msrc") or len(entry) < 2
