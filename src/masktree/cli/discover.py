"""masktree discover."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import tyro

from masktree.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_READING,
    DEFAULT_RUNNING,
    DEFAULT_SEGMENTER,
    Batch,
    Output,
    Reading,
    Running,
    Segmenter,
    print_outcome,
)
from masktree.errors import InputError


def discover(
    folders: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FOLDER ...")],
    /,
    output: Output,
    reading: Reading = DEFAULT_READING,
    segmenter: Segmenter = DEFAULT_SEGMENTER,
    batch: Batch = DEFAULT_BATCH,
    batch_size: int = 0,
    detector: str | None = None,
    detector_score: float | None = None,
    running: Running = DEFAULT_RUNNING,
    labels_per_image: int | None = None,
    average_labels: float | None = None,
    shard_size: int | None = None,
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
    devices: int = 1,
) -> int:
    """Make a pseudo-label data set (COCO files that include the trees) of photographs.

    Args:
        folders: Photographs, searched recursively; or one tar or Parquet file, list (.txt) or address.
        output: Folder of the label set.
        reading: How photographs are read.
        segmenter: What segments the photographs; the default method is sohes.
        batch: How the batch is run.
        batch_size: Images that go through the network together; 0 means 8 for a model on an accelerator, else 1.
        detector: A trained model that divides images for the method unsam, instead of MaskCut.
        detector_score: Lowest score of its masks. Default: 0.3.
        running: Where the batch is run.
        labels_per_image: Keep at most this many masks of each image, those with the highest scores. Default: all.
        average_labels: Choose one threshold of the score, or of the method, for about this many labels per image on
            average; single images may get many or none. Default: that of the method.
        shard_size: Number of images in each COCO file. Default: 1000.
        shard: Make the I-th of N shares of these files alone; without it, the shares are gathered.
        devices: Number of GPUs that share these files.
    """
    from masktree.stages.devices import discover_on_devices
    from masktree.stages.discover import discover as discover_here
    from masktree.stages.shards import Shard

    config = segmenter.config(default_method="sohes")
    if detector is not None or detector_score is not None:
        if detector is None or config.method != "unsam":
            raise InputError("expected --detector, and with it --detector-score, with --method unsam; got one alone")
        given = {"detector": detector, "detector_score": 0.3 if detector_score is None else detector_score}
        config = replace(config, options=config.options | given)
    if devices < 1 or (devices > 1 and running.engine != "local"):
        raise InputError(f"expected --devices of at least 1, and without --engine; got {devices} with {running.engine}")
    run = discover_here if devices == 1 else partial(discover_on_devices, devices=devices)
    outcome = run(
        folders,
        output,
        config,
        labels_per_image=labels_per_image,
        average_labels=average_labels,
        shard_size=shard_size,
        shard=None if shard is None else Shard.parse(shard),
        read_options=reading.options(),
        workers=batch.workers,
        batch_size=batch_size,
        engine=running.load(),
        tries=running.tries,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    return print_outcome(outcome, output)
