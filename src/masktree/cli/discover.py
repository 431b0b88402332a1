"""masktree discover."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from masktree.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_READING,
    DEFAULT_SEGMENTER,
    Batch,
    Output,
    Reading,
    Segmenter,
    print_outcome,
)


def discover(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")],
    /,
    output: Output,
    reading: Reading = DEFAULT_READING,
    segmenter: Segmenter = DEFAULT_SEGMENTER,
    batch: Batch = DEFAULT_BATCH,
    labels_per_image: int | None = None,
    average_labels: float | None = None,
    shard_size: int | None = None,
) -> int:
    """Make a pseudo-label data set (COCO shards that include the trees) of a folder of photographs.

    Args:
        folder: Photographs, searched recursively.
        output: Folder of the label set.
        reading: How photographs are read.
        segmenter: What segments the photographs; the default method is sohes.
        batch: How the batch is run.
        labels_per_image: Keep at most this many masks of each image, those with the highest scores. Default: all.
        average_labels: Choose one threshold of the score, or of the method, for about this many labels per image on
            average; single images may get many or none. Default: that of the method.
        shard_size: Number of images in each COCO file. Default: 1000.
    """
    from masktree.stages.discover import discover as run

    outcome = run(
        folder,
        output,
        segmenter.config(default_method="sohes"),
        labels_per_image=labels_per_image,
        average_labels=average_labels,
        shard_size=shard_size,
        read_options=reading.options(),
        workers=batch.workers,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    return print_outcome(outcome, output)
