"""Corrected trees in every format, read by independent readers: masks, classes, names, and what was rejected."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.edits import EditedTree
from masktree.errors import InputError
from masktree.export.options import ExportOptions
from masktree.stages.export import export
from masktree.stages.import_trees import import_trees
from masktree.stages.pictures import Picture, Pictures, draw
from masktree.trees.file import read_tree_and_classes
from tests.export.planted import SIZE, fill, planted_image, planted_masks, planted_tree
from tests.export.test_formats import read_brush, rings_of

CLASSES = (None, "cell", "nucleus", "nucleus", None)
WITH_LEVELS = ("whole", "cell", "nucleus", "nucleus", "part")
NOTE = "edits of 1 image applied; --no-edits for the machine's masks"


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """A tree with edits: the chessboard rejected, the corner larger, three masks with a class and one with a name."""
    image = planted_image(tmp_path)
    path = tmp_path / "out/sub/a.json"
    planted_tree().save(path, image={"file_name": str(image.photo)})
    edited = EditedTree.open(path)
    for edit in (
        {"op": "classes", "names": ["nucleus", "cell", "dirt"]},
        {"op": "class", "ids": [1], "class": "cell"},
        {"op": "class", "ids": [2, 3], "class": "nucleus"},
        {"op": "rename", "id": 1, "name": "Ring & Zelle"},
        {"op": "reject", "ids": [4]},
        {"op": "accept", "ids": [1, 5]},
        {"op": "add", "id": 5, "polygon": [[40, 26], [44, 26], [44, 30], [40, 30]]},
    ):
        edited.apply(edit)
    return tmp_path / "out"


def corrected() -> np.ndarray:
    masks = planted_masks()[[0, 1, 2, 3, 5]]
    masks[4, 26:30, 40:44] = True
    return masks


def test_qupath(trees: Path, tmp_path: Path) -> None:
    assert export(trees, tmp_path / "q", "qupath", ExportOptions(flat=True)).notes == (NOTE,)
    features = json.loads((tmp_path / "q/sub/a.geojson").read_text())["features"]
    for feature, mask in zip(features, corrected(), strict=True):
        np.testing.assert_array_equal(fill(rings_of(feature["geometry"])), mask)
    properties = [feature["properties"] for feature in features]
    assert tuple(p["classification"]["name"] for p in properties) == WITH_LEVELS
    assert properties[1]["name"] == "Ring & Zelle"
    colors = [tuple(p["classification"]["color"]) for p in properties]
    assert colors[2] == colors[3] != colors[1]


def test_coco(trees: Path, tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    export(trees, tmp_path / "all.json", "coco")
    document = json.loads((tmp_path / "all.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert names == {1: "nucleus", 2: "cell", 3: "dirt", 4: "entity"}  # in the user's order
    annotations = document["annotations"]
    assert [names[a["category_id"]] for a in annotations] == ["entity", "cell", "nucleus", "nucleus", "entity"]
    assert [a["name"] for a in annotations] == [None, "Ring & Zelle", None, None, None]
    assert [a["status"] for a in annotations] == ["none", "accepted", "none", "none", "accepted"]
    for annotation, mask in zip(annotations, corrected(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), mask)


def test_yolo(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "y", "yolo", ExportOptions(only="classified"))
    names = ["names:", '  0: "nucleus"', '  1: "cell"', '  2: "dirt"']
    for level, expected in (("part", ["1"]), ("subpart", ["0", "0"])):
        assert (tmp_path / "y" / level / "data.yaml").read_text().splitlines()[-4:] == names
        lines = (tmp_path / "y" / level / "labels/sub/a.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == expected
    assert not (tmp_path / "y/whole").exists()
    ring = np.array(lines[1].split()[1:], float).reshape(-1, 2) * [SIZE[1], SIZE[0]]
    np.testing.assert_array_equal(fill([ring]), corrected()[3])


def test_label_studio(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "all.json", "label-studio")
    [task] = json.loads((tmp_path / "all.json").read_text())
    regions = {region["id"]: region for region in task["predictions"][0]["result"]}
    for index, mask in enumerate(corrected()):
        region = regions[f"mask{index}"]
        assert region["value"]["brushlabels"] == [WITH_LEVELS[index]]
        np.testing.assert_array_equal(np.array(read_brush(region["value"]["rle"])).reshape(*SIZE, 4)[..., 3] > 0, mask)
        assert region["meta"].get("text") == (["Ring & Zelle"] if index == 1 else None)


def test_cvat(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "all.xml", "cvat")
    root = ET.parse(tmp_path / "all.xml").getroot()
    assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == [
        *("nucleus", "cell", "dirt", "whole", "part"),
    ]
    masks = root.findall("image/mask")
    assert tuple(mask.get("label") for mask in masks) == WITH_LEVELS
    names = [mask.find("attribute[@name='name']").text for mask in masks]
    assert names == [None, "Ring & Zelle", None, None, None]


def test_labelme(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "l", "labelme")
    shapes = json.loads((tmp_path / "l/sub/a.json").read_text())["shapes"]
    shapes.sort(key=lambda shape: shape["mask_id"])
    assert tuple(shape["label"] for shape in shapes) == WITH_LEVELS
    assert [shape["description"] for shape in shapes] == ["", "Ring & Zelle", "", "", ""]


def test_imagej(trees: Path, tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="roifile is not installed: pip install roifile.")
    export(trees, tmp_path / "i", "imagej")
    rois = roifile.roiread(tmp_path / "i/sub/a.zip")
    assert [roi.name for roi in rois] == [
        *("0000-whole", "0001-Ring & Zelle", "0002-nucleus", "0003-nucleus", "0004-part"),
    ]
    assert [roi.group for roi in rois] == [0, 2, 1, 1, 0]  # 1 is the first class


def test_gis(trees: Path, tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed: pip install pyogrio.")
    for to, suffix in (("geojson", "geojson"), ("gpkg", "gpkg")):
        export(trees, tmp_path / to, to)
        meta, _, _, columns = pyogrio.raw.read(tmp_path / to / f"sub/a.{suffix}")
        values = dict(zip(meta["fields"].tolist(), columns, strict=True))
        assert tuple(values["class"]) == WITH_LEVELS
        assert list(values["name"]) == [None, "Ring & Zelle", None, None, None]
        assert values["area"].tolist() == corrected().sum((1, 2)).tolist()


def test_table_and_sa1b(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "t.csv", "csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert tuple(row["class"] for row in rows) == WITH_LEVELS
    assert [row["name"] for row in rows] == ["", "Ring & Zelle", "", "", ""]
    export(trees, tmp_path / "s", "sa1b")
    [file] = (tmp_path / "s").glob("sa_*.json")
    records = sorted(json.loads(file.read_text())["annotations"], key=lambda record: record["id"])
    assert tuple(record["class"] for record in records) == CLASSES


def test_cuts_are_those_of_the_corrected_masks(trees: Path, tmp_path: Path) -> None:
    import tifffile

    export(trees, tmp_path / "c", "label-tiff", ExportOptions(granularities=(0.2,)))
    labels = tifffile.imread(tmp_path / "c/sub/a.ome.tif")
    corner = labels[26:30, 40:44]
    assert len(np.unique(corner)) == 1
    assert (labels == corner[0, 0]).sum() == 16
    with pytest.raises(InputError, match="--no-edits for the machine's contours"):
        export(trees / "sub/a.json", tmp_path / "u.png", "ucm")


def test_no_edits_and_the_class_map(trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(trees), "-o", str(tmp_path / "m.json"), "--to", "coco", "--no-edits"]) == 0
    captured = capsys.readouterr()
    assert "edits of" not in captured.out + captured.err
    assert len(json.loads((tmp_path / "m.json").read_text())["annotations"]) == 6
    target = str(tmp_path / "e.json")
    options = ["--class-map", "whole=slide", "--only", "accepted", "--level", "whole", "part"]
    assert cli.main(["export", str(trees), "-o", target, "--to", "coco", *options]) == 0
    captured = capsys.readouterr()
    assert NOTE in captured.out + captured.err
    document = json.loads(Path(target).read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert [names[a["category_id"]] for a in document["annotations"]] == ["cell", "part"]


def test_new_edits_are_written_again(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "q", "qupath")
    assert export(trees, tmp_path / "q", "qupath").skipped == 1
    EditedTree.open(trees / "sub/a.json").apply({"op": "undo"})
    assert export(trees, tmp_path / "q", "qupath").completed == 1


def test_damaged_edits_fail_and_the_others_are_written(trees: Path, tmp_path: Path) -> None:
    planted_tree().save(trees / "b.json", image={"file_name": str(tmp_path / "photos/sub/a.png")})
    with (trees / "sub/a.edits.jsonl").open("a") as handle:
        handle.write("{}\n")
    outcome = export(trees, tmp_path / "q", "qupath")
    assert outcome.completed == 1
    assert "a.edits.jsonl, line 9: expected an edit with op of" in outcome.failures[0]["error"]


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("qupath", "q"),
        ("coco", "c.json"),
        ("label-studio", "s.json"),
        ("cvat", "v.xml"),
        ("labelme", "l"),
        ("sa1b", "s"),
    ],
)
def test_classes_survive_the_way_back_and_more_edits(trees: Path, tmp_path: Path, to: str, target: str) -> None:
    export(trees, tmp_path / target, to)
    import_trees(tmp_path / target, tmp_path / "back", to, images=tmp_path / "photos")
    path = tmp_path / "back/sub/a.json"
    tree, classes = read_tree_and_classes(path)
    by_area = dict(zip(tree.areas.tolist(), classes, strict=True))
    areas = corrected().sum((1, 2)).tolist()
    for area, name in zip(areas, CLASSES, strict=True):
        if name is not None:
            assert by_area[area] == name
    edited = EditedTree.open(path)
    index = tree.areas.tolist().index(areas[1])
    assert edited.classes[index] == "cell"
    edited.apply({"op": "class", "ids": [index], "class": "nucleus"})
    export(tmp_path / "back", tmp_path / "again.json", "coco")
    document = json.loads((tmp_path / "again.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    again = {a["area"]: names[a["category_id"]] for a in document["annotations"]}
    assert [again[area] for area in areas[1:4]] == ["nucleus"] * 3


def test_an_edited_tree_is_not_replaced(trees: Path, tmp_path: Path) -> None:
    export(trees, tmp_path / "all.json", "coco")
    import_trees(tmp_path / "all.json", tmp_path / "back", images=tmp_path / "photos")
    EditedTree.open(tmp_path / "back/sub/a.json").apply({"op": "delete", "ids": [0]})
    before = (tmp_path / "back/sub/a.json").read_bytes()
    with pytest.raises(
        InputError, match=r"got .*a\.edits\.jsonl, which would be of no use; export the corrected masks"
    ):
        import_trees(tmp_path / "all.json", tmp_path / "back", images=tmp_path / "photos", overwrite=True)
    assert (tmp_path / "back/sub/a.json").read_bytes() == before
    (tmp_path / "back/sub/a.edits.jsonl").unlink()
    assert import_trees(tmp_path / "all.json", tmp_path / "back", images=tmp_path / "photos", overwrite=True).completed


def test_pictures_show_the_corrected_masks_and_are_drawn_again_after_others(trees: Path, tmp_path: Path) -> None:
    from masktree.io.files import sha256_of

    photo = tmp_path / "photos/sub/a.png"
    path = tmp_path / "p/a.json"
    planted_tree().save(path, image={"file_name": str(photo), "sha256": sha256_of(photo)})
    pictures = Pictures(Picture(granularity=1.0))
    assert draw(tmp_path / "p", pictures).completed == 1
    assert draw(tmp_path / "p", pictures).skipped == 1
    machine = np.asarray(Image.open(tmp_path / "p/a.png"))
    edited = EditedTree.open(path)
    edited.apply({"op": "reject", "ids": [0, 1, 4]})
    assert draw(tmp_path / "p", pictures).completed == 1
    picture = Image.open(tmp_path / "p/a.png")
    assert picture.info["Description"].endswith("; with 1 edits")
    assert np.any(np.asarray(picture) != machine)
    edited.apply({"op": "undo"})
    assert draw(tmp_path / "p", pictures).completed == 1
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p/a.png")), machine)
