"""The stage: sources on disk become a label set."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import FormatError, InputError
from masktree.labels import LabelSet
from masktree.labels.merge import MergeRule
from masktree.labels.sources import match_images, open_source
from masktree.predict import SegmenterConfig
from masktree.stages.export import export
from masktree.stages.merge import merge
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.train.labelled import write_labels

NAMES = ("a.png", "b.png", "sub/a.png", "sub/c.png")
SIZE = (40, 50)


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for index, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 40 * index, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def labels(photos, tmp_path) -> Path:
    """In every image two nested masks on the left, with scores .8 and .4, and one on the right with .6."""
    masks = np.stack([box(5, 2, 30, 20), box(10, 5, 10, 10), box(5, 30, 15, 15)])
    tree = MaskTree.from_masks(masks, scores=np.array([0.8, 0.4, 0.6], np.float32))
    write_labels(tmp_path / "labels", photos, dict.fromkeys(NAMES, tree), shard_size=3)
    return tmp_path / "labels"


def human(path: Path, *, names: tuple[str, ...] = NAMES[:3], size: tuple[int, int] = SIZE) -> Path:
    """A file as people's tools write it: a polygon, run lengths of both kinds, a crowd, an empty mask."""
    images, annotations = [], []
    for index, name in enumerate(names):
        images.append({"id": 7 + index, "file_name": name, "height": size[0], "width": size[1]})
        right = box(5, 30, 15, 14, size)
        low = box(30, 30, 5, 9, size)
        segmentations = [
            [[2, 12, 12, 12, 12, 22, 2, 22]],
            {"size": list(size), "counts": rle.encode(right).decode()},
            {"size": list(size), "counts": rle.counts(rle.encode(low), size)},
            {"size": list(size), "counts": rle.counts(rle.encode(low), size)},
            {"size": list(size), "counts": [size[0] * size[1]]},
            [],
        ]
        for k, segmentation in enumerate(segmentations):
            annotation = {"id": len(annotations), "image_id": 7 + index, "segmentation": segmentation, "category_id": 3}
            annotations.append(annotation | {"iscrowd": int(k == 3)})
    document = {"annotations": annotations, "images": images, "categories": [], "info": {"year": 2020, "ü": "ß"}}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "annotations").iterdir()}


def written_annotations(folder: Path) -> list[dict]:
    return [a for p in sorted((folder / "annotations").iterdir()) for a in json.loads(p.read_text())["annotations"]]


def test_human_masks_come_first_and_pseudo_masks_fill_the_rest(photos, labels, tmp_path):
    done = merge([human(tmp_path / "human.json"), labels], tmp_path / "both", MergeRule("fill"))
    assert (done.outcome.completed, done.outcome.failures) == (4, [])
    merged = LabelSet.open(tmp_path / "both", verify=True)
    trees = {image["file_name"]: tree for image, tree in merged}
    assert list(trees) == list(NAMES)
    # The polygon overlaps with the left masks, the human mask on the right with the other: nothing is added.
    assert [len(tree) for tree in trees.values()] == [3, 3, 3, 3]
    assert trees["a.png"].scores.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(trees["a.png"].mask(1), box(5, 30, 15, 14))
    assert trees["sub/c.png"].scores.tolist() == pytest.approx([0.8, 0.6, 0.4])  # no human looked at it
    assert trees["sub/c.png"].parents.tolist() == [-1, -1, 0]
    assert [a["source"] for a in written_annotations(tmp_path / "both")] == [0] * 9 + [1] * 3
    first, second = done.sources
    assert (first["kind"], first["images"], first["kept"], first["crowd"], first["empty"]) == ("coco", 3, 9, 3, 6)
    assert (second["kind"], second["images"], second["kept"], second["rejected"]) == ("labels", 4, 3, 9)
    assert merged.index["weights"]["label_free"] is False
    assert "Some sources may contain human labels" in (tmp_path / "both" / "card.md").read_text()
    assert merged.index["root"] == str(photos.resolve())


