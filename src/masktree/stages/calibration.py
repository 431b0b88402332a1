"""Scores of a trained model on the scale of all segmenters, see ``masktree.trees.scores``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from masktree.coco.document import read_document
from masktree.errors import ImageError
from masktree.evaluate.agreement import measure_agreement
from masktree.io.files import lock_folder, write_json
from masktree.io.images import read_image
from masktree.io.packs import local_photo
from masktree.jobs.progress import progress_bar
from masktree.labels import LabelSet
from masktree.models.saved import CALIBRATION, CONFIG, read_header
from masktree.predict import load_model
from masktree.trees.scores import ScoreCalibration

NUM_IMAGES = 16  # to measure agreement on (our choice: about 1000 masks, in four segmentations of each image)


def calibrate_run(
    run: Path, labels: Path, *, root: Path | None = None, device: str = "auto", show_progress: bool = False
) -> ScoreCalibration | None:
    """Measure how well the masks of a run agree over views of training images, and store it in its config.json.

    No label is used. A run that is calibrated is left as it is; further training removes the calibration.

    Args:
        run: folder of ``masktree train``.
        labels: the label set that it was trained on, which names the images.
        root: folder of the images, if they were moved.
        device: auto, cpu, cuda, cuda:N or mps.
        show_progress: whether to show a progress bar on standard error.

    Returns:
        The calibration, or None if there is one already or the model finds no masks in the images.

    Raises:
        FormatError, WeightsError: the run or the label set cannot be read.
        InputError: the folder was removed meanwhile.
    """
    if CALIBRATION in read_header(run):
        return None
    segmenter = load_model(run, device=device, max_masks=None, calibrated=False)
    paths = _sample_paths(LabelSet.open(labels, root=root))
    scores, agreements = [np.zeros(0)], [np.zeros(0)]
    with progress_bar("calibrate scores", len(paths), 0, show=show_progress) as progress:
        for number, path in enumerate(paths):
            try:
                with local_photo(path) as file:
                    found = measure_agreement(read_image(file), segmenter, seed=number)
            except ImageError as error:
                progress.fail(str(path), str(error))
                continue
            scores.append(found[0])
            agreements.append(found[1])
            progress.advance()
        if not sum(map(len, scores)):
            progress.print("no masks in these images: the model's scores stay as they are")
            return None
    calibration = ScoreCalibration.fit(np.concatenate(scores), np.concatenate(agreements))
    with lock_folder(run):
        header = read_header(run) | {CALIBRATION: {"raw": calibration.raw, "agreement": calibration.agreement}}
        write_json(run / CONFIG, header, indent=1)
    return calibration


def _sample_paths(labels: LabelSet) -> list[Path]:
    """Images spread evenly over the first shard of a label set."""
    images = [
        image
        for shard in islice(labels.index["shards"], 1)
        for image, _ in read_document(labels.folder / shard["file"])
    ]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(NUM_IMAGES, len(images))).astype(int))
    return [labels.image_path(images[k]) for k in chosen.tolist()]
