"""masktree merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from masktree.cli.options import DEFAULT_BATCH, Batch, Output, print_outcome


def merge(
    sources: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SOURCE ...")],
    /,
    output: Output,
    batch: Batch = DEFAULT_BATCH,
    rule: Literal["union", "fill"] = "union",
    iou: float | None = None,
    images: Path | None = None,
    shard_size: int | None = None,
) -> int:
    """Merge label sets and human annotations into one data set that records the source of each mask.

    The same command resumes a stopped run.

    Args:
        sources: Label sets, COCO files or folders of SA-1B files; with --rule fill the trusted one first.
        output: Folder of the new label set.
        batch: How the batch is run.
        rule: union: masks of all sources, without near-duplicates of higher-scored masks. fill: all masks of the first
            source, and those masks of the others that overlap with none of them (UnSAM+).
        iou: Threshold of the rule: union takes masks with a higher IoU for duplicates, fill does not add them.
            Default: 0.9 for union, 0.02 for fill.
        images: Folder of the photographs. Default: that of the label sets.
        shard_size: Number of images in each COCO file of a label set. Default: 1000.
    """
    from masktree.labels.merge import MergeRule
    from masktree.stages.merge import describe
    from masktree.stages.merge import merge as run

    merged = run(
        sources,
        output,
        MergeRule(rule, iou),
        images=images,
        shard_size=shard_size,
        workers=batch.workers,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    print(describe(merged))
    return print_outcome(merged.outcome, output)
