"""Calibrate the scores of the discovery methods on unlabelled photographs.

    python recipes/scores.py PHOTOS --method masktree --images 60

Cost: 3 minutes for the method masktree, 2 minutes for 24 images of another one. Expected: the knots in
``masktree.discover.calibrations``. Prints those of ``ScoreCalibration``: a method's own scores, and the mean IoU of
masks with such scores with the best masks in a mirrored, a cropped and a noisy view of the image. Several backbones are
pooled.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np


def main() -> None:
    from masktree.backbones import load_backbone
    from masktree.discover.methods import METHODS
    from masktree.evaluate.agreement import measure_agreement
    from masktree.io.images import read_image
    from masktree.io.photos import find_photos
    from masktree.trees.scores import ScoreCalibration

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--method", choices=list(METHODS), default="masktree")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--backbones", nargs="+", default=["embedded"])
    parser.add_argument("--quality", default="fast")
    options = parser.parse_args()
    photos = [photo.path for photo in find_photos([options.photos])[0]]
    sample = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.images, len(photos))).astype(int)]
    scores, agreements = [], []
    for name in options.backbones:
        segment = partial(METHODS[options.method], backbone=load_backbone(name), quality=options.quality)
        for path in sample:
            found = measure_agreement(read_image(path), segment)
            scores.append(found[0])
            agreements.append(found[1])
    agreement = np.concatenate(agreements)
    calibration = ScoreCalibration.fit(np.concatenate(scores), agreement)
    print(f"{len(sample)} photographs, {len(agreement)} masks, mean agreement {agreement.mean():.3f}")
    print(f"raw={calibration.raw},\nagreement={calibration.agreement},")


if __name__ == "__main__":
    main()
