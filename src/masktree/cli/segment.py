"""masktree segment."""

from __future__ import annotations

from typing import Annotated

import tyro

from masktree.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_PICTURES,
    DEFAULT_READING,
    DEFAULT_RUNNING,
    DEFAULT_SEGMENTER,
    Batch,
    Drawing,
    Output,
    Reading,
    Running,
    Segmenter,
    print_outcome,
)


def segment(
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT ...")],
    /,
    output: Output,
    reading: Reading = DEFAULT_READING,
    segmenter: Segmenter = DEFAULT_SEGMENTER,
    batch: Batch = DEFAULT_BATCH,
    batch_size: int = 0,
    running: Running = DEFAULT_RUNNING,
    pictures: Drawing = DEFAULT_PICTURES,
    tile: int | None = None,
) -> int:
    """Segment photographs: a tree of masks (JSON) and a picture (PNG) for each.

    Args:
        inputs: Image files, folders (searched recursively) or quoted globs; tar or Parquet files, lists (.txt),
            addresses.
        output: Folder for the results, with the same subfolders as the input.
        reading: How photographs are read.
        segmenter: What segments the photographs; the default method is masktree.
        batch: How the batch is run.
        batch_size: Images that go through the network together; 0 means 8 for a model on an accelerator, else 1.
        running: Where the batch is run.
        tile: Side of tiles for full resolution, as 2048.
        pictures: What is drawn; outdated pictures of finished trees are drawn again.
    """
    from masktree.stages.segment import segment as run

    outcome = run(
        inputs,
        output,
        segmenter.config(default_method="masktree"),
        pictures=pictures.pictures(),
        read_options=reading.options(),
        tile=tile,
        workers=batch.workers,
        batch_size=batch_size,
        engine=running.load(),
        tries=running.tries,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    return print_outcome(outcome, output)
