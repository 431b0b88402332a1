"""What is exported comes back: the same pixels, and the hierarchy where the format has one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import FormatError, InputError
from masktree.export.formats import FORMATS
from masktree.export.options import ExportOptions
from masktree.importers.formats import IMPORTERS, guess_format
from masktree.importers.image import ForeignMask, filled, to_tree
from masktree.importers.label_image import read_label_image
from masktree.importers.label_studio import decode_brush
from masktree.stages.export import export
from masktree.stages.import_trees import import_trees
from masktree.trees import rle
from masktree.trees.file import read_header, read_tree_and_classes
from masktree.trees.masktree import MaskTree
from masktree.trees.polygons import fill_rings
from tests.export.planted import SIZE, fill, planted_image, planted_masks, planted_tree


@pytest.fixture
def trees(tmp_path) -> Path:
    """One tree, of the photograph photos/sub/a.png."""
    image = planted_image(tmp_path)
    planted_tree().save(tmp_path / "out/sub/a.json", image={"file_name": str(image.photo)})
    return tmp_path / "out"


def parents_by_mask(tree: MaskTree) -> dict[bytes, bytes | None]:
    return {
        mask: None if parent < 0 else tree.rles[parent]
        for mask, parent in zip(tree.rles, tree.parents.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("to", "target", "from_format", "options"),
    [
        ("coco", "all.json", "coco", {}),
        ("sa1b", "files", "sa1b", {}),
        ("label-studio", "all.json", "label-studio", {"image_prefix": "/data/local-files/?d="}),
        ("cvat", "all.xml", "cvat", {}),
        ("labelme", "files", "labelme", {}),
        ("qupath", "files", "qupath", {}),
        ("qupath", "files", "qupath", {"flat": True, "compress": True}),
    ],
)
def test_masks_and_hierarchy_survive(trees, tmp_path, to, target, from_format, options):
    export(trees, tmp_path / target, to, ExportOptions(**options))
    for given in (None, from_format):  # guessed, too
        back = tmp_path / f"back-{given}"
        assert import_trees(tmp_path / target, back, given, images=tmp_path / "photos").completed == 1
        tree, classes = read_tree_and_classes(back / "sub/a.json")
        assert parents_by_mask(tree) == parents_by_mask(planted_tree())
        order = [tree.rles.index(mask) for mask in planted_tree().rles]
        np.testing.assert_allclose(tree.scores[order], planted_tree().scores, atol=1e-5)
        names = ("whole", "part", "subpart", "subpart", "part", "part")
        if to in ("label-studio", "cvat", "labelme", "qupath"):
            assert tuple(classes[i] for i in order) == names
        header = read_header(back / "sub/a.json")
        assert header["file_name"] == str(tmp_path / "photos/sub/a.png")
        assert len(header["sha256"]) == 64


def test_classes_survive(trees, tmp_path):
    export(trees, tmp_path / "all.json", "coco", ExportOptions(classes={"part": "cell"}))
    import_trees(tmp_path / "all.json", tmp_path / "back")
    export(tmp_path / "back", tmp_path / "again.json", "coco")
    documents = [json.loads((tmp_path / name).read_text()) for name in ("all.json", "again.json")]
    names = [{category["id"]: category["name"] for category in d["categories"]} for d in documents]
    assert [[n[a["category_id"]] for a in d["annotations"]] for n, d in zip(names, documents, strict=True)] == [
        ["whole", "cell", "subpart", "subpart", "cell", "cell"]
    ] * 2


def test_label_images_become_the_regions_of_their_cuts(trees, tmp_path):
    export(trees, tmp_path / "labels", "label-tiff", ExportOptions(granularities=(0.1, 0.6)))
    import_trees(tmp_path / "labels", tmp_path / "back", images=tmp_path / "photos")
    tree = MaskTree.load(tmp_path / "back/sub/a.json")
    expected = set()
    for granularity in (0.1, 0.6):
        labels = planted_tree().cut(granularity)
        expected |= {rle.encode(labels == label) for label in np.unique(labels)}
    assert set(tree.rles) == expected
    assert len(tree) == len(expected)
    Image.fromarray(np.where(planted_masks()[1], 7, 0).astype(np.uint8)).save(tmp_path / "a.png")
    import_trees(tmp_path / "a.png", tmp_path / "png", "label-image")
    assert MaskTree.load(tmp_path / "png/a.json").rles == (planted_tree().rles[1],)


def test_polygons_that_people_drew_are_filled(tmp_path):
    ring = [[3, 2], [20, 2], [20, 12], [3, 12]]
    wanted = np.zeros(SIZE, bool)
    wanted[2:12, 3:20] = True
    documents = {
        "labelme": {
            "shapes": [{"label": "cell", "points": ring, "shape_type": "polygon"}],
            "imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1],
        },
        "label-studio": [{
            "data": {"image": "/data/upload/a.png"},
            "annotations": [{"result": [{
                "id": "x", "type": "polygonlabels", "original_width": SIZE[1], "original_height": SIZE[0],
                "value": {"points": [[x / SIZE[1] * 100, y / SIZE[0] * 100] for x, y in ring],
                          "polygonlabels": ["cell"]},
            }]}],
        }],
    }  # fmt: skip
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        import_trees(tmp_path / f"{name}.json", tmp_path / name)
        [file] = (tmp_path / name).rglob("a.json")
        tree, classes = read_tree_and_classes(file)
        np.testing.assert_array_equal(tree.mask(0), wanted)
        assert classes == ("cell",)
    points = ";".join(f"{x},{y}" for x, y in ring)
    (tmp_path / "c.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="{SIZE[1]}" height="{SIZE[0]}">'
        f'<polygon label="cell" points="{points}"/></image></annotations>'
    )
    import_trees(tmp_path / "c.xml", tmp_path / "cvat")
    np.testing.assert_array_equal(MaskTree.load(tmp_path / "cvat/a.json").mask(0), wanted)


def test_rings_are_filled_by_the_even_odd_rule(rng):
    for _ in range(20):
        rings = [rng.uniform(-10, 50, (rng.integers(3, 9), 2)) for _ in range(3)]
        np.testing.assert_array_equal(fill_rings(rings, SIZE), fill(rings))


def test_brushes_of_several_values_are_read():
    """A literal series and a repeated value, as the tool's own packer writes."""
    values = [0, 0, 0, 255, 9, 9, 9, 255, 0, 0, 0, 0]  # 1 x 3 pixels
    bits = f"{12:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{v:08b}" for v in values[:8])
    bits += "1" + "01" + f"{3:04b}" + f"{0:08b}"
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert rle.decode(decode_brush(packed, (1, 3)), (1, 3)).tolist() == [[True, True, False]]
    for damaged in (packed[:6], packed[:-2], [*packed[:3], 11, *packed[4:]], [300], "x", []):
        with pytest.raises(ValueError, match="run lengths"):
            decode_brush(damaged, (1, 3))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.json", '{"shapes": [{"points": [[1, 2]]}], "imageHeight": 5, "imageWidth": 5, "imagePath": "a.png"}', None),
        ("b.json", '{"shapes": [{"points": "x"}], "imageHeight": 5, "imageWidth": 5}', "shapes as LabelMe writes"),
        ("c.json", '{"shapes": [{"points": [[1, NaN], [2, 2], [3, 3]]}], "imageHeight": 5, "imageWidth": 5}', "finite"),
        ("d.json", '[{"data": {"image": "a.jpg"}, "annotations": [{"result": [5]}]}]', "regions as Label Studio"),
        ("e.json", '[{"data": 5}]', "the image of a task"),
        ("f.xml", "<annotations><image name='a.png' width='0' height='4'/></annotations>", "masks as CVAT"),
        (
            "m.xml",
            "<annotations><image name='a.png' width='9' height='9'><mask rle='1, 4' left='0' top='0' width='99999999' "
            "height='99999999'/></image></annotations>",
            "masks as CVAT",
        ),
        (
            "n.json",
            '{"shapes": [{"points": [[1e999, 1], [2, 2]], "shape_type": "mask", "mask": ""}], "imageHeight": 9, '
            '"imageWidth": 9}',
            "shapes as LabelMe",
        ),
        ("g.xml", "<annotations>", "XML of CVAT; got a damaged file"),
        ("l.xml", "<?xml version='1.0' encoding='utf-9'?><annotations/>", "XML of CVAT; got a damaged file"),
        ("h.geojson", '{"features": [{"geometry": null}]}', "give its folder with --images"),
        ("i.json", '{"hello": 1}', "name its format with --from"),
        ("j.tif", "II*", "a label image"),
    ],
)
def test_damage_is_answered_in_one_line(tmp_path, capsys, name, text, match):
    (tmp_path / name).write_text(text)
    code = cli.main(["import", str(tmp_path / name), "-o", str(tmp_path / "out")])
    said = " ".join(capsys.readouterr().err.split())
    assert (code == 0) is (match is None)
    assert match is None or match in said


