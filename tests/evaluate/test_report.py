"""The report: complete, self-contained, safe for any name, and honest about pictures it does not have."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from masktree.evaluate import thumbnails
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.harness import Evaluation
from masktree.evaluate.options import EvaluationOptions
from masktree.evaluate.report import MAX_PICTURES, render_report, write_report
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment import segment
from tests.evaluate.planted import SIZE, masks, results, tree, write_ground_truth, write_json, write_trees

MANY = tuple(f"{i:02d}.jpg" for i in range(30))


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects text and attributes."""

    VOID = frozenset({"meta", "img", "line", "rect", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def report(*arguments, **options):
    ready = Evaluation.open(*arguments, **options)
    result = ready.run(workers=1)
    return render_report(result, ready.cases), result


@pytest.mark.parametrize("protocol", ["ar", "points", "hierarchy"])
def test_a_report_holds_metrics_and_pictures_and_loads_nothing(tmp_path, protocol):
    ground_truth = write_ground_truth(tmp_path / "ground_truth")
    text, result = report(protocol, write_trees(tmp_path / "trees", shift=3), ground_truth)
    tags = Tags(text)
    words = " ".join(tags.words)
    assert all(name in words for name in result.metrics)
    assert "commit" in words or result.provenance["commit"] is None
    assert len(tags.images) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.images)
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert ("Recall by size" in words) == (protocol == "ar")
    picture = Image.open(io.BytesIO(base64.b64decode(tags.images[0].partition(",")[2])))
    assert picture.size == (SIZE[1], SIZE[0])


def test_at_most_24_pictures_each_once_and_the_worst_first(tmp_path):
    ground_truth = write_ground_truth(tmp_path / "ground_truth", MANY)
    trees = write_trees(tmp_path / "trees", MANY)
    for name in MANY[3:6]:
        tree()[np.array([False, False, True])].save(trees / f"{name[:-4]}.json")
    text, _ = report("ar", trees, ground_truth)
    assert len(Tags(text).images) <= 3 * MAX_PICTURES
    shown = re.findall(r"<b>(\d\d\.jpg)</b>", text)
    assert len(shown) == len(set(shown))
    assert set(shown[:3]) == set(MANY[3:6])
    assert "1 of 3 annotations found" in text


def test_without_photographs_it_says_so(tmp_path):
    ground_truth = write_ground_truth(tmp_path / "ground_truth")
    trees = write_trees(tmp_path / "trees")
    shutil.move(ground_truth.parent / "images" / "a.jpg", tmp_path / "a.jpg")
    text, _ = report("ar", trees, ground_truth)
    assert len(Tags(text).images) == 2
    assert "No pictures of 1 of 3 images" in text
    shutil.rmtree(ground_truth.parent / "images")
    text, result = report("ar", trees, ground_truth)
    assert Tags(text).images == []
    assert "No pictures of 3 of 3 images" in text
    assert "--images" in text
    assert f"{result.metrics['ar1000']:.4f}" in text


def test_photographs_of_another_size_or_damaged_are_named_in_their_place(tmp_path):
    ground_truth = write_ground_truth(tmp_path / "ground_truth")
    Image.new("RGB", (7, 7)).save(ground_truth.parent / "images" / "a.jpg")
    (ground_truth.parent / "images" / "c.jpg").write_bytes(b"words")
    text, _ = report("ar", write_trees(tmp_path / "trees"), ground_truth)
    assert len(Tags(text).images) == 1
    assert "got (7, 7)" in text
    assert "no image format" in text


def test_names_are_escaped(tmp_path):
    name = "<b>&'x'.jpg"
    ground_truth = write_ground_truth(tmp_path / "ground_truth", (name,))
    text, _ = report("ar", write_trees(tmp_path / "trees", (name,)), ground_truth)
    Tags(text)
    assert "&lt;b&gt;&amp;" in text
    assert name not in text


def test_box_matches_are_reported(tmp_path):
    ground_truth = write_ground_truth(tmp_path / "ground_truth")
    text, _ = report(
        "ar", write_json(tmp_path / "r.json", results()), ground_truth, EvaluationOptions(iou_type="boxes")
    )
    assert len(Tags(text).images) == 3
    assert "3 of 3 annotations found" in text


def test_a_consistency_report_draws_the_photographs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(photos / "a.png")
    segment([photos], tmp_path / "out", SegmenterConfig(backbone="texture", min_area=20), pictures=NO_PICTURES)
    text, _ = report("consistency", tmp_path / "out")
    assert len(Tags(text).images) == 1
    assert "granularity 0.5" in text


def test_a_report_is_written_without_temporary_files(tmp_path):
    ready = Evaluation.open("ar", write_trees(tmp_path / "trees"), write_ground_truth(tmp_path / "ground_truth"))
    write_report(tmp_path / "out" / "r.html", ready.run(workers=1), ready.cases)
    assert (tmp_path / "out" / "r.html").read_text().startswith("<!doctype html>")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["r.html"]


# --- thumbnails -------------------------------------------------------------------------------------------------------


def planted_truth():
    return ImageGroundTruth.from_masks(1, "a.jpg", SIZE, tree().rles)


def test_thumbnails_draw_found_and_missed_masks_in_place():
    grey = np.full((*SIZE, 3), 120, np.uint8)
    keep = np.array([True, True, False])
    picture, missed = thumbnails.draw_matches(grey, planted_truth(), ImageDetections.from_tree(tree()[keep]))
    assert missed == 1
    assert (grey == 120).all()
    inside = masks()
    assert (picture[15, 41] == thumbnails.MISSED_COLOUR).all()  # on the border of the third mask
    assert picture[15, 47].tolist() == [174, 98, 109]  # 40 % of the colour inside
    assert (picture[15, 4] == thumbnails.FOUND_COLOUR).all()
    assert (picture[28, 25] == 120).all()  # inside what was found, away from borders
    outside = ~inside.any(0)
    assert (picture[outside] <= 120).all()


def test_thumbnails_of_no_predictions_and_of_no_ground_truth():
    grey = np.full((*SIZE, 3), 120, np.uint8)
    none = ImageDetections.from_tree(tree()[np.zeros(3, bool)])
    assert thumbnails.draw_matches(grey, planted_truth(), none)[1] == 3
    empty = ImageGroundTruth.from_masks(1, "a.jpg", SIZE, [])
    picture, missed = thumbnails.draw_matches(grey, empty, none)
    assert missed == 0
    assert (picture == grey).all()


def test_large_images_become_small_and_small_masks_stay(rng):
    size = (1200, 2400)
    ground_truth = np.zeros((1, *size), np.bool_)
    ground_truth[0, 600:603, 1200:1203] = True  # less than a pixel of the thumbnail
    image = np.full((*size, 3), 200, np.uint8)
    none = ImageDetections.from_tree(tree()[np.zeros(3, bool)])
    from masktree.trees import rle

    picture, _ = thumbnails.draw_matches(
        image, ImageGroundTruth.from_masks(1, "a", size, [rle.encode(ground_truth[0])]), none
    )
    assert max(picture.shape) == thumbnails.MAX_SIDE
    assert (picture == thumbnails.MISSED_COLOUR).all(2).any()


def test_borders_of_a_tree_and_of_its_contour_map_agree():
    from masktree.cluster.merge import merge_tree
    from masktree.trees.masktree import MaskTree

    partition = merge_tree(np.random.default_rng(0).normal(size=(12, 16, 3)).astype(np.float32))
    partition = partition.with_altitudes(partition.altitudes / partition.altitudes.max())
    mask_tree = MaskTree.from_dendrogram(partition, min_area=1)
    image = np.zeros((12, 16, 3), np.uint8)
    by_tree = thumbnails.draw_boundaries(image, mask_tree, 0.6)
    by_map = thumbnails.draw_boundaries(image, partition.ucm(doubled=True), 0.6)
    assert (by_tree == by_map).mean() > 0.9
    assert (by_tree == thumbnails.BOUNDARY_COLOUR).all(2).any()
