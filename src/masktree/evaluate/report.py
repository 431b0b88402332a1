"""A report of one evaluation: a single HTML file that contains its pictures and refers to nothing else.

Metrics, how they are distributed over the images, recall by size, and pictures of the best images, the worst, and those
with most missed annotations. At most 24 pictures, so that the file stays near a megabyte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import ImageError, MasktreeError
from masktree.evaluate import thumbnails
from masktree.evaluate.bsds import CONTOUR_THRESHOLDS
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.image_stats import ImageStats
from masktree.evaluate.metrics import format_value, metric_title
from masktree.evaluate.protocols import PROTOCOLS
from masktree.evaluate.result import EvaluationResult
from masktree.io.files import write_atomically
from masktree.io.images import read_image
from masktree.jobs.progress import one_line

MAX_PICTURES = 8  # in each of the three groups
# Limits of sqrt(area) in pixels; COCO's 32 and 96 among them
SIZE_BINS = (0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)
_CHART_WIDTH, _CHART_HEIGHT = 640, 190


@dataclass(frozen=True)
class ScoredImage:
    """One image of the report: its case, stats, and main metric (None where undefined)."""

    case: EvaluationCase
    stats: ImageStats
    value: float | None

    @property
    def num_annotations(self) -> int:
        return 0 if self.case.ground_truth is None else len(self.case.ground_truth)

    @property
    def num_missed(self) -> int:
        return sum(iou < thumbnails.FOUND_IOU for iou in self.stats.get("best_iou", []))


def write_report(path: str | Path, result: EvaluationResult, cases: Sequence[EvaluationCase]) -> None:
    """Write the report; whole or not at all.

    Args:
        path: of the HTML file.
        result: of the evaluation.
        cases: its images, as in ``harness.Evaluation``. Missing photographs are left out, and the page says so.
    """
    text = render_report(result, cases)
    write_atomically(Path(path), lambda handle: handle.write(text.encode("utf-8", "backslashreplace")))


def is_report(path: Path) -> bool:
    """Whether masktree wrote this file as a report."""
    with path.open("rb") as handle:
        return b'<meta name="generator" content="masktree">' in handle.read(1024)


def render_report(result: EvaluationResult, cases: Sequence[EvaluationCase]) -> str:
    """The HTML text of the report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    protocol = PROTOCOLS[result.protocol]
    images = [
        ScoredImage(case, stats, protocol.summarise([stats]).get(protocol.main_metric))
        for case, stats in zip(cases, result.stats, strict=True)
    ]
    with_photo = [image for image in images if image.case.photo is not None and image.case.photo.is_file()]
    charts = [_value_histogram(images, protocol.main_metric), _recall_by_size(images)]
    date = str(result.provenance.get("date", ""))[:10]
    loader = PackageLoader("masktree.evaluate")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda v: one_line(v) if type(v) is str else v,
    )
    return environment.get_template("report.html").render(
        heading=f"{protocol.title}: {result.provenance.get('predictions')}",
        subtitle=" · ".join(part for part in (result.subject(), date) if part),
        protocol=result.protocol,
        headline_metrics=_rows(result, [name for name in protocol.headline_metrics if name in result.metrics]),
        all_metrics=_rows(result, list(result.metrics)),
        charts=[chart for chart in charts if chart is not None],
        missing_photographs=_missing_photographs(images, len(images) - len(with_photo)),
        groups=[
            {"title": group, "figures": [_figure(result, image) for image in chosen]}
            for group, chosen in _choose_images(with_photo).items()
            if chosen
        ],
        provenance=_provenance(result),
    )


def _rows(result: EvaluationResult, names: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(name, format_value(result.metrics[name]), metric_title(name)) for name in names]


def _provenance(result: EvaluationResult) -> list[tuple[str, str]]:
    rows = []
    for name, value in result.provenance.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner not in (None, "", {}, []))
        if value not in (None, ""):
            rows.append((name, str(value)))
    return rows


def _missing_photographs(images: Sequence[ScoredImage], missing: int) -> str:
    if not missing:
        return ""
    folder = images[0].case.photo.parent if images[0].case.photo is not None else None
    where = f" in {folder}" if folder else ""
    return (
        f"No pictures of {missing} of {len(images)} images: their photographs were not found{where}. "
        "Give their folder with --images."
    )


def _value_histogram(images: Sequence[ScoredImage], main_metric: str) -> dict[str, Any] | None:
    """Number of images by value of the main metric."""
    values = np.array([image.value for image in images if image.value is not None])
    if len(values) < 2:
        return None
    counts, edges = np.histogram(values, bins=10, range=(min(0.0, float(values.min())), max(1.0, float(values.max()))))
    bars = [
        (
            [(float(count) / max(counts.max(), 1), "solid")],
            str(count) if count else "",
            [f"{low:.1f}".lstrip("0") or "0"],
        )
        for count, low in zip(counts, edges[:-1], strict=True)
    ]
    return _chart(f"Images by {main_metric}", f"number of images in each tenth; mean {values.mean():.3f}", bars)