def test_damaged_images_are_listed_and_the_others_imported(trees, tmp_path):
    export(trees, tmp_path / "files", "qupath")
    (tmp_path / "files/sub/b.geojson").write_bytes(gzip.compress(b'{"features": [{}]}'))
    Image.new("RGB", (9, 9)).save(tmp_path / "photos/sub/b.png")
    outcome = import_trees(tmp_path / "files", tmp_path / "back", images=tmp_path / "photos")
    assert outcome.completed == 1
    [failure] = json.loads((tmp_path / "back/failures.json").read_text())
    assert "objects as QuPath writes them" in failure["error"]
    assert import_trees(tmp_path / "files", tmp_path / "back", images=tmp_path / "photos").skipped == 1


def test_foreign_files_and_other_imports_stay(trees, tmp_path):
    export(trees, tmp_path / "all.json", "coco")
    (tmp_path / "back/sub").mkdir(parents=True)
    (tmp_path / "back/sub/a.json").write_text("mine")
    with pytest.raises(InputError, match="no foreign files where results go"):
        import_trees(tmp_path / "all.json", tmp_path / "back", overwrite=True)
    (tmp_path / "back/sub/a.json").unlink()
    import_trees(tmp_path / "all.json", tmp_path / "back")
    export(trees, tmp_path / "all.xml", "cvat")
    with pytest.raises(InputError, match=r"from \('coco' there, 'cvat' now\)"):
        import_trees(tmp_path / "all.xml", tmp_path / "back")
    assert import_trees(tmp_path / "all.xml", tmp_path / "back", overwrite=True).completed == 1
    Image.new("RGB", (9, 9)).save(tmp_path / "photos/sub/a.png")
    [failure] = import_trees(tmp_path / "all.json", tmp_path / "other", images=tmp_path / "photos").failures
    assert "of the photograph's size, 9 x 9; got 30 x 44" in failure["error"]