def test_a_looser_bound_adds_more(photos, labels, tmp_path):
    merge([human(tmp_path / "human.json"), labels], tmp_path / "both", MergeRule("fill", 0.5))
    # IoU of the polygon .17 and .39 with the masks on the left; .93 on the right.
    counts = {image["file_name"]: len(tree) for image, tree in LabelSet.open(tmp_path / "both")}
    assert counts == {"a.png": 5, "b.png": 5, "sub/a.png": 5, "sub/c.png": 3}


def test_union_does_not_depend_on_the_order_of_sources(labels, tmp_path):
    sources = [human(tmp_path / "human.json"), labels, human(tmp_path / "more.json", names=("sub/c.png",))]
    results = []
    for index, order in enumerate(((0, 1, 2), (2, 0, 1), (1, 2, 0))):
        out = tmp_path / f"out{index}"
        merge([sources[i] for i in order], out)
        results.append(content(out) | {"index": (out / "index.json").read_bytes().partition(b'"seconds_per_image"')[0]})
    assert results[1] == results[0]
    assert results[2] == results[0]
    # The masks on the right are near-copies (IoU .93): the human one has the higher score.
    assert [len(tree) for _, tree in LabelSet.open(tmp_path / "out0")] == [5, 5, 5, 5]


def test_a_merge_that_is_stopped_goes_on_to_the_same_result(labels, tmp_path, monkeypatch):
    from masktree.jobs import batch

    sources = [human(tmp_path / "human.json"), labels]
    merge(sources, tmp_path / "whole", shard_size=2)
    real = batch.run

    def stops_after_three(*arguments, **options):
        for count, result in enumerate(real(*arguments, **options)):
            if count == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(batch, "run", stops_after_three)
    with pytest.raises(KeyboardInterrupt):
        merge(sources, tmp_path / "out", shard_size=2)
    monkeypatch.setattr(batch, "run", real)
    assert merge(sources, tmp_path / "out", shard_size=2).outcome.skipped >= 3
    assert merge(sources, tmp_path / "out", shard_size=2).outcome.completed == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_results_for_others_are_read_by_their_tools_and_by_ours(labels, tmp_path):
    from pycocotools.coco import COCO

    from masktree.evaluate.datasets.sa1b import read_sa1b

    sources = [human(tmp_path / "human.json"), labels]
    merge(sources, tmp_path / "both", MergeRule("fill"))
    export(tmp_path / "both", tmp_path / "both.json", "coco")
    export(tmp_path / "both", tmp_path / "files", "sa1b")
    wanted = {image["file_name"]: tree for image, tree in LabelSet.open(tmp_path / "both")}
    coco = COCO(str(tmp_path / "both.json"))
    assert [image["file_name"] for image in coco.imgs.values()] == list(wanted)
    for annotation, written in zip(coco.anns.values(), written_annotations(tmp_path / "both"), strict=True):
        assert {key: annotation[key] for key in written.keys() - {"id", "parent_id"}} == {
            key: value for key, value in written.items() if key not in ("id", "parent_id")
        }
    assert all(coco.annToMask(a).sum() == a["area"] for a in coco.anns.values())
    files = sorted((tmp_path / "files").glob("sa_*.json"))
    assert [file.name for file in files] == ["sa_1.json", "sa_2.json", "sa_3.json", "sa_4.json"]
    document = json.loads(files[0].read_text())
    keys = {"id", "segmentation", "area", "bbox", "predicted_iou", "stability_score", "point_coords", "crop_box"}
    for annotation in document["annotations"]:
        assert keys < set(annotation)
        [[x, y]] = annotation["point_coords"]
        assert rle.decode(annotation["segmentation"]["counts"].encode(), SIZE)[int(y), int(x)]
    assert {a["source"] for a in document["annotations"]} == {0}
    reading = read_sa1b(tmp_path / "files", "")
    assert {i.name: set(i.masks()) for i in reading.images} == {n: set(t.rles) for n, t in wanted.items()}
    # And back again: each as the only source.
    for index, other in enumerate((tmp_path / "both.json", tmp_path / "files")):
        merge([other], tmp_path / f"again{index}", images=tmp_path / "photos")
        again = {image["file_name"]: tree for image, tree in LabelSet.open(tmp_path / f"again{index}")}
        for name, tree in wanted.items():
            assert sorted(again[name].rles) == sorted(tree.rles)
            assert sorted(again[name].scores) == sorted(tree.scores)


