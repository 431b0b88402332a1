"""All protocols on planted data: known scores, the same from one process or two, and nothing skipped."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import masktree
from masktree.errors import FormatError, InputError
from masktree.evaluate import result as result_module
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.ground_truth import hash_names
from masktree.evaluate.harness import Evaluation, evaluate
from masktree.evaluate.metrics import METRICS, format_value
from masktree.evaluate.options import EvaluationOptions
from masktree.evaluate.points import evaluate_predictor
from masktree.evaluate.protocols import PROTOCOLS
from masktree.evaluate.result import EvaluationResult, source_commit
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment import segment
from tests.evaluate.planted import NAMES, SIZE, masks, results, tree, write_ground_truth, write_json, write_trees


def only_images(folder, names):
    (folder / "only.txt").write_text("\n".join(names))
    return EvaluationOptions(only=folder / "only.txt")


@pytest.fixture
def ground_truth(tmp_path):
    return write_ground_truth(tmp_path / "ground_truth")


@pytest.fixture
def trees(tmp_path):
    return write_trees(tmp_path / "trees")


@pytest.fixture
def bsds(tmp_path):
    """BSDS500 with two images of the split val, and trees whose cut at .5 is what one of two people drew."""
    folder, predicted = tmp_path / "BSDS500", tmp_path / "predicted"
    (folder / "images" / "val").mkdir(parents=True)
    (folder / "groundTruth" / "val").mkdir(parents=True)
    halves = np.zeros(SIZE, np.uint16)
    halves[:, 30:] = 1
    quarters = halves + 2 * (np.arange(SIZE[0]) >= 20)[:, None].astype(np.uint16)
    for name in ("11", "22"):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "images" / "val" / f"{name}.jpg")
        cell = np.empty((1, 2), object)
        for person, labels in enumerate((halves, quarters)):
            edges = np.zeros(SIZE, np.uint8)
            edges[:, :-1] = labels[:, :-1] != labels[:, 1:]
            edges[:-1] |= labels[:-1] != labels[1:]
            cell[0, person] = {"Segmentation": labels + 1, "Boundaries": edges}
        savemat(folder / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cell})
        partition = masktree.PartitionTree.from_merges(
            quarters.astype(np.int32), np.array([[0, 2], [1, 3], [4, 5]]), np.array([0.2, 0.3, 0.8])
        )
        predicted.mkdir(exist_ok=True)
        masktree.MaskTree.from_dendrogram(partition).save(predicted / f"{name}.json")
    return folder, predicted


def test_perfect_predictions_score_perfectly(ground_truth, trees):
    result = evaluate("ar", trees, ground_truth)
    assert result.metrics["ar1000"] == 1
    assert result.metrics["ap"] == pytest.approx(1)
    assert result.metrics["ar_l"] is None  # nothing so large
    hierarchy = evaluate("hierarchy", trees, ground_truth).metrics
    assert hierarchy["parent_child_f1"] == 1
    assert hierarchy["nesting"] == 1
    clicks = evaluate("points", trees, ground_truth).metrics
    assert clicks["oracle_iou"] == 1
    assert clicks["noc90_oracle"] == 1
    assert clicks["noc90"] >= 1


def test_every_metric_has_a_meaning(ground_truth, trees, bsds):
    found = [evaluate(protocol, trees, ground_truth).metrics for protocol in ("ar", "points", "hierarchy")]
    found.append(evaluate("bsds", bsds[1], bsds[0], EvaluationOptions(check_counts=False)).metrics)
    for metrics in found:
        assert set(metrics) <= set(METRICS)
    assert all(protocol.main_metric in METRICS for protocol in PROTOCOLS.values())


def test_boxes_are_scored_by_the_protocol_ar_only(tmp_path, ground_truth):
    path = write_json(tmp_path / "r.json", results(shift=4))
    loose = evaluate("ar", path, ground_truth).metrics["ar1000"]
    boxes = evaluate("ar", path, ground_truth, EvaluationOptions(iou_type="boxes")).metrics["ar1000"]
    assert 0 < loose < 1
    assert boxes == loose  # the planted masks are boxes
    with pytest.raises(InputError, match="boxes for the protocol ar only"):
        evaluate("hierarchy", path, ground_truth, EvaluationOptions(iou_type="boxes"))


def test_workers_and_order_make_no_difference(tmp_path, ground_truth, trees):
    one = evaluate("ar", trees, ground_truth, workers=1)
    two = evaluate("ar", trees, ground_truth, workers=2)
    assert one.names == two.names == NAMES
    assert one.stats == two.stats
    assert one.metrics == two.metrics


def test_bsds_folders_are_evaluated_by_split(bsds):
    folder, predicted = bsds
    result = evaluate("bsds", predicted, folder, EvaluationOptions(check_counts=False))
    assert result.settings == {"split": "val", "boundaries": True}
    assert result.metrics["covering_best"] == 1  # each drawing is some cut
    assert result.metrics["covering_ods"] == pytest.approx(0.75)
    assert result.metrics["f_ods"] > 0.9
    assert (
        evaluate("bsds", predicted, folder, EvaluationOptions(boundaries=False, check_counts=False)).metrics["f_ods"]
        is None
    )
    assert evaluate("ar", predicted, folder, EvaluationOptions(check_counts=False)).dataset == "bsds500"
    (folder / "groundTruth" / "test").mkdir()
    with pytest.raises(InputError, match="expected --split, one of test, val; got none"):
        evaluate("bsds", predicted, folder)
    assert evaluate("bsds", predicted, folder, EvaluationOptions(split="val", check_counts=False)).stats == result.stats


def test_bsds_counts_are_checked(bsds):
    with pytest.raises(InputError, match=r"100 images; got 2"):
        evaluate("bsds", bsds[1], bsds[0])


def test_consistency_is_evaluated_without_ground_truth(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        blocks = np.random.default_rng(ord(name[0])).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((64, 48), Image.Resampling.NEAREST).save(photos / name)
    out = tmp_path / "out"
    segment([photos], out, SegmenterConfig(backbone="texture", min_area=20), pictures=NO_PICTURES)
    result = evaluate("consistency", out)
    assert result.names == ("a", "b")
    assert 0.3 < result.metrics["stability"] <= 1
    assert set(result.metrics) <= set(METRICS)
    assert result.provenance["configuration"]["min_area"] == 20
    assert evaluate("consistency", out, None, only_images(tmp_path, ["b.png"])).names == ("b",)
    with pytest.raises(InputError, match="got none for c"):
        evaluate("consistency", out, None, only_images(tmp_path, ["c.png"]))
    moved = tmp_path / "moved"
    photos.rename(moved)
    with pytest.raises(InputError, match=r"expected the photograph of a; .*--images"):
        evaluate("consistency", out)
    assert evaluate("consistency", out, options=EvaluationOptions(images=moved)).metrics == result.metrics
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(moved / "a.png")
    with pytest.raises(InputError, match=r"a.png: expected the photograph that was segmented; got a changed one"):
        evaluate("consistency", out, options=EvaluationOptions(images=moved))
    with pytest.raises(InputError, match="no ground truth for the protocol consistency"):
        evaluate("consistency", out, moved)
    run = json.loads((out / "run.json").read_text())
    write_json(out / "run.json", run | {"versions": {"masktree": "0.0.1"}})
    with pytest.raises(InputError, match=r"trees of this version .* got 0.0.1; segment again"):
        evaluate("consistency", out, options=EvaluationOptions(images=moved))
    (out / "run.json").unlink()
    with pytest.raises(InputError, match=r"expected run.json beside the trees"):
        evaluate("consistency", out, options=EvaluationOptions(images=moved))


def test_consistency_accepts_trees_only(tmp_path):
    with pytest.raises(InputError, match=r"r.json: expected a folder of masktree segment; got COCO results"):
        evaluate("consistency", write_json(tmp_path / "r.json", results()))


def test_a_list_restricts_both_sides(tmp_path, ground_truth, trees):
    result = evaluate("ar", trees, ground_truth, only_images(tmp_path, ["a.jpg", "c.jpg"]))
    assert result.names == ("a.jpg", "c.jpg")
    assert result.provenance["list_sha256"] == hash_names(["c.jpg", "a.jpg"])
    with pytest.raises(InputError, match=r"z.jpg"):
        evaluate("ar", trees, ground_truth, only_images(tmp_path, ["z.jpg"]))


def test_empty_images_count_and_are_reported(tmp_path, ground_truth):
    path = write_json(tmp_path / "r.json", results(images=2))
    result = evaluate("ar", path, ground_truth, EvaluationOptions(allow_empty=True))
    assert result.metrics["ar1000"] == pytest.approx(2 / 3)
    assert result.provenance["empty"] == 1
    assert "nothing found in 1" in result.table()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_cannot_be_scored_ends_it(ground_truth, trees, workers):
    text = (trees / "c.json").read_text()
    (trees / "c.json").write_text(text.replace('"score": 0.9', '"score": "?"'))
    with pytest.raises(InputError, match=r"c.*damaged tree"):
        evaluate("ar", trees, ground_truth, workers=workers)


def test_wrong_arguments_raise_an_input_error(tmp_path, ground_truth, trees, bsds):
    for arguments, message in (
        (("arr", trees, ground_truth), "expected protocol to be one of ar, points"),
        (("ar", trees), "expected ground truth for the protocol ar; got none"),
        (("ar", trees, tmp_path / "none"), "got nothing at "),
        (("ar", trees, tmp_path / "trees"), "expected a COCO json file or the folder of BSDS500"),
        (("bsds", trees, ground_truth), "expected the folder of BSDS500 for the protocol bsds; got the data set json"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(*arguments)
    with pytest.raises(InputError, match="workers >= 0; got -1"):
        evaluate("ar", trees, ground_truth, workers=-1)
    with pytest.raises(InputError, match="expected a data set of"):
        evaluate("ar", trees, ground_truth, EvaluationOptions(dataset="coca"))
    savemat(tmp_path / "a.mat", {"ucm2": np.zeros((81, 121))})
    (tmp_path / "ucm").mkdir()
    (tmp_path / "a.mat").rename(tmp_path / "ucm" / "a.mat")
    with pytest.raises(InputError, match="expected masks for the protocol ar; got contour maps"):
        evaluate("ar", tmp_path / "ucm", ground_truth)


def test_any_predictor_is_scored(tmp_path, ground_truth, trees):
    class OfThePlanted:
        """segment-anything's interface around a tree; remembers what images it was given."""

        def __init__(self) -> None:
            self.seen: list[tuple[int, ...]] = []
            self.tree = masktree.Predictor(tree())

        def set_image(self, image):
            self.seen.append(image.shape)

        def predict(self, point_coords, point_labels, multimask_output=True):
            return self.tree.predict(point_coords, point_labels, multimask_output=multimask_output)

    predictor = OfThePlanted()
    known = read_ground_truth("json", ground_truth)
    result = evaluate_predictor(predictor, known, ground_truth.parent / "images", name="planted")
    assert result.metrics == evaluate("points", trees, ground_truth).metrics
    assert set(predictor.seen) == {(*SIZE, 3)}
    with pytest.raises(InputError, match=r"expected the photograph of a.jpg"):
        evaluate_predictor(predictor, known, tmp_path)
    Image.new("RGB", (5, 5)).save(ground_truth.parent / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg: expected masks of 40 x 60 .* got 5 x 5"):
        evaluate_predictor(predictor, known, ground_truth.parent / "images")


def test_results_are_unchanged_by_writing_and_reading(tmp_path, ground_truth, trees):
    result = evaluate("ar", trees, ground_truth)
    result.write(tmp_path / "r.json")
    read = EvaluationResult.read(tmp_path / "r.json")
    assert (read.metrics, read.names, read.stats) == (result.metrics, result.names, result.stats)
    assert read.provenance == result.provenance
    assert read.table() == result.table()
    made = read.provenance
    assert made["images"] == 3
    assert made["predictions"] == "trees"
    assert made["ground_truth"] == "ground_truth/annotations.json"
    assert made["list_sha256"] == hash_names(image.name for image in read_ground_truth("json", ground_truth).images)
    assert made["masktree"] == masktree.__version__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "masktree"}, "expected a result of masktree evaluate; got 'masktree'"),
        ({"version": 2}, "expected version 1; got 2"),
        ({"metrics": {"ar10": "x"}}, "expected finite metrics; got 'x' for ar10"),
        ({"metrics": []}, "no proper metrics"),
        ({"images": []}, "expected images with a name"),
        ({"images": [{"name": "a", "stats": {}}] * 2}, "each once"),
        ({"images": [{"name": 3, "stats": {}}]}, "expected images with a name"),
    ],
)
def test_damaged_results_raise_a_format_error(tmp_path, ground_truth, trees, change, message):
    evaluate("ar", trees, ground_truth).write(tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text()) | change
    with pytest.raises(FormatError, match=f"r.json: .*{message}"):
        EvaluationResult.read(write_json(tmp_path / "r.json", document))


def test_commit_is_that_of_the_checkout(monkeypatch):
    commit = source_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40

    def without_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", without_git)
    assert result_module.source_commit() is None


def test_cases_know_their_photographs(ground_truth, trees):
    ready = Evaluation.open("ar", trees, ground_truth)
    assert [case.photo.is_file() for case in ready.cases] == [True] * 3
    assert ready.cases[1].size == SIZE
    assert len(masks()) == len(ready.cases[0].ground_truth)


def test_tables_show_four_decimals_and_two_from_ten_up():
    assert [format_value(v) for v in (None, 0.12345, -0.5, 12.345, 300.0)] == [
        "-",
        "0.1235",
        "-0.5000",
        "12.35",
        "300.00",
    ]
