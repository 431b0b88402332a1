"""The stage and the command: folders of trees, single trees and label sets become files of other tools."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import InputError
from masktree.export.options import ExportOptions
from masktree.stages.export import export
from masktree.trees.masktree import MaskTree
from tests.export.planted import planted_masks, planted_photo, planted_tree
from tests.train.labelled import write_labels

NAMES = ("a", "b", "sub/a")


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in NAMES:
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(planted_photo()).save(path)
    return tmp_path / "photos"


@pytest.fixture
def trees(tmp_path, photos) -> Path:
    """As masktree segment writes them."""
    for name in NAMES:
        planted_tree().save(tmp_path / "out" / f"{name}.json", image={"file_name": str(photos / f"{name}.png")})
    (tmp_path / "out/run.json").write_text("{}")
    return tmp_path / "out"


def files(folder: Path) -> list[str]:
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")
    )


def test_files_per_image_mirror_the_trees_and_are_kept(trees, tmp_path):
    target = tmp_path / "qupath"
    assert export(trees, target, "qupath").completed == 3
    assert files(target) == ["a.geojson", "b.geojson", "run.json", "sub/a.geojson"]
    before = (target / "b.geojson").stat().st_mtime_ns
    (target / "sub/a.geojson").unlink()  # as if the run had been killed
    planted_tree()[np.arange(6) < 4].save(trees / "a.json")
    outcome = export(trees, target, "qupath")
    assert (outcome.completed, outcome.skipped) == (2, 1)
    assert (target / "b.geojson").stat().st_mtime_ns == before
    assert '"mask_id":"5"' not in (target / "a.geojson").read_text()
    with pytest.raises(InputError, match=r"flat \(False there, True now\)"):
        export(trees, target, "qupath", ExportOptions(flat=True))
    with pytest.raises(InputError, match=r"to \('qupath' there, 'geojson' now\)"):
        export(trees, target, "geojson")
    assert export(trees, target, "qupath", ExportOptions(flat=True), overwrite=True).completed == 3
    assert "childObjects" not in (target / "b.geojson").read_text()


def test_damaged_trees_are_listed_and_the_others_written(trees, tmp_path, capsys):
    text = (trees / "b.json").read_text()
    (trees / "b.json").write_text(text[: len(text) // 2])
    assert cli.main(["export", str(trees), "--to", "imagej", "-o", str(tmp_path / "rois")]) == 1
    assert files(tmp_path / "rois") == ["a.zip", "failures.json", "quarantine.json", "run.json", "sub/a.zip"]
    [failure] = json.loads((tmp_path / "rois/failures.json").read_text())
    assert failure["path"] == str(trees / "b.json")
    for to, target in (("coco", "all.json"), ("yolo", "yolo")):
        assert cli.main(["export", str(trees), "--to", to, "-o", str(tmp_path / target)]) == 1
        said = capsys.readouterr()
        assert "2 done, 1 failed" in said.out
        assert f"failed: {trees / 'b.json'}: " in said.err
    document = json.loads((tmp_path / "all.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "sub/a.png"]
    (trees / "b.json").write_text(text)
    assert cli.main(["export", str(trees), "--to", "imagej", "-o", str(tmp_path / "rois")]) == 0
    assert files(tmp_path / "rois") == ["a.zip", "b.zip", "run.json", "sub/a.zip"]


def test_foreign_files_are_not_touched(trees, tmp_path):
    for to, name in (("qupath", "sub/a.geojson"), ("yolo", "whole/data.yaml")):
        target = tmp_path / to
        (target / name).parent.mkdir(parents=True)
        (target / name).write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(InputError, match=f"no foreign files where results go; got .*{name}"):
                export(trees, target, to, overwrite=overwrite)
        assert (target / name).read_text() == "mine"
        assert files(target) == [name]
    with pytest.raises(InputError, match="an output apart from the inputs"):
        export(trees, trees, "qupath")
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(InputError, match=r"all\.json, which exists; add --overwrite"):
        export(trees, tmp_path / "all.json", "coco")
    assert export(trees, tmp_path / "all.json", "coco", overwrite=True).completed == 3
    with pytest.raises(InputError, match=r"a file \*.xml for cvat; got .*folder"):
        export(trees, tmp_path / "folder", "cvat")
    (tmp_path / "segmented").mkdir()
    record = {"config": {"method": "masktree"}, "weights": {}, "versions": {}, "seconds": {}}
    (tmp_path / "segmented/run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="got results of another verb"):
        export(trees, tmp_path / "segmented", "qupath")


def test_a_folder_of_several_files_is_replaced_as_a_whole(trees, tmp_path):
    target = tmp_path / "yolo"
    assert export(trees, target, "yolo").completed == 3
    assert (target / "whole/labels/sub/a.txt").exists()
    assert export(trees, target, "yolo").skipped == 3
    (target / "mine.txt").write_text("mine")
    (trees / "sub/a.json").unlink()
    planted_tree().save(trees / "c.json", image={"file_name": str(tmp_path / "photos/a.png")})
    with pytest.raises(InputError, match="got others; add --overwrite"):
        export(trees, target, "yolo")
    assert export(trees, target, "yolo", overwrite=True).completed == 3
    assert not (target / "whole/labels/sub/a.txt").exists()
    assert (target / "whole/labels/c.txt").exists()
    assert (target / "mine.txt").read_text() == "mine"


def test_one_tree_becomes_one_file(trees, tmp_path):
    assert export(trees / "sub/a.json", tmp_path / "x.zip", "imagej").completed == 1
    assert (tmp_path / "x.zip").is_file()
    with pytest.raises(InputError, match="exists; add --overwrite"):
        export(trees / "sub/a.json", tmp_path / "x.zip", "imagej")
    export(trees / "sub/a.json", tmp_path / "rois", "imagej")
    assert files(tmp_path / "rois") == ["a.zip", "run.json"]


def test_label_sets_are_exported_with_their_sources(photos, tmp_path):
    names = [f"{name}.png" for name in NAMES]
    write_labels(tmp_path / "labels", photos, dict.fromkeys(names, planted_tree()), shard_size=2)
    assert export(tmp_path / "labels", tmp_path / "all.json", "coco").completed == 3
    document = json.loads((tmp_path / "all.json").read_text())
    assert [image["file_name"] for image in document["images"]] == names
    assert len(document["annotations"]) == 18
    export(tmp_path / "labels", tmp_path / "sa1b", "sa1b")
    assert files(tmp_path / "sa1b") == ["run.json", "sa_1.json", "sa_2.json", "sa_3.json"]
    os.rename(photos, tmp_path / "moved")
    assert export(tmp_path / "labels", tmp_path / "yolo", "yolo", images=tmp_path / "moved").completed == 3


def test_photographs_are_found_where_they_are_now(trees, photos, tmp_path):
    os.rename(photos, tmp_path / "moved")
    (tmp_path / "photos").mkdir()
    (tmp_path / "moved/b.png").rename(tmp_path / "photos/b.png")
    outcome = export(trees, tmp_path / "yolo", "yolo")
    assert outcome.completed == 1
    assert all("give its folder with --images" in failure["error"] for failure in outcome.failures)
    (tmp_path / "photos/b.png").rename(tmp_path / "moved/b.png")
    assert export(trees, tmp_path / "yolo", "yolo", images=tmp_path / "moved", overwrite=True).completed == 3
    Image.new("RGB", (7, 7)).save(tmp_path / "moved/b.png")
    outcome = export(trees, tmp_path / "a.csv", "csv", images=tmp_path / "moved")
    assert outcome.completed == 2
    assert "a photograph of 30 x 44 pixels; got 7 x 7" in outcome.failures[0]["error"]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 2 * 6


def test_a_selection_is_exported(trees, tmp_path):
    arguments = ["--level", "part", "--class-map", "part=cell", "--min-area", "5", "--min-score", "0.3"]
    target = tmp_path / "all.json"
    assert cli.main(["export", str(trees), "--to", "coco", "-o", str(target), *arguments]) == 0
    document = json.loads(target.read_text())
    assert [category["name"] for category in document["categories"]] == ["cell"]
    assert len(document["annotations"]) == 3 * 2
    assert document["annotations"][0]["area"] == planted_masks()[1].sum()


def test_a_real_photograph_goes_through_every_file(photos_of_examples, tmp_path):
    """Masks that ImageJ's, QuPath's and COCO's readers see are those of the tree."""
    roifile = pytest.importorskip("roifile", reason="roifile is not installed: pip install roifile.")
    from pycocotools.coco import COCO

    out = photos_of_examples
    tree = MaskTree.load(out / "coins.json")
    export(out / "coins.json", tmp_path / "a.json", "coco")
    coco = COCO(str(tmp_path / "a.json"))
    assert [a["segmentation"]["counts"].encode() for a in coco.anns.values()] == list(tree.rles)
    export(out / "coins.json", tmp_path / "a.zip", "imagej")
    rois = roifile.roiread(tmp_path / "a.zip")
    for index, roi in enumerate(rois):
        rings = [np.asarray(ring, float) for ring in roi.coordinates(multi=True)]
        area = sum(np.sum(r[:, 0] * np.roll(r[:, 1], -1) - np.roll(r[:, 0], -1) * r[:, 1]) / 2 for r in rings)
        assert area == tree.areas[index]