def test_sa1b_keeps_its_numbers(tmp_path):
    folder = tmp_path / "pack"
    folder.mkdir()
    for number, estimate in ((3, 1.02), (10, 0.9)):
        mask = rle.encode(box(3, 4, 5, 6))
        segmentation = {"size": list(SIZE), "counts": mask.decode()}
        image = {"image_id": number, "width": 50, "height": 40, "file_name": f"sa_{number}.jpg"}
        annotation = {"id": 1, "segmentation": segmentation, "predicted_iou": estimate, "stability_score": 0.95}
        (folder / f"sa_{number}.json").write_text(json.dumps({"image": image, "annotations": [annotation]}))
    others = human(tmp_path / "human.json", names=("sa_3.jpg",))
    with pytest.raises(InputError, match="one for all sources; got none; give --images FOLDER"):
        merge([folder, others], tmp_path / "out")
    for number in (3, 10):
        Image.new("RGB", SIZE[::-1]).save(folder / f"sa_{number}.jpg")
    merge([folder, others], tmp_path / "out")
    export(tmp_path / "out", tmp_path / "files", "sa1b")
    assert {p.name for p in (tmp_path / "files").glob("sa_*")} == {"sa_3.json", "sa_10.json"}
    document = json.loads((tmp_path / "files/sa_3.json").read_text())
    assert document["image"]["image_id"] == 3
    assert {a["predicted_iou"] for a in document["annotations"]} == {1.0}


def test_images_of_another_size_and_damaged_masks_fail_and_the_rest_goes_on(labels, tmp_path):
    other = human(tmp_path / "other.json", names=("a.png",), size=(60, 60))
    document = json.loads(human(tmp_path / "human.json", names=("b.png", "missing.png")).read_text(encoding="utf-8"))
    document["annotations"][1]["segmentation"]["counts"] = "?"
    (tmp_path / "human.json").write_text(json.dumps(document))
    done = merge([labels, tmp_path / "human.json", other], tmp_path / "out")
    assert [Path(f["path"]).name for f in done.outcome.failures] == ["a.png", "b.png"]
    assert "40 x 50 in " in done.outcome.failures[0]["error"]
    assert "image 7 (b.png), annotation 1: expected run lengths" in done.outcome.failures[1]["error"]
    assert len(LabelSet.open(tmp_path / "out")) == 2
    assert [source["missing"] for source in done.sources if source["path"].endswith("human.json")] == [1]
    assert json.loads((tmp_path / "out/missing.json").read_text()) == {str(tmp_path / "human.json"): ["missing.png"]}


@pytest.mark.parametrize(
    ("image", "photographs", "wanted"),
    [
        ("a/1.jpg", ("a/1.jpg", "b/1.jpg", "1.jpg"), "a/1.jpg"),
        ("1.jpg", ("a/1.jpg", "b/2.jpg"), "a/1.jpg"),
        ("/home/me/a/1.jpg", ("a/1.jpg", "b/1.jpg"), "a/1.jpg"),
        ("1.png", ("1.jpg", "2.jpg"), "1.jpg"),
        ("1.png", ("1.jpg", "1.png"), "1.png"),
        ("b/1.jpg", ("a/1.jpg",), None),
        ("11.jpg", ("1.jpg",), None),
        ("1", ("1.jpg",), "1.jpg"),
        ("images/sub/1.jpg", ("1.jpg", "sub/1.jpg"), "sub/1.jpg"),
        ("images/1.jpg", ("1.jpg", "sub/1.jpg"), "1.jpg"),
    ],
)
def test_an_image_is_the_photograph_whose_path_is_its_end(image, photographs, wanted):
    found, missing = match_images([image], photographs, "it")
    assert found == ({wanted: image} if wanted else {})
    assert missing == ([] if wanted else [image])


