"""What each address answers."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from masktree.discover.methods import METHODS
from masktree.edits import EditedTree
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.edits.planted import PARENTS, SIZE, planted_masks, random_tree


def test_the_list_tells_what_is_known_of_each_image(server):
    answer = server.get("/api/images").json
    assert answer["folder"] == "photos"
    assert answer["methods"] == list(METHODS)
    assert {"name": "qupath", "help": "GeoJSON objects of QuPath", "extension": ".geojson"} in answer["formats"]
    images = {image["name"]: image for image in answer["images"]}
    assert set(images) == {"planted.png", "sub/random.png", "bare.png"}
    planted, bare = images["planted.png"], images["bare.png"]
    assert (planted["width"], planted["height"], planted["masks"], planted["status"]) == (SIZE[1], SIZE[0], 6, "done")
    assert (bare["width"], bare["masks"], bare["edits"], bare["status"]) == (SIZE[1], None, None, "none")


def test_pictures_show_the_photograph(server):
    path = f"/api/images/{server.ids['planted']}"
    answer = server.get(f"{path}/picture")
    assert (answer.status, answer.headers["x-full-size"]) == (200, f"{SIZE[1]} {SIZE[0]}")
    shown = np.asarray(Image.open(io.BytesIO(answer.body)))
    expected = np.asarray(Image.open(server.site.folder.root / "planted.png"))
    assert np.array_equal(shown, expected)  # small ones are sent without loss
    assert Image.open(io.BytesIO(server.get(f"{path}/picture?side=25").body)).size == (25, 20)
    assert Image.open(io.BytesIO(server.get(f"{path}/thumbnail").body)).format == "JPEG"
    for side in ("0", "99999", "-1", "1e3", "٣"):
        assert server.get(f"{path}/picture?side={side.encode().hex() if not side.isascii() else side}").status == 400


def test_the_tree_has_the_masks_and_their_parents(server):
    answer = server.get(f"/api/images/{server.ids['planted']}/tree").json
    assert (answer["version"], answer["size"], answer["undo"], answer["redo"]) == (0, list(SIZE), False, False)
    masks = answer["masks"]
    assert [mask["parent"] for mask in masks] == [None if parent < 0 else parent for parent in PARENTS]
    dense = planted_masks()
    assert [mask["area"] for mask in masks] == dense.sum((1, 2)).tolist()
    assert masks[5]["bbox"] == [38, 10, 10, 10]
    assert masks[0] | {"level": "whole", "status": "none", "class": None, "name": None} == masks[0]


def test_the_map_has_the_smallest_mask_of_each_pixel(server):
    answer = server.get(f"/api/images/{server.ids['planted']}/map?version=0")
    labels = np.frombuffer(answer.body, "<u4").reshape(SIZE)
    assert (answer.headers["x-map-size"], answer.headers["x-map-factor"]) == (f"{SIZE[1]} {SIZE[0]}", "1")
    expected = np.zeros(SIZE, int)
    for index, mask in enumerate(planted_masks()):  # parents come before their children
        expected[mask] = index + 1
    assert np.array_equal(labels, expected)
    assert server.get(f"/api/images/{server.ids['planted']}/overlaps").json == {}
    assert server.get(f"/api/images/{server.ids['planted']}/map?version=7").status == 409


def test_regions_are_the_dendrogram(server):
    body = server.get(f"/api/images/{server.ids['sub/random']}/regions").body
    dendrogram = random_tree(0).dendrogram
    n, width, height, factor = np.frombuffer(body, "<u4", 4).tolist()
    assert (n, width, height, factor) == (dendrogram.n_leaves, 31, 24, 1)
    leaves = np.frombuffer(body, "<i4", width * height, 16).reshape(height, width)
    parents = np.frombuffer(body, "<i4", 2 * n - 1, 16 + 4 * width * height)
    granularities = np.frombuffer(body, "<f4", 2 * n - 1, 16 + 4 * (width * height + 2 * n - 1))
    assert np.array_equal(leaves, dendrogram.leaves)
    assert np.array_equal(parents, dendrogram.parents)
    assert np.allclose(granularities, dendrogram.altitudes, atol=1e-6)
    assert server.get(f"/api/images/{server.ids['planted']}/regions").status == 404


def test_a_click_gives_masks_that_an_edit_makes_permanent(server):
    path = f"/api/images/{server.ids['sub/random']}"
    masks = server.post(f"{path}/click", {"points": [[10, 12]], "labels": [1]}).json["masks"]
    assert 1 <= len(masks) <= 3
    for mask in masks:
        inside = rle.decode(mask["rle"]["counts"].encode(), (24, 31))
        assert inside[12, 10]
        assert mask["area"] == inside.sum()
        x, y, width, height = mask["bbox"]
        assert inside[y : y + height, x : x + width].sum() == inside.sum()
        assert all(len(ring) >= 4 for ring in mask["outline"])
    one = server.post(f"{path}/click", {"points": [[10, 12]], "labels": [1], "granularity": 0.5}).json["masks"]
    assert len(one) == 1
    edit = {"op": "create", "rle": masks[0]["rle"], "score": masks[0]["score"]}
    answer = server.post(f"{path}/edits", {"version": 0, "edit": edit})
    assert (answer.status, answer.json["version"]) == (200, 1)
    assert masks[0]["area"] in [mask["area"] for mask in answer.json["masks"]]


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [[1, 2, 3]], "labels": [1]},
        {"points": [[1, 2]], "labels": [True]},
        {"points": [[1, 2]], "labels": []},
        {"points": [["a", 2]], "labels": [1]},
        {"points": [[1, 2]] * 101, "labels": [1] * 101},
        {"points": [[1, 1e300]], "labels": [1]},
        {"points": [], "labels": []},
        {"points": "all", "labels": [1]},
        {"box": [1, 2, 3]},
        {"box": [5, 5, 1, 1]},
        {"points": [[1, 2]], "labels": [1], "granularity": 7},
    ],
)
def test_prompts_that_make_no_sense_are_refused(server, prompt):
    answer = server.post(f"/api/images/{server.ids['sub/random']}/click", prompt)
    assert answer.status == 400
    assert answer.error.startswith("expected ")


def test_edits_are_acknowledged_once_they_are_on_disk_and_stale_ones_refused(server):
    path, output = f"/api/images/{server.ids['planted']}", server.site.folder.output
    answer = server.post(f"{path}/edits", {"version": 0, "edit": {"op": "delete", "ids": [1]}}).json
    assert answer["removed"] == [1]
    assert EditedTree.open(output / "planted.json").version == answer["version"] == 1
    stale = server.post(f"{path}/edits", {"version": 0, "edit": {"op": "delete", "ids": [2]}})
    assert (stale.status, "version 1" in stale.error) == (409, True)
    wrong = server.post(f"{path}/edits", {"version": 1, "edit": {"op": "delete", "ids": [77]}})
    assert wrong.status == 400
    assert server.get(f"{path}/tree").json["version"] == 1
    labels = np.frombuffer(server.get(f"{path}/map?version=1").body, "<u4").reshape(SIZE)
    assert labels[9, 9] == 1  # what was the leg is the body now
    undone = server.post(f"{path}/edits", {"version": 1, "edit": {"op": "undo"}}).json
    assert ([mask["id"] for mask in undone["masks"]][:1], undone["removed"]) == ([1], [])
    assert {i["name"]: i["edits"] for i in server.get("/api/images").json["images"]}["planted.png"] == 2


def test_answers_to_edits_make_the_next_tree_and_map(server):
    path = f"/api/images/{server.ids['planted']}"
    tree = server.get(f"{path}/tree").json
    labels = np.frombuffer(server.get(f"{path}/map").body, "<u4").reshape(SIZE).copy()
    edits = [
        {"op": "accept", "ids": [2]},
        {"op": "delete", "ids": [1]},
        {"op": "create", "polygon": [[2, 2], [12, 2], [12, 12], [2, 12]]},
        {"op": "undo"},
        {"op": "undo"},
        {"op": "accept", "ids": [2]},  # it is: nothing changes, and nothing is written
    ]
    has_map = []
    for edit in edits:
        answer = server.post(f"{path}/edits", {"version": tree["version"], "edit": edit}).json
        removed = answer.pop("removed")
        masks = {mask["id"]: mask for mask in tree["masks"] if mask["id"] not in removed}
        masks |= {mask["id"]: mask for mask in answer.pop("masks")}
        patch = answer.pop("map")
        has_map.append(patch is not None)
        if patch is not None:
            left, top, width, height = patch["box"]
            values = np.frombuffer(gzip.decompress(base64.b64decode(patch["labels"])), "<u4")
            labels[top : top + height, left : left + width] = values.reshape(height, width)
        tree = {**answer, "masks": [masks[id] for id in sorted(masks)]}
        assert tree == server.get(f"{path}/tree").json
        fresh = server.get(f"{path}/map?version={tree['version']}").body
        assert labels.tobytes() == fresh
    assert has_map == [False, True, True, True, True, False]


def test_exports_have_the_edits(server):
    path = f"/api/images/{server.ids['planted']}/edits"
    for version, edit in enumerate(
        (
            {"op": "reject", "ids": [1]},
            {"op": "classes", "names": ["cell"]},
            {"op": "class", "ids": [5], "class": "cell"},
        )
    ):
        assert server.post(path, {"version": version, "edit": edit}).status == 200
    answer = server.post("/api/export", {"format": "coco", "images": [server.ids["planted"]]})
    assert answer.headers["content-disposition"] == 'attachment; filename="masks.json"'
    annotations = answer.json["annotations"]
    assert len(annotations) == 5
    names = {category["id"]: category["name"] for category in answer.json["categories"]}
    assert [names[a["category_id"]] for a in annotations] == ["entity"] * 4 + ["cell"]
    archive = server.post("/api/export", {"format": "qupath", "images": None, "options": {"flat": True}})
    with zipfile.ZipFile(io.BytesIO(archive.body)) as files:
        assert sorted(files.namelist()) == ["planted.geojson", "sub/random.geojson"]
        assert len(json.loads(files.read("planted.geojson"))["features"]) == 5


@pytest.mark.parametrize(
    "body",
    [
        {"format": "docx"},
        {"format": "coco", "images": []},
        {"format": "coco", "images": [7]},
        {"format": "coco", "options": {"colour": 1}},
        {"format": "coco", "options": {"min_area": "x"}},
        {"format": "coco", "options": {"levels": [[1]]}},
        {"format": "coco", "options": {"granularity_range": [1]}},
        {"format": "coco", "options": {"min_score": 7}},
    ],
)
def test_exports_that_make_no_sense_are_refused(server, body):
    assert server.post("/api/export", body).status == 400


def test_uploads_are_stored_under_names_of_our_own(server):
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 20, 3), 90, np.uint8)).save(buffer, "PNG")
    files = {"../../Mein Bild.png": buffer.getvalue(), "CON.png": buffer.getvalue(), "notes.txt": b"x", "a.jpg": b"no"}
    answer = server.post("/api/upload", _multipart(files), headers={"Content-Type": "multipart/form-data; boundary=XX"})
    assert answer.status == 200
    assert [refused["name"] for refused in answer.json["refused"]] == ["notes.txt", "a.jpg"]
    stored = sorted(path.name for path in (server.site.folder.output / "uploads").iterdir())
    assert len(stored) == 2
    assert stored[0].startswith("CON-")
    assert stored[1].startswith("Mein-Bild-")
    images = {image["id"]: image for image in server.get("/api/images").json["images"]}
    assert [images[id]["width"] for id in answer.json["images"]] == [20, 20]
    assert server.get(f"/api/images/{answer.json['images'][0]}/picture").status == 200


def _multipart(files: dict[str, bytes]) -> bytes:
    parts = [
        f'--XX\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--XX--\r\n"


def test_a_tree_segmented_in_tiles_is_refused_in_one_line(server):
    entry = server.site.folder[server.ids["planted"]]
    header = {"file_name": str(entry.photo), "dendrogram": "planted.dendrogram.npz"}
    MaskTree.load(entry.tree).save(entry.tree, image=header)
    answer = server.get(f"/api/images/{entry.id}/tree")
    assert answer.status == 400
    assert "segmented in tiles" in answer.error
