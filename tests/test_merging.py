"""The stage: sources on disk become a label set, a COCO file or a folder of SA-1B."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli, rle
from masktree.errors import FormatError, InputError
from masktree.labels import LabelSet
from masktree.labels.merge import Rule
from masktree.labels.sources import match_images, open_source
from masktree.masks import MaskTree
from masktree.merging import merge
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


def annotations(folder: Path) -> list[dict]:
    return [a for p in sorted((folder / "annotations").iterdir()) for a in json.loads(p.read_text())["annotations"]]


def test_human_masks_come_first_and_pseudo_masks_fill_the_rest(photos, labels, tmp_path):
    done = merge([human(tmp_path / "human.json"), labels], tmp_path / "both", Rule("add"))
    assert (done.outcome.done, done.outcome.failures) == (4, [])
    merged = LabelSet.open(tmp_path / "both", verify=True)
    trees = {image["file_name"]: tree for image, tree in merged}
    assert list(trees) == list(NAMES)
    # The polygon overlaps with the left masks, the human mask on the right with the other: nothing is added.
    assert [len(tree) for tree in trees.values()] == [3, 3, 3, 3]
    assert trees["a.png"].scores.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(trees["a.png"].mask(1), box(5, 30, 15, 14))
    assert trees["sub/c.png"].scores.tolist() == pytest.approx([0.8, 0.6, 0.4])  # no human looked at it
    assert trees["sub/c.png"].parents.tolist() == [-1, -1, 0]
    assert [a["source"] for a in annotations(tmp_path / "both")] == [0] * 9 + [1] * 3
    first, second = done.sources
    assert (first["kind"], first["images"], first["kept"], first["crowd"], first["empty"]) == ("coco", 3, 9, 3, 6)
    assert (second["kind"], second["images"], second["kept"], second["rejected"]) == ("labels", 4, 3, 9)
    assert merged.index["weights"]["label_free"] is False
    assert "Some sources may be made by people" in (tmp_path / "both" / "card.md").read_text()
    assert merged.index["root"] == str(photos.resolve())


def test_a_looser_bound_adds_more(photos, labels, tmp_path):
    merge([human(tmp_path / "human.json"), labels], tmp_path / "both", Rule("add", 0.5))
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
    from masktree import batch

    sources = [human(tmp_path / "human.json"), labels]
    merge(sources, tmp_path / "whole", shard_size=2)
    real = batch.run

    def stops_after_three(*arguments, **options):
        for count, result in enumerate(real(*arguments, **options)):
            if count == 3:
                raise KeyboardInterrupt
            yield result

    for to in ("labels", "coco"):
        monkeypatch.setattr(batch, "run", stops_after_three)
        with pytest.raises(KeyboardInterrupt):
            merge(sources, tmp_path / f"out.{to}", shard_size=2, to=to)
        monkeypatch.setattr(batch, "run", real)
        assert merge(sources, tmp_path / f"out.{to}", shard_size=2, to=to).outcome.kept >= 3
        assert merge(sources, tmp_path / f"out.{to}", shard_size=2, to=to).outcome.done == 0
    assert content(tmp_path / "out.labels") == content(tmp_path / "whole")