@pytest.fixture(scope="module")
def photos_of_examples(tmp_path_factory):
    import masktree
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("segmented")
    photo = Image.open(ROOT / "examples/photos/coins.jpg").convert("RGB")
    photo.thumbnail((96, 96))
    photo.save(folder / "coins.png")
    tree = masktree.load("texture")(folder / "coins.png")
    tree.save(folder / "out/coins.json", image={"file_name": str(folder / "coins.png")})
    return folder / "out"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--to", "imagej", "--flat"], "--flat with qupath; got it with imagej"),
        (["--to", "coco", "--image-prefix", "x"], "--image-prefix with label-studio; got it with coco"),
        (["--to", "qupath", "--image-size", "64"], "--image-size with --to onnx; got it with qupath"),
        (["--to", "onnx", "--level", "part"], "got options of masks as well"),
        (["--to", "qpath"], "did you mean qupath?"),
        (["--to", "qupath", "--class-map", "part"], "LEVEL=NAME after --class-map; got part"),
        (["--to", "qupath", "-g", "0.2", "0.5"], "expected up to 1 granularity with qupath; got 2"),
        (["--to", "ucm", "-g", "0.2"], "expected up to 0 granularities with ucm; got 1"),
        (["--to", "label-tiff", "--min-score", "0.2"], "label-tiff holds cuts, not masks; got options of masks"),
    ],
)
def test_wrong_options_are_answered_in_one_line(trees, tmp_path, capsys, arguments, match):
    code = cli.main(["export", str(trees), "-o", str(tmp_path / "x"), *arguments])
    said = capsys.readouterr().err
    assert code in (1, 2)
    assert match in said


def test_what_is_no_source_is_refused(tmp_path, photos):
    for source, match in (
        (tmp_path / "none", "got nothing at"),
        (photos, "got images at"),
        (photos / "a.png", "expected a tree file"),
    ):
        with pytest.raises(InputError, match=match):
            export(source, tmp_path / "x", "qupath")
