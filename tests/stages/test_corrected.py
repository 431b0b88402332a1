"""From a folder of photographs to corrected files of QuPath and YOLO: segment, correct through the server, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.edits import EditedTree
from masktree.trees.masktree import MaskTree
from tests.export.planted import fill
from tests.export.test_formats import rings_of


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """``photos/`` and ``trees/`` of two small photographs."""
    folder = tmp_path_factory.mktemp("corrected")
    (folder / "photos").mkdir()
    for photo in photos:
        if photo.stem in ("coffee", "coins"):
            image = Image.open(photo).convert("RGB")
            image.thumbnail((128, 128))
            image.save(folder / "photos" / f"{photo.stem}.png")
    assert cli.main(["segment", str(folder / "photos"), "-o", str(folder / "trees"), "--workers", "1"]) == 0
    return folder


def correct(folder: Path) -> list[dict[str, object]]:
    """Edits of coins.png, as a person makes them on the page; returns them."""
    serve = pytest.importorskip("tests.serve.running", reason="starlette or uvicorn is not installed.")
    from masktree.serve.folder import Folder
    from masktree.serve.site import Site

    tree = MaskTree.load(folder / "trees/coins.json")
    roots = np.flatnonzero(tree.parents < 0).tolist()
    part = int(np.flatnonzero(tree.parents >= 0)[0])
    new = len(tree)
    edits: list[dict[str, object]] = [
        {"op": "classes", "names": ["coin", "stain"]},
        {"op": "create", "polygon": [[20.5, 20.5], [60.5, 20.5], [60.5, 50.5], [20.5, 50.5]]},
        {"op": "split", "id": new, "by": "line", "line": [[40.5, 0], [40.5, 100]]},
        {"op": "class", "ids": [new + 1], "class": "coin"},
        {"op": "class", "ids": [new + 2], "class": "stain"},
        {"op": "rename", "id": new + 1, "name": "penny"},
        {"op": "delete", "ids": [part]},
        {"op": "undo"},
        {"op": "reject", "ids": roots[:1]},
    ]
    with serve.running(Site.open(Folder.open(folder / "photos", folder / "trees"))) as server:
        path = f"/api/images/{server.ids['coins']}/edits"
        for version, edit in enumerate(edits):
            assert server.post(path, {"version": version, "edit": edit}).status == 200
    return edits


def test_from_a_folder_to_corrected_qupath_and_yolo_files(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = (trees / "trees/coins.json").read_bytes()
    made = correct(trees)
    assert (trees / "trees/coins.json").read_bytes() == machine
    edited = EditedTree.open(trees / "trees/coins.json")
    assert edited.version == len(made)
    tree, classes, _ = edited.result()
    capsys.readouterr()

    source = str(trees / "trees")
    assert cli.main(["export", source, "-o", str(trees / "qupath"), "--to", "qupath", "--flat"]) == 0
    assert "edits of 1 image applied; --no-edits for the machine's masks" in capsys.readouterr().out
    features = json.loads((trees / "qupath/coins.geojson").read_text())["features"]
    assert len(features) == len(tree)
    for index, feature in enumerate(features):
        np.testing.assert_array_equal(fill(rings_of(feature["geometry"]), tree.size), tree.mask(index))
    by_name = {f["properties"]["classification"]["name"]: f for f in features}
    assert by_name["coin"]["properties"]["name"] == "penny"
    assert by_name["stain"]["properties"]["measurements"]["area"] in (570, 600, 630)
    unedited = json.loads((trees / "qupath/coffee.geojson").read_text())["features"]
    assert len(unedited) == len(MaskTree.load(trees / "trees/coffee.json").nodes)

    only = ["--only", "classified"]
    assert cli.main(["export", source, "-o", str(trees / "yolo"), "--to", "yolo", *only]) == 0
    found = {}
    for data in (trees / "yolo").glob("*/data.yaml"):
        assert data.read_text().splitlines()[-3:] == ["names:", '  0: "coin"', '  1: "stain"']
        assert (data.parent / "images/coins.png").is_file()
        for line in (data.parent / "labels/coins.txt").read_text().splitlines():
            number, *numbers = line.split()
            ring = np.array(numbers, float).reshape(-1, 2) * [tree.size[1], tree.size[0]]
            found[int(number)] = fill([ring], tree.size)
    assert sorted(found) == [0, 1]
    for place, name in enumerate(("coin", "stain")):
        np.testing.assert_array_equal(found[place], tree.mask(classes.index(name)))
    assert not list((trees / "yolo").rglob("coffee*"))


def test_an_edited_tree_is_not_segmented_again(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trees / "trees/coffee.json"
    EditedTree.open(path).apply({"op": "accept", "ids": [0]})
    before = path.read_bytes()
    arguments = ["segment", str(trees / "photos"), "-o", str(trees / "trees"), "--workers", "1"]
    assert cli.main([*arguments, "--overwrite", "--min-area", "50"]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "expected trees without edits where trees are replaced; got" in said
    assert "move the files of edits away" in said
    assert path.read_bytes() == before
    assert EditedTree.open(path).status[0] == "accepted"
    assert cli.main(arguments) == 0  # what is finished is kept, with its edits
