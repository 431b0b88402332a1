"""UnSAM+ (Wang et al. 2024, arXiv 2406.20081): the labels of UnSAM beside human masks of 1 % of SA-1B.

    python recipes/unsam_plus.py SA1B_IMAGES --human SA1B_ANNOTATIONS -o OUT --gpus 8
    python recipes/unsam_plus.py ... --test HELD_OUT_IMAGES --gt HELD_OUT --dataset sa1b

Human labels are learned here: the model is not label-free, and its record says so. A pseudo-label is added where it
overlaps no human mask by an IoU above .02. The same command goes on where it was stopped; --plan prints the steps.
"""

from __future__ import annotations

import sys

import stages
from stages import Step


def main() -> int:
    options = stages.parse(__doc__ or "", human=True)
    labels, merged = stages.unsam_labels(options), options.output / "merged"
    sources = (str(options.human), str(options.output / "labels"))
    steps = [
        labels,
        Step(
            "human masks, and pseudo-labels where there is none",
            ("merge", *sources, "-o", str(merged), "--rule", "fill", "--iou", "0.02"),
            find=lambda: f"{stages.labels_per_image(merged):.2f} labels per image",
        ),
        stages.unsam_model(options, merged),
    ]
    of_model = (
        "AR1000 64.8 on SA-1B, 52.2 COCO, 50.8 LVIS, 45.3 ADE20K, 49.8 EntitySeg, 46.0 PartImageNet, 32.3 PACO (paper)"
    )
    report = stages.report_steps(options, labels, "run", stages.UNSAM_LABELS, of_model)
    return stages.run([*steps, *report], options)


if __name__ == "__main__":
    sys.exit(main())
