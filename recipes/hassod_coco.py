"""HASSOD (Cao et al. 2023, arXiv 2402.03311): COCO train2017 and unlabeled2017, no annotation.

    python recipes/hassod_coco.py coco/train2017 coco/unlabeled2017 -o OUT --gpus 8
    python recipes/hassod_coco.py ... --test coco/val2017 --gt coco/annotations --dataset coco_lvis

The same command goes on where it was stopped; --plan prints the steps and their cost. The thresholds alone are checked
on the first 200 photographs.
"""

from __future__ import annotations

import sys
from functools import partial

import stages
from stages import Step


def labels_by_threshold(photos: list[str], count: int, backbone: str, positions: str) -> str:
    """Masks per image with each threshold alone, mean over the first ``count`` photographs."""
    from masktree.backbones import load_backbone
    from masktree.discover.hassod import hassod
    from masktree.io.images import read_image
    from masktree.io.photos import find_photos

    network = load_backbone(backbone, "auto", positions=positions)
    paths = [photo.path for photo in find_photos(photos[:1])[0][:count]]
    images = [read_image(path) for path in paths]
    means = [
        sum(len(hassod(image, network, thresholds=(t,))) for image in images) / len(images) for t in (0.1, 0.2, 0.4)
    ]
    return " / ".join(f"{mean:.2f}" for mean in means) + f" labels per image of {len(images)}"


def main() -> int:
    options = stages.parse(__doc__ or "")
    expected = "12.69 labels per image (the paper's ensemble of the three thresholds)"
    labels = stages.labels_step(options, "hassod", expected, stages.vit_tflops(480))
    backbone = ("embedded", "timm") if options.toy else ("dino-vitb8", "dino")
    photos = [str(path) for path in options.photos]
    check = partial(labels_by_threshold, photos, 1 if options.toy else 200, *backbone)
    single = "2.58 / 4.20 / 11.61 (the paper's ablation); 2.6 to 3.5, 4.2 to 5.8, 11.6 to 12.7 on any data set"
    steps = [
        Step("labels of single thresholds .1, .2, .4", (), single, check),
        labels,
        stages.train_step(
            "detector", options, "hassod", stages.train_tflops("hassod", 32_000 * 16), "--steps", "32000"
        ),
        stages.self_train_step(
            "Mean Teacher",
            options,
            "hassod",
            stages.train_tflops("hassod", 8000 * (8 + 8)) * 7 / 6,  # the teacher's forward pass of 8 images
            "--setting",
            "paper",
        ),
    ]
    of_labels = "AR1000, S, M, L 8.9, 1.7, 12.4, 29.1 on COCO and LVIS val2017 (the paper)"
    of_model = "AR1000 22.5 on LVIS, 27.8 ADE20K, 26.2 EntitySeg, 26.0 SA-1B, 11.4 PACO (the paper)"
    return stages.run([*steps, *stages.report_steps(options, labels, "corrected", of_labels, of_model)], options)


if __name__ == "__main__":
    sys.exit(main())