def test_names_that_fit_twice_are_refused():
    with pytest.raises(InputError, match=r"it: .*1.jpg could be a/1.jpg or b/1.jpg"):
        match_images(["1.jpg"], ["a/1.jpg", "b/1.jpg"], "it")
    with pytest.raises(InputError, match=r"got a/1.jpg and 1.jpg; use the paths"):
        match_images(["a/1.jpg", "1.jpg"], ["1.jpg"], "it")


def test_what_cannot_be_merged_is_refused(photos, labels, tmp_path):
    file = human(tmp_path / "human.json")
    shutil.copytree(labels, tmp_path / "copy")
    shutil.copytree(photos, tmp_path / "moved")
    index = json.loads((tmp_path / "copy/index.json").read_text())
    (tmp_path / "empty").mkdir()
    MaskTree.from_masks(box(1, 1, 2, 2)[None]).save(tmp_path / "trees/a.json")
    for sources, match in (
        ([], "at least one source"),
        ([labels, labels], "each source once; got .*labels and .*labels with the same content"),
        ([labels, tmp_path / "copy"], "with the same content"),
        ([tmp_path / "none"], "got nothing at"),
        ([tmp_path / "empty"], "got an empty folder at"),
        ([file], "one for all sources; got none; give --images"),
        ([photos], "got images at .*; check the path, or run masktree discover"),
        ([labels / "index.json"], "got the file of a label set at"),
        ([tmp_path / "trees"], r"got trees of masktree segment \(.*a.json\); use masktree discover"),
    ):
        with pytest.raises(InputError, match=match):
            merge(sources, tmp_path / "out")
    with pytest.raises(InputError, match="expected an output apart from the inputs"):
        merge([labels], labels)
    with pytest.raises(InputError, match=r"labels: expected images of the photographs in .*empty; got 4 others"):
        merge(
            [labels],
            tmp_path / "out",
            images=tmp_path / "empty" if (tmp_path / "empty/x.png").touch() is None else None,
        )
    assert not (tmp_path / "out").exists()
    merge([file, labels], tmp_path / "out", MergeRule("fill"))
    with pytest.raises(InputError, match=r"iou \(0.02 there, 0.5 now\)"):
        merge([file, labels], tmp_path / "out", MergeRule("fill", 0.5))
    with pytest.raises(InputError, match=r"sources \("):
        merge([labels, file], tmp_path / "out", MergeRule("fill"))
    merge([labels, file], tmp_path / "out", MergeRule("fill"), overwrite=True)
    index["root"] = str(tmp_path / "moved")
    shard = tmp_path / "copy/annotations/00000.json"
    shard.write_text(shard.read_text().replace('"score": 0.4', '"score": 0.5'))
    with pytest.raises(FormatError, match="differs from the hash"):
        open_source(tmp_path / "copy")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the end of the file at byte 0"),
        ("[]", "got a list of results"),
        ('{"images": [], "annotations": [', "at byte 31"),
        (
            '{"images": [{"id": 1, "height": 4, "width": 4}], "annotations": []}',
            "expected a file_name below some folder",
        ),
        ('{"annotations": []}', "expected a list of records 'images'"),
        ('{"images": [], "annotations": [{"image_id": 4}]}', "image 4, annotation None: expected an image of the file"),
        ('{"images": [], "annotations": [{"image_id": "4"}]}', "whole number 'image_id'; got '4'"),
        ('{"images": [], "annotations": [{"image_id": 4},]}', "a comma before the end"),
        ('{"images": ' + "[" * 90_000, "brackets too deep|at byte"),
        ('{"images": [], "annotations": [{"image_id": "' + "x" * 3_000_000, "Unterminated string"),
        (
            '{"images": [{"id": 1, "file_name": "../a.png", "height": 4, "width": 4}], "annotations": []}',
            "got '../a.png'",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png", "height": 0, "width": 4}]}',
            "at least 1 x 1 and fewer than 2.31 pixels",
        ),
        ('{"images": [{"id": 1, "file_name": "a.png", "height": 1.5, "width": 4}]}', "whole number 'height'; got 1.5"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, match):
    (tmp_path / "human.json").write_text(text)
    with pytest.raises(FormatError, match=match) as error:
        open_source(tmp_path / "human.json")
    assert str(tmp_path / "human.json") in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"score": 1.5}, r"score in \[0, 1\]; got 1.5"),
        ({"predicted_iou": -1}, r"predicted_iou in \[0, 1\]; got -1"),
        ({"iscrowd": 2}, "iscrowd 0 or 1; got 2"),
        ({"segmentation": [[1, 2, 3]]}, "polygons as lists"),
        ({"segmentation": {"size": [3, 3], "counts": "9"}}, "a mask of its image's size"),
    ],
)
def test_damaged_annotations_are_named(tmp_path, change, match):
    document = json.loads(human(tmp_path / "human.json").read_text(encoding="utf-8"))
    document["annotations"][0] |= change
    (tmp_path / "human.json").write_text(json.dumps(document))
    source = open_source(tmp_path / "human.json")
    with pytest.raises(FormatError, match=rf"image 7 \(a.png\), annotation 0: .*{match}"):
        source.read("a.png", 0)
    assert len(source.read("b.png", 3).pool) == 3


