"""masktree segment."""

from __future__ import annotations

from typing import Annotated

import tyro

from masktree.cli.options import DEFAULT_BATCH, DEFAULT_SEGMENTER, Batch, Output, Segmenter, print_outcome


def segment(
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT ...")],
    /,
    output: Output,
    segmenter: Segmenter = DEFAULT_SEGMENTER,
    batch: Batch = DEFAULT_BATCH,
    granularity: float = 0.5,
    no_overlay: bool = False,
) -> int:
    """Segment photographs: a tree of masks (JSON) and an overlay (PNG) for each.

    Args:
        inputs: Image files, folders (searched recursively) or quoted globs.
        output: Folder for the results, with the same subfolders as the input.
        segmenter: What segments the photographs; the default method is masktree.
        batch: How the batch is run.
        granularity: Granularity of the entities in the overlay, from 0 (finest) to 1 (coarsest).
        no_overlay: Write no overlays.
    """
    from masktree.stages.segment import segment as run

    outcome = run(
        inputs,
        output,
        segmenter.config(default_method="masktree"),
        granularity=granularity,
        overlay=not no_overlay,
        workers=batch.workers,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    return print_outcome(outcome, output)
