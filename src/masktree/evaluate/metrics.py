"""Titles and directions of the metrics, for tables and reports."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """``better``: 1 if higher is better, -1 if lower is, 0 if the metric is descriptive."""

    title: str
    better: int


_IOUS = "IoU .50:.05:.95"
_SIZES = {"s": "small", "m": "medium", "l": "large"}
_VIEWS = {"flip": "flipped image", "crop": "crop", "noise": "image with noise"}

METRICS: dict[str, Metric] = {
    **{f"ar{n}": Metric(f"average recall, top {n} per image, {_IOUS}", 1) for n in (10, 100, 1000)},
    **{f"ar_{size}": Metric(f"average recall, top 1000, {name} ground truths", 1) for size, name in _SIZES.items()},
    "ap": Metric(f"average precision, top 1000, {_IOUS}", 1),
    "ap50": Metric("average precision at IoU .50", 1),
    "ap75": Metric("average precision at IoU .75", 1),
    **{f"ap_{size}": Metric(f"average precision, {name} ground truths", 1) for size, name in _SIZES.items()},
    "max_iou": Metric("one click: IoU of the mask with the highest score", 1),
    "one_iou": Metric("IoU after one click (1-IoU)", 1),
    "oracle_iou": Metric("one click: IoU of the best mask returned", 1),
    **{f"noc{n}": Metric(f"clicks to IoU .{n}, at most 20", -1) for n in (80, 85, 90)},
    **{f"noc{n}_oracle": Metric(f"clicks to IoU .{n}, best mask returned", -1) for n in (80, 85, 90)},
    **{f"nof{n}": Metric(f"share of ground truths that never reach IoU .{n}", -1) for n in (80, 85, 90)},
    **{f"nof{n}_oracle": Metric(f"share that never reach IoU .{n}, best mask returned", -1) for n in (80, 85, 90)},
    "covering_ods": Metric("region covering, one threshold for all images", 1),
    "covering_ois": Metric("region covering, best threshold of each image", 1),
    "covering_best": Metric("region covering, best threshold of each region", 1),
    "pri_ods": Metric("probabilistic Rand index, one threshold", 1),
    "pri_ois": Metric("probabilistic Rand index, per image", 1),
    "vi_ods": Metric("variation of information (bits), one threshold", -1),
    "vi_ois": Metric("variation of information (bits), per image", -1),
    "f_ods": Metric("boundary F, one threshold", 1),
    "f_ois": Metric("boundary F, per image", 1),
    "f_ap": Metric("boundary average precision", 1),
    "parent_child_precision": Metric("share of matched predicted parent-child pairs that are correct", 1),
    "parent_child_recall": Metric("share of ground truth parent-child pairs found", 1),
    "parent_child_f1": Metric("parent-child F1", 1),
    "nesting": Metric("share of masks at least 95 % inside their parent", 1),
    "inside_parent": Metric("mean share of a mask inside its parent", 1),
    "coverage": Metric("share of pixels covered by masks", 1),
    "best_cut": Metric("ground truth covering by the best cut of each image", 1),
    "best_granularity": Metric("ground truth covering by the cut at the best common granularity", 1),
    "best_granularity_at": Metric("best common granularity", 0),
    "ar_whole": Metric("recall of wholes", 1),
    "ar_part": Metric("recall of parts", 1),
    "ar_subpart": Metric("recall of subparts", 1),
    "ar_g_00_10": Metric("recall of ground truths up to 1 % of the image", 1),
    "ar_g_10_20": Metric("recall of ground truths of 1 to 4 %", 1),
    "ar_g_20_40": Metric("recall of ground truths of 4 to 16 %", 1),
    "ar_g_40_100": Metric("recall of ground truths above 16 %", 1),
    "masks_per_pixel": Metric("masks covering a pixel", 0),
    "redundancy": Metric("share of masks that duplicate a better one", -1),
    "masks_per_image": Metric("masks per image", 0),
    "whole_per_image": Metric("wholes per image", 0),
    "part_per_image": Metric("parts per image", 0),
    "subpart_per_image": Metric("subparts per image", 0),
    "stability": Metric("mean IoU of masks with those of transformed views", 1),
    **{f"stability_{view}": Metric(f"mean IoU of masks with those of the {name}", 1) for view, name in _VIEWS.items()},
    "stability_per_image": Metric("mean IoU with transformed views, images weighted equally", 1),
    "stable_masks": Metric("masks per image that transformed views reproduce", 0),
    "boundary_contrast": Metric("contrast across borders relative to the inside", 1),
}


def metric_title(name: str) -> str:
    """Title of a metric; its name if it is unknown."""
    return METRICS[name].title if name in METRICS else name


def metric_direction(name: str) -> int:
    """1 if higher is better, -1 if lower is, 0 if the metric is descriptive or unknown."""
    return METRICS[name].better if name in METRICS else 0


def format_value(value: float | None) -> str:
    """Format a value for tables: four decimals, two from 10 up, a dash if undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