def test_records_are_found_whatever_the_blocks(tmp_path, monkeypatch):
    """Blocks end inside names, numbers and between the bytes of a letter."""
    path = human(tmp_path / "human.json")
    whole = open_source(path)
    rles = {name: whole.read(name, 0).pool.rles for name in whole.images}
    for block in (1, 7, 64):
        monkeypatch.setattr("masktree.coco.json_entries._BLOCK_BYTES", block)
        source = open_source(path)
        assert list(source.images) == list(whole.images)
        assert {name: source.read(name, 0).pool.rles for name in source.images} == rles
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_source(path).read("a.png", 0).pool.rles == rles["a.png"]
    path.write_bytes(path.read_bytes() + b" " * 9)
    sent = pickle.loads(pickle.dumps(open_source(path)))  # to a worker process
    assert sent.read("b.png", 0).pool.rles == rles["b.png"]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = human(tmp_path / "human.json")
    source = open_source(path)
    path.write_text(path.read_text(encoding="utf-8").replace('"image_id": 7', '"image_id": 8'))
    with pytest.raises(FormatError, match="expected an unchanged file"):
        source.read("a.png", 0)


def test_the_command_says_what_became_of_each_source(labels, tmp_path, capsys):
    file = str(human(tmp_path / "human.json"))
    out = tmp_path / "out"
    assert cli.main(["merge", file, str(labels), "-o", str(out), "--rule", "fill"]) == 0
    text = capsys.readouterr().out
    assert f"{file}: 3 images, 9 masks kept, 3 crowds left out, 6 empty masks left out" in text
    assert f"{labels}: 4 images, 3 masks kept, 9 masks rejected" in text
    assert "4 done; results in" in text
    assert cli.main(["merge", file, "-o", str(out), "--iou", "7"]) == 2
    assert "an IoU in [0, 1]" in capsys.readouterr().err
    assert cli.main(["info", "labels", str(out)]) == 0
    assert "merge (fill)" in capsys.readouterr().out
    with pytest.raises(FormatError, match=r"expected labels of a method or a model; got those of 'merge \(fill\)'"):
        SegmenterConfig.from_folder(out)


@pytest.mark.parametrize(("recorded", "expected"), [(True, True), (False, False), (None, False)])
def test_a_merged_set_is_label_free_only_if_its_source_is_known_to_be(labels, tmp_path, recorded, expected):
    index = json.loads((labels / "index.json").read_text())
    index["weights"] = {"name": "x"} if recorded is None else {"name": "x", "label_free": recorded}
    (labels / "index.json").write_text(json.dumps(index))
    merge([labels], tmp_path / "out")
    assert LabelSet.open(tmp_path / "out").index["weights"]["label_free"] is expected
    assert open_source(tmp_path / "out").label_free is expected
    card = (tmp_path / "out/card.md").read_text()
    assert ("may contain human labels" in card) is not expected
