"""Scores of a tree with and without ground truth, written out on dense masks, one pair at a time."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.hierarchy import chain, nms

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 0.0


def match(ground_truths: np.ndarray, found: np.ndarray) -> dict[int, int]:
    """Ground truth to prediction, one to one, the highest IoU first."""
    pairs = sorted(
        (-iou(t, f), i, j) for i, t in enumerate(ground_truths) for j, f in enumerate(found) if iou(t, f) >= 0.5
    )
    result: dict[int, int] = {}
    for _, i, j in pairs:
        if i not in result and j not in result.values():
            result[i] = j
    return result


def pairs(ground_truths: np.ndarray, gt_parents: list[int], found: np.ndarray, parents: list[int]) -> dict[str, int]:
    matches = match(ground_truths, found)
    annotated = [(child, parent) for child, parent in enumerate(gt_parents) if parent >= 0]
    counts = {"gt_pairs": len(annotated), "gt_pairs_found": 0, "predicted_pairs": 0, "predicted_pairs_tp": 0}
    for child, parent in annotated:
        if child in matches and parent in matches and matches[parent] in chain(parents, matches[child]):
            counts["gt_pairs_found"] += 1
    for low in matches:
        for high in matches:
            if matches[high] in chain(parents, matches[low]):
                counts["predicted_pairs"] += 1
                counts["predicted_pairs_tp"] += high in chain(gt_parents, low)
    return counts


def thresholds_reached(ground_truth: np.ndarray, found: np.ndarray) -> int:
    best = max((iou(ground_truth, f) for f in found), default=0.0)
    return sum(best >= t for t in THRESHOLDS)


def recalls(ground_truths: np.ndarray, gt_parents: list[int], found: np.ndarray) -> dict[str, list[int]]:
    level_num_gt, level_tp, size_num_gt, size_tp = [0] * 3, [0] * 3, [0] * 4, [0] * 4
    for i, ground_truth in enumerate(ground_truths):
        level = min(len(chain(gt_parents, i)), 2)
        side = math.sqrt(ground_truth.sum() / ground_truth.size)
        size = 0 if side < 0.1 else 1 if side < 0.2 else 2 if side < 0.4 else 3
        level_num_gt[level] += 1
        size_num_gt[size] += 1
        level_tp[level] += thresholds_reached(ground_truth, found)
        size_tp[size] += thresholds_reached(ground_truth, found)
    return {
        "level_num_gt": level_num_gt,
        "level_tp": level_tp,
        "size_num_gt": size_num_gt,
        "size_tp": size_tp,
    }


def covered(ground_truths: np.ndarray, labels: np.ndarray) -> float:
    """Sum of |R| x the best IoU of R over the regions of a partition."""
    return sum(float(t.sum()) * max(iou(t, labels == k) for k in np.unique(labels)) for t in ground_truths)


def structure(masks: np.ndarray, parents: list[int], scores: np.ndarray) -> dict[str, float]:
    links = [(masks[i], masks[p]) for i, p in enumerate(parents) if p >= 0 and masks[i].any()]
    shares = [(child & parent).sum() / child.sum() for child, parent in links]
    return {
        "masks": len(masks),
        "covered": int(masks.any(0).sum()),
        "stacked": int(masks.sum()),
        "links": len(links),
        "nested": sum(share >= 0.95 for share in shares),
        "inside": sum(shares),
        "duplicates": len(masks) - len(nms(masks, scores, 0.8)),
    }


def contrast(lab: np.ndarray, mask: np.ndarray) -> float:
    """Across / (across + within) of pixel pairs three apart in a row or a column; NaN without either kind."""
    height, width = mask.shape
    across, within = [], []
    for flipped in (False, True):
        image, inside = (lab.transpose(1, 0, 2), mask.T) if flipped else (lab, mask)
        for row in range(width if flipped else height):
            for x in range(inside.shape[1] - 3):
                pattern = inside[row, x : x + 4].tolist()
                distance = float(np.linalg.norm(image[row, x].astype(np.float64) - image[row, x + 3]))
                if pattern == [True] * 4:
                    within.append(distance)
                elif pattern in ([True, True, False, False], [False, False, True, True]):
                    across.append(distance)
    if not across or not within:
        return math.nan
    total = np.mean(across) + np.mean(within)
    return float(np.mean(across) / total) if total > 0 else 0.5
