"""A report of one evaluation: a single HTML file, pictures inside, that needs nothing else to be read.

Metrics, how they spread over the images, recall by size, and pictures of the best images, the worst, and those where
most is missed. At most 24 pictures, so that the file stays near a megabyte.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masktree.errors import ImageError, MasktreeError
from masktree.evaluate import thumbnails
from masktree.evaluate.harness import PROTOCOLS, Case
from masktree.evaluate.metrics import number, title
from masktree.evaluate.result import EvaluationResult, Stats
from masktree.io.files import write_atomically
from masktree.io.images import read_image
from masktree.jobs.progress import one_line

EACH = 8  # pictures in each of the three groups
SIZES = (
    0,
    16,
    32,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    1024,
)  # limits of sqrt(area) in pixels; COCO's 32 and 96 among them

_LEADING = {
    "ar": ("ar1000", "ar100", "ar_s", "ar_m", "ar_l", "ap"),
    "points": ("max_iou", "oracle_iou", "noc80", "noc85", "noc90"),
    "bsds": ("covering_ods", "covering_ois", "covering_best", "pri_ods", "vi_ods", "f_ods"),
    "hierarchy": (
        "parent_child_f1",
        "parent_child_recall",
        "parent_child_precision",
        "nesting",
        "coverage",
        "best_cut",
    ),
    "consistency": (
        "stability",
        "stability_flip",
        "stability_crop",
        "stability_noise",
        "coverage",
        "boundary_contrast",
    ),
}
_LEGENDS = {
    "bsds": '<i class="border"></i> predicted borders at the best threshold of the image',
    "consistency": "the entities of the tree at granularity 0.5",
}
_FOUND_LEGEND = (
    '<i class="found"></i> best prediction of a ground truth that was found (IoU from .5) '
    '<i class="missed"></i> ground truth that was missed'
)


@dataclass(frozen=True)
class Scored:
    """One image of the report: its case, stats, and main metric (None where undefined)."""

    case: Case
    stats: Stats
    value: float | None


def write_page(path: str | Path, result: EvaluationResult, cases: Sequence[Case]) -> None:
    """Write the report; whole or not at all.

    Args:
        result: what was evaluated.
        cases: the images, as ``harness.Evaluation`` has them. Photographs that are not there are left out, and the
            page says so.
    """
    text = page(result, cases)
    write_atomically(Path(path), lambda handle: handle.write(text.encode("utf-8", "backslashreplace")))


def page(result: EvaluationResult, cases: Sequence[Case]) -> str:
    """The HTML text of the report."""
    protocol = PROTOCOLS[result.protocol]
    images = [
        Scored(case, stats, protocol.summarise([stats]).get(protocol.main))
        for case, stats in zip(cases, result.stats, strict=True)
    ]
    heading = f"{protocol.title}: {_text(result.provenance.get('predictions'))}"
    body = [
        f"<header><h1>{heading}</h1>{_subtitle(result)}</header>",
        _cards(result),
        f'<div class="charts">{_spread(images, protocol.main)}{_recall_by_size(images)}</div>',
        *_pictures(result, images),
        _all_metrics(result),
        _origin(result),
    ]
    return _DOCUMENT.format(title=heading, style=_STYLE, body="\n".join(part for part in body if part))


# --- numbers --------------------------------------------------------------------------------------------------------


def _subtitle(result: EvaluationResult) -> str:
    made = result.provenance
    parts = [result.subject(), str(made.get("date", ""))[:10]]
    return f"<p>{' &middot; '.join(_text(part) for part in parts if part)}</p>"


def _cards(result: EvaluationResult) -> str:
    cards = [
        f'<div class="card"><b>{number(result.metrics[name])}</b><span>{_text(name)}</span>'
        f"<small>{_text(title(name))}</small></div>"
        for name in _LEADING[result.protocol]
        if name in result.metrics
    ]
    return f'<section class="cards">{"".join(cards)}</section>'


def _all_metrics(result: EvaluationResult) -> str:
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{number(value)}</td><td>{_text(title(name))}</td></tr>"
        for name, value in result.metrics.items()
    )
    return f"<section><h2>All metrics</h2><table>{rows}</table></section>"


def _origin(result: EvaluationResult) -> str:
    rows = []
    for name, value in result.provenance.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner not in (None, "", {}, []))
        if value not in (None, ""):
            rows.append(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>")
    return f'<section><h2>Where it comes from</h2><table class="origin">{"".join(rows)}</table></section>'


# --- charts -----------------------------------------------------------------------------------------------------------


def _spread(images: Sequence[Scored], main: str) -> str:
    """How many images have which value of the main metric."""
    values = np.array([image.value for image in images if image.value is not None])
    if len(values) < 2:
        return ""
    counts, edges = np.histogram(values, bins=10, range=(min(0.0, float(values.min())), max(1.0, float(values.max()))))
    bars = [
        ([(float(count) / max(counts.max(), 1), "solid")], str(count) if count else "", f"{low:.1f}".lstrip("0") or "0")
        for count, low in zip(counts, edges[:-1], strict=True)
    ]
    return _chart(f"Images by {main}", f"number of images in each tenth; mean {values.mean():.3f}", bars)


def _recall_by_size(images: Sequence[Scored]) -> str:
    """Share of ground truths found at IoU .5 and .75, by sqrt(area); for protocols that tell each ground truth's
    best IoU."""
    if not all("best_iou" in image.stats and image.case.ground_truth is not None for image in images):
        return ""
    areas = np.concatenate(
        [image.case.ground_truth.areas[~image.case.ground_truth.crowd] for image in images if image.case.ground_truth]
    )
    best = np.concatenate([np.array(image.stats["best_iou"], np.float64) for image in images])
    if len(areas) != len(best) or not len(best):
        return ""
    place = np.digitize(np.sqrt(areas), SIZES) - 1
    bars = []
    for index in range(int(place.min()), int(place.max()) + 1):
        inside = best[place == index]
        at50, at75 = (float((inside >= iou).mean()) if len(inside) else 0.0 for iou in (0.5, 0.75))
        name = f"{SIZES[index]}-{SIZES[index + 1]}" if index + 1 < len(SIZES) else f"{SIZES[index]}+"
        label = f"{100 * at50:.0f} %" if len(inside) else ""
        bars.append(([(at50, "pale"), (at75, "solid")], label, f"{name}\n{len(inside)}"))
    note = "share of annotations found at IoU .5 (pale) and .75 (full); sqrt(area) in pixels, number of annotations"
    return _chart("Recall by size", note, bars)


def _chart(name: str, note: str, bars: Sequence[tuple[Sequence[tuple[float, str]], str, str]]) -> str:
    """Bars of heights in [0, 1]: (layers, label above, label below in lines), drawn as inline SVG."""
    width, height, step = 640, 190, 640 / max(len(bars), 1)
    lines = max(below.count("\n") for _, _, below in bars) + 1
    parts = [f'<line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/>']
    for index, (layers, above, below) in enumerate(bars):
        middle, thick = (index + 0.5) * step, min(0.72 * step, 64)
        for share, kind in layers:
            tall = share * (height - 24)
            parts.append(
                f'<rect class="{kind}" x="{middle - thick / 2:.1f}" y="{height - tall:.1f}" width="{thick:.1f}" '
                f'height="{tall:.1f}" rx="2"/>'
            )
        top = height - max(share for share, _ in layers) * (height - 24) - 6
        parts.append(f'<text x="{middle:.1f}" y="{top:.1f}">{_text(above)}</text>')
        for line, words in enumerate(below.split("\n")):
            faint = ' class="faint"' if line else ""
            parts.append(f'<text{faint} x="{middle:.1f}" y="{height + 18 + 16 * line}">{_text(words)}</text>')
    box = f'viewBox="0 0 {width} {height + 10 + 16 * lines}" role="img" aria-label="{_text(name)}"'
    drawing = f"<svg {box}>{''.join(parts)}</svg>"
    return f'<section><h2>{_text(name)}</h2>{drawing}<p class="note">{_text(note)}</p></section>'


# --- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(result: EvaluationResult, images: Sequence[Scored]) -> list[str]:
    there = [image for image in images if image.case.photo is not None and image.case.photo.is_file()]
    absent = len(images) - len(there)
    note = ""
    if absent:
        folder = images[0].case.photo.parent if images[0].case.photo is not None else None
        where = f" in {folder}" if folder else ""
        note = (
            f'<p class="note">No pictures of {absent} of {len(images)} images: their photographs were not found'
            f"{_text(where)}. Give their folder with --images.</p>"
        )
    legend = f'<p class="legend">{_LEGENDS.get(result.protocol, _FOUND_LEGEND)}</p>'
    groups = []
    for name, chosen in _chosen(there).items():
        figures = "".join(_figure(result, image) for image in chosen)
        if figures:
            groups.append(f'<section><h2>{name}</h2>{legend}<div class="grid">{figures}</div></section>')
    return [note, *groups]


def _chosen(images: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The worst and the best by the main metric, and of the others those that miss most ground truths; each image
    once."""
    known = [image for image in images if image.value is not None]
    # Of equal ones those with more ground truths come first: they show more.
    worst = sorted(known, key=lambda image: (image.value or 0.0, -_num_ground_truths(image)))[
        : min(EACH, -(-len(known) // 2))
    ]
    rest = {image.case.name for image in known} - {image.case.name for image in worst}
    best = [image for image in known if image.case.name in rest]
    best = sorted(best, key=lambda image: (image.value or 0.0, _num_ground_truths(image)), reverse=True)[:EACH]
    shown = {image.case.name for image in (*worst, *best)}
    missing = [image for image in images if image.case.name not in shown and _missed(image) > 0]
    missing = sorted(missing, key=lambda image: -_missed(image))[:EACH]
    return {"Worst images": worst, "Best images": best, "Most missed ground truths": missing}


def _num_ground_truths(image: Scored) -> int:
    return 0 if image.case.ground_truth is None else len(image.case.ground_truth)


def _missed(image: Scored) -> int:
    return sum(iou < thumbnails.FOUND_IOU for iou in image.stats.get("best_iou", []))


def _figure(result: EvaluationResult, image: Scored) -> str:
    case = image.case
    assert case.photo is not None
    main = PROTOCOLS[result.protocol].main
    caption = f"<b>{_text(case.name)}</b> {main} {number(image.value)}"
    try:
        photo = read_image(case.photo)
        if photo.shape[:2] != case.size:
            raise ImageError(f"expected {case.size} pixels; got {photo.shape[:2]}")
        if result.protocol == "bsds":
            picture = thumbnails.borders(photo, case.prediction.contours(case.size), _best_level(image.stats))
        elif result.protocol == "consistency":
            picture = thumbnails.entities(photo, case.prediction.tree(case.size, nested=False))
        else:
            assert case.ground_truth is not None
            boxes = result.settings.get("kind") == "boxes"
            found = case.prediction.detections(case.size)
            picture, missed = thumbnails.found_and_missed(photo, case.ground_truth, found, boxes=boxes)
            sought = int((~case.ground_truth.crowd).sum())
            caption += f" &middot; {sought - missed} of {sought} ground truths found"
    except MasktreeError as error:
        return f'<figure><div class="gone">{_text(error)}</div><figcaption>{caption}</figcaption></figure>'
    source = thumbnails.data_uri(picture)
    return f'<figure><img src="{source}" alt="{_text(case.name)}"><figcaption>{caption}</figcaption></figure>'


def _best_level(stats: Stats) -> float:
    """The contour level at which the image is covered best."""
    from masktree.evaluate.bsds import THRESHOLDS

    return float(THRESHOLDS[int(np.argmax(stats["covered"]))])


def _text(value: object) -> str:
    return html.escape(one_line(str(value)))


_STYLE = """
:root { --ink: #1b1f24; --soft: #667080; --line: #e3e6ea; --ground: #f7f8fa; --sheet: #fff; --accent: #2f6fdf;
  --pale: #b9cff5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4b2; --line: #2c323a; --ground: #14171b;
  --sheet: #1c2026; --accent: #6ea0ff; --pale: #33507f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 32px 24px 64px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em; } header p { color: var(--soft); margin: 4px 0 24px; }
h2 { font-size: 17px; margin: 0 0 10px; }
section { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  margin: 0 0 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; padding: 0;
  background: none; border: 0; }
.card { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.card b { display: block; font-size: 26px; font-weight: 650; font-variant-numeric: tabular-nums; }
.card:first-child b { color: var(--accent); }
.card span { font-weight: 600; display: block; } .card small { color: var(--soft); display: block; line-height: 1.35; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 20px; }
svg { width: 100%; max-width: 680px; height: auto; }
svg text { font-size: 12.5px; text-anchor: middle; fill: var(--ink); }
svg .faint { fill: var(--soft); } svg .solid { fill: var(--accent); } svg .pale { fill: var(--pale); }
svg .axis { stroke: var(--line); stroke-width: 1.5; }
.note, .legend { color: var(--soft); font-size: 13.5px; margin: 4px 0 12px; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin: 0 4px -2px 0; }
.legend i + i, .legend i:not(:first-child) { margin-left: 14px; }
.found { border: 3px solid rgb(46 230 200); }
.missed { background: rgb(255 66 92 / .55); border: 2px solid rgb(255 66 92); }
.border { background: rgb(255 214 10); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 16px; }
figure { margin: 0; } img { width: 100%; height: 230px; object-fit: contain; border-radius: 8px; background: #0b0d10;
  display: block; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 5px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.gone { height: 230px; border-radius: 8px; background: var(--line); padding: 16px; font-size: 13px; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; white-space: nowrap; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } tr:last-child > * { border-bottom: 0; }
"""

_DOCUMENT = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body>
</html>
"""
