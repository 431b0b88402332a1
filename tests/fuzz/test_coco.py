"""COCO files: ground truth, predictions, sources of a merge, and the results of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masktree.coco.file import open_sa1b
from masktree.errors import FormatError
from masktree.evaluate import recall
from masktree.evaluate.compare import compare
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.harness import evaluate
from masktree.evaluate.predictions import open_predictions, pair
from masktree.evaluate.result import EvaluationResult
from masktree.labels.sources import open_source
from tests.evaluate.planted import SIZE, results, write_ground_truth, write_trees

from .mutations import mutated_json
from .target import fuzz


@pytest.fixture(scope="module")
def ground_truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ground_truth(tmp_path_factory.mktemp("ground_truth"))


@pytest.fixture(scope="module")
def documents(ground_truth: Path) -> list[Any]:
    """A tree as run lengths; polygons, boxes, crowds and lists of run lengths."""
    document = json.loads(ground_truth.read_text())
    first, second, third, *_ = (annotation | {"parent_id": None} for annotation in document["annotations"])
    pixels = SIZE[0] * SIZE[1]
    others = [
        first | {"segmentation": [[5, 5, 15.5, 5, 15, 15, 5, 15], [1, 2, 3, 4]], "bbox": [5, 5, 10, 10], "area": 100.0},
        second | {"segmentation": {"size": list(SIZE), "counts": [92, 7, 23, 7, pixels - 129]}, "iscrowd": 1},
        third | {"score": 0.5, "predicted_iou": 1.01, "stability_score": 0.9, "granularity": 0.5, "stability": 0.5},
    ]
    return [document, document | {"images": document["images"][:1], "annotations": others}]


def test_ground_truth(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for image in read_ground_truth("json", path).images:
            recall.score_image(
                image, ImageDetections(image.size, None, np.zeros((0, 4)), np.zeros(0)), iou_type="boxes"
            )

    fuzz("COCO ground truth", mutated_json(documents), read)


def test_sources_of_a_merge(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "source.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        source = open_source(path)
        for name in source.images:
            source.read(name, 0)

    fuzz("COCO source of a merge", mutated_json(documents), read)


def test_sa1b_files(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "sa_1.json"
    image = {"image_id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": "sa_1.jpg"}
    document = {"image": image, "annotations": documents[1]["annotations"]}

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert open_sa1b(path).file_name
        for truth in read_ground_truth("sa1b", tmp_path).images:
            assert len(truth.masks()) == len(truth)

    fuzz("SA-1B files", mutated_json([document]), read)


def test_predictions(ground_truth: Path, documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    images = read_ground_truth("json", ground_truth).images
    scored = [annotation | {"score": 0.5} for annotation in documents[0]["annotations"]]
    boxes = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in results()]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        predictions = open_predictions(path)
        for image, prediction in zip(images, pair(predictions, images, allow_empty=True)[0], strict=True):
            iou_type = "boxes" if prediction.detections(image.size).rles is None else "masks"
            recall.score_image(image, prediction.detections(image.size), iou_type=iou_type)
            prediction.tree(image.size, nested=False)

    fuzz("predictions", mutated_json([results(), documents[0] | {"annotations": scored}, boxes]), read)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("protocol", ["ar", "hierarchy"])
def test_results_of_an_evaluation(ground_truth: Path, tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "result.json"
    result = evaluate(protocol, write_trees(tmp_path / "trees"), ground_truth, workers=1)
    result.write(path)
    document = json.loads(path.read_text())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        other = EvaluationResult.read(path)
        other.table()
        compare(result, other, resamples=3).table()

    fuzz(f"results ({protocol})", mutated_json([document]), read)


def test_polygons_that_would_take_gigabytes_are_refused(documents: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    height, width = 40_000, 50_000
    image = {"id": 1, "file_name": "a.jpg", "height": height, "width": width}
    zigzag = [coordinate for i in range(1000) for coordinate in ((i % 2) * width, (i % 2) * height)]
    annotation = {"id": 1, "image_id": 1, "segmentation": [zigzag]}
    path.write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    with pytest.raises(FormatError, match="outline of at most"):
        read_ground_truth("json", path)