def _recall_by_size(images: Sequence[ScoredImage]) -> dict[str, Any] | None:
    """Share of annotations found at IoU .5 and .75, by sqrt(area); None for protocols without each one's best IoU."""
    if not all("best_iou" in image.stats and image.case.ground_truth is not None for image in images):
        return None
    known = [image.case.ground_truth for image in images if image.case.ground_truth is not None]
    areas = np.concatenate([ground_truth.areas[~ground_truth.crowd] for ground_truth in known])
    best = np.concatenate([np.array(image.stats["best_iou"], np.float64) for image in images])
    if len(areas) != len(best) or not len(best):
        return None
    bins = np.digitize(np.sqrt(areas), SIZE_BINS) - 1
    bars = []
    for index in range(int(bins.min()), int(bins.max()) + 1):
        inside = best[bins == index]
        at50, at75 = (float((inside >= iou).mean()) if len(inside) else 0.0 for iou in (0.5, 0.75))
        name = f"{SIZE_BINS[index]}-{SIZE_BINS[index + 1]}" if index + 1 < len(SIZE_BINS) else f"{SIZE_BINS[index]}+"
        label = f"{100 * at50:.0f} %" if len(inside) else ""
        bars.append(([(at50, "pale"), (at75, "solid")], label, [name, str(len(inside))]))
    note = "share of annotations found at IoU .5 (pale) and .75 (full); sqrt(area) in pixels, number of annotations"
    return _chart("Recall by size", note, bars)


def _chart(
    name: str, note: str, bars: Sequence[tuple[Sequence[tuple[float, str]], str, Sequence[str]]]
) -> dict[str, Any]:
    """A bar chart for the template, from bars of heights in [0, 1]: (layers, label above, lines below)."""
    step = _CHART_WIDTH / max(len(bars), 1)
    return {
        "title": name,
        "note": note,
        "width": _CHART_WIDTH,
        "height": _CHART_HEIGHT,
        "label_lines": max(len(lines) for _, _, lines in bars),
        "bars": [
            {
                "x": (index + 0.5) * step,
                "width": min(0.72 * step, 64),
                "rects": [{"height": share * (_CHART_HEIGHT - 24), "style": style} for share, style in layers],
                "label": label,
                "tick_lines": lines,
            }
            for index, (layers, label, lines) in enumerate(bars)
        ],
    }


def _choose_images(images: Sequence[ScoredImage]) -> dict[str, list[ScoredImage]]:
    """The worst and the best by the main metric, and of the others those with most missed annotations; each image
    once. Of equal ones those with more annotations come first: they show more."""
    scored = [(image.value, image) for image in images if image.value is not None]
    worst = sorted(scored, key=lambda item: (item[0], -item[1].num_annotations))[
        : min(MAX_PICTURES, -(-len(scored) // 2))
    ]
    shown = {image.case.name for _, image in worst}
    rest = [item for item in scored if item[1].case.name not in shown]
    best = sorted(rest, key=lambda item: (item[0], item[1].num_annotations), reverse=True)[:MAX_PICTURES]
    shown |= {image.case.name for _, image in best}
    missing = [image for image in images if image.case.name not in shown and image.num_missed > 0]
    return {
        "Worst images": [image for _, image in worst],
        "Best images": [image for _, image in best],
        "Most missed annotations": sorted(missing, key=lambda image: -image.num_missed)[:MAX_PICTURES],
    }


def _figure(result: EvaluationResult, image: ScoredImage) -> dict[str, str]:
    """Picture and caption for the template; ``error`` where the photograph cannot be shown."""
    case = image.case
    figure = {
        "name": case.name,
        "score": f"{PROTOCOLS[result.protocol].main_metric} {format_value(image.value)}",
        "found": "",
        "error": "",
        "picture": "",
    }
    try:
        picture, figure["found"] = _draw(result, image)
    except MasktreeError as error:
        return figure | {"error": str(error)}
    return figure | {"picture": thumbnails.data_uri(picture)}


def _draw(result: EvaluationResult, image: ScoredImage) -> tuple[np.ndarray, str]:
    """The thumbnail of an image, and how many annotations were found where that is known."""
    case = image.case
    if case.photo is None:
        raise ImageError(f"expected a photograph of {case.name}; got none")
    photo = read_image(case.photo)
    if photo.shape[:2] != case.size:
        raise ImageError(f"expected {case.size} pixels; got {photo.shape[:2]}")
    if result.protocol == "bsds":
        best_level = float(CONTOUR_THRESHOLDS[int(np.argmax(image.stats["covered"]))])
        return thumbnails.draw_boundaries(photo, case.prediction.contours(case.size), best_level), ""
    if result.protocol == "consistency":
        return thumbnails.draw_entities(photo, case.prediction.tree(case.size, nested=False)), ""
    ground_truth, detections = case.annotated(), case.prediction.detections(case.size)
    boxes = result.settings.get("iou_type") == "boxes"
    picture, missed = thumbnails.draw_matches(photo, ground_truth, detections, boxes=boxes)
    total = int((~ground_truth.crowd).sum())
    return picture, f"{total - missed} of {total} annotations found"