def test_what_is_no_mask_is_said_to_be_left_out(tmp_path, capsys):
    shape = {"label": "x", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon"}
    shapes = [shape, shape | {"shape_type": "point", "points": [[2, 2]]}]
    document = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 9, "imageWidth": 9}
    (tmp_path / "a.json").write_text(json.dumps(document))
    image = {"id": 1, "file_name": "a.png", "height": 9, "width": 9}
    boxes = [{"id": 1, "image_id": 1, "segmentation": [], "bbox": [1, 1, 2, 2]}]
    (tmp_path / "b.json").write_text(json.dumps({"images": [image], "annotations": boxes, "categories": []}))
    for name, text in (("a", "1 points, lines or circles left out"), ("b", "1 crowds and boxes left out")):
        assert cli.main(["import", str(tmp_path / f"{name}.json"), "-o", str(tmp_path / name)]) == 0
        assert text in " ".join(capsys.readouterr().err.split())


def test_label_images_of_absurd_sizes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("masktree.importers.label_image.MAX_PIXELS", 99)
    Image.fromarray(np.ones((10, 10), np.uint8)).save(tmp_path / "a.tif")
    [image] = read_label_image(tmp_path / "a.tif")
    with pytest.raises(FormatError, match="whole numbers as labels, at most 99 of them; got 100 values"):
        image.read(None)


def test_parents_are_checked_and_empty_masks_left_out():
    masks = [rle.encode(mask) for mask in planted_masks()[:3]]
    nothing = rle.encode(np.zeros(SIZE, bool))
    tree, classes = to_tree(
        SIZE, [ForeignMask(masks[0], 1), ForeignMask(nothing, 2, 1), ForeignMask(masks[2], 3, 2, "x")]
    )
    assert tree.parents.tolist() == [-1, 0]
    assert classes == ("", "x")
    with pytest.raises(FormatError, match="the parent of a mask in its image; got 9"):
        to_tree(SIZE, [ForeignMask(masks[0], 1, 9)])
    with pytest.raises(FormatError, match="each id of a mask once"):
        to_tree(SIZE, [ForeignMask(masks[0], 1), ForeignMask(masks[1], 1, 1)])
    by_coverage, _ = to_tree(SIZE, [ForeignMask(masks[0]), ForeignMask(masks[1])])
    assert by_coverage.parents.tolist() == [-1, 0]
    assert filled([[[0, 0], [4, 0], [4, 4]]], SIZE)


def test_every_importer_is_guessed(trees, tmp_path):
    targets = {"coco": "c.json", "label-studio": "l.json", "cvat": "c.xml"}
    for name in IMPORTERS:
        to = "label-tiff" if name == "label-image" else name
        target = tmp_path / targets.get(name, name)
        export(trees, target, to)
        files = [target] if target.is_file() else [p for p in target.rglob("*.*") if p.suffix and p.name[0] != "."]
        files = [file for file in files if file.name != "run.json"]
        assert [guess_format(file) for file in files] == [name]
        assert to in FORMATS
    with pytest.raises(InputError, match="got a tree of masktree"):
        guess_format(trees / "sub/a.json")
