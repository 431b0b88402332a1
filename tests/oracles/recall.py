"""The official COCO evaluation, read at 1000 detections."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth


def documents(
    ground_truths: Sequence[ImageGroundTruth], founds: Sequence[ImageDetections], kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotation file and result file of the images, ids from 1 (an id of 0 counts as unmatched there)."""
    images, annotations, results = [], [], []
    for ground_truth, found in zip(ground_truths, founds, strict=True):
        height, width = ground_truth.size
        images.append({"id": ground_truth.id, "height": height, "width": width, "file_name": ground_truth.name})
        for i in range(len(ground_truth)):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": ground_truth.id,
                "category_id": 1,
                "bbox": ground_truth.boxes[i].tolist(),
                "area": float(ground_truth.areas[i]),
                "iscrowd": int(ground_truth.crowd[i]),
            }
            if ground_truth.rles is not None:
                annotation["segmentation"] = {"size": [height, width], "counts": ground_truth.rles[i].decode()}
            annotations.append(annotation)
        for i in range(len(found)):
            result: dict[str, Any] = {"image_id": ground_truth.id, "category_id": 1, "score": float(found.scores[i])}
            if kind == "masks":
                result["segmentation"] = {"size": [height, width], "counts": found.rles[i].decode()}
            else:
                result["bbox"] = found.boxes[i].tolist()
            results.append(result)
    categories = [{"id": 1, "name": "entity"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def official(
    ground_truths: Sequence[ImageGroundTruth],
    founds: Sequence[ImageDetections],
    kind: str = "masks",
    *,
    use_cats: bool = True,
    faster: bool = False,
) -> dict[str, float | None]:
    """The twelve numbers of pycocotools, or of faster-coco-eval; None for its -1."""
    if faster:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    annotations, results = copy.deepcopy(documents(ground_truths, founds, kind))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = annotations
        coco.createIndex()
        loaded = coco.loadRes(results) if results else nothing(COCO, annotations)
        run = Evaluation(coco, loaded, "segm" if kind == "masks" else "bbox")
        run.params.maxDets = [10, 100, 1000]
        run.params.useCats = int(use_cats)
        run.evaluate()
        run.accumulate()
    return numbers(np.asarray(run.eval["recall"]), np.asarray(run.eval["precision"]))


def nothing(coco_class: Any, annotations: dict[str, Any]) -> Any:
    """A result of no detections, which loadRes cannot read."""
    loaded = coco_class()
    loaded.dataset = {**annotations, "annotations": []}
    loaded.createIndex()
    return loaded


def numbers(recall: np.ndarray, precision: np.ndarray) -> dict[str, float | None]:
    """``recall`` (T, K, A, M), ``precision`` (T, R, K, A, M) of one category, all / small / medium / large, 10 / 100 /
    1000 detections."""
    cells = {
        "ar10": recall[:, 0, 0, 0],
        "ar100": recall[:, 0, 0, 1],
        "ar1000": recall[:, 0, 0, 2],
        "ar_s": recall[:, 0, 1, 2],
        "ar_m": recall[:, 0, 2, 2],
        "ar_l": recall[:, 0, 3, 2],
        "ap": precision[:, :, 0, 0, 2],
        "ap50": precision[0, :, 0, 0, 2],
        "ap75": precision[5, :, 0, 0, 2],
        "ap_s": precision[:, :, 0, 1, 2],
        "ap_m": precision[:, :, 0, 2, 2],
        "ap_l": precision[:, :, 0, 3, 2],
    }
    return {name: None if (cell < 0).all() else float(cell.mean()) for name, cell in cells.items()}
