"""The data card of a label set: a human-readable summary of its manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktree.io.files import write_atomically
from masktree.jobs.progress import one_line

_MAX_NAMES = 100  # of images without masks on a card (our choice)


def write_card(path: Path, index: dict[str, Any], unlabelled: Sequence[str]) -> None:
    """Write card.md.

    Args:
        path: of the card.
        index: content of the manifest (index.json).
        unlabelled: names of the images without masks.
    """
    summary = index["summary"]
    failures = sum(len(shard["failures"]) for shard in index["shards"])
    quantiles = ", ".join(f"{float(q):.0%}: {v:g}" for q, v in summary["masks_per_image_quantiles"].items())
    sections = [
        _merge_header(index) if "sources" in index else f"# Pseudo-labels by masktree\n\n{_origin(index['weights'])}",
        _table(
            {
                "images": summary["images"],
                "images that failed": failures,
                "images without masks": summary["images_without_masks"],
                "masks": summary["masks"],
                "masks per image, mean": summary["masks_per_image_mean"],
                "masks per image, quantiles": quantiles,
                "coverage (mean share of pixels covered by masks)": summary["coverage"],
                "seconds per image": summary["seconds_per_image"],
                "photographs": index["root"],
            }
        ),
        *([_unlabelled(unlabelled)] if unlabelled else []),
        "## Levels\n\n" + _bars(summary["levels"]),
        "## Sizes (COCO limits: 32^2 and 96^2 pixels)\n\n" + _bars(summary["sizes"]),
        "## Area, powers of two in pixels\n\n" + _bars({f"2^{k}": v for k, v in summary["log2_area"].items()}),
        "## Depth in the tree\n\n" + _bars(summary["depths"]),
        "## Configuration\n\n```json\n" + json.dumps(index["config"], indent=1) + "\n```",
        "## Weights\n\n```json\n" + json.dumps(index["weights"], indent=1) + "\n```",
        "## Files\n\n"
        + "\n".join(
            f"- `{shard['file']}`: {shard['images']} images, {shard['masks']} masks, sha256 `{shard['sha256']}`"
            for shard in index["shards"]
        ),
    ]
    text = "\n\n".join(sections) + "\n"
    write_atomically(path, lambda handle: handle.write(text.encode()))


def _unlabelled(names: Sequence[str]) -> str:
    """List of the images without masks."""
    more = [f"- and {len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return "## Images without masks\n\n" + "\n".join([*(f"- `{one_line(n)}`" for n in names[:_MAX_NAMES]), *more])


def _origin(weights: dict[str, Any]) -> str:
    if weights.get("label_free") is True:
        return "Made without human labels."
    return "Made with weights that depend on human labels, or of which it is unknown whether they do."


def _merge_header(index: dict[str, Any]) -> str:
    """Title and table of sources of a merged label set."""
    human = "" if index["weights"].get("label_free") else " Some sources may contain human labels."
    rows = []
    for i, source in enumerate(index["sources"]):
        counts = {k: v for k, v in source.items() if k not in ("path", "kind", "sha256", "label_free")}
        details = ", ".join(f"{name} {count}" for name, count in counts.items())
        rows.append(f"| {i} | `{source['path']}` | {source['kind']} | {details} | `{source['sha256']}` |")
    table = "| source | path | kind | images and masks | sha256 |\n|---|---|---|---|---|\n" + "\n".join(rows)
    return f"# Labels merged by masktree\n\nEach annotation has the number of its `source`.{human}\n\n{table}"


def _table(rows: dict[str, Any]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _bars(counts: dict[str, int]) -> str:
    """Histogram as a table with a share and a bar per row."""
    total = max(sum(counts.values()), 1)
    rows = [
        f"| {name} | {count} | {count / total:.1%} | {'#' * round(40 * count / total)} |"
        for name, count in counts.items()
    ]
    return "| | masks | share | |\n|---|---|---|---|\n" + "\n".join(rows)
