"""SOHES (Cao et al. 2024, arXiv 2404.12386): 200,000 images of SA-1B, no annotation.

    python recipes/sohes_sa1b.py SA1B_IMAGES -o OUT --gpus 8
    python recipes/sohes_sa1b.py ... --test HELD_OUT_IMAGES --gt HELD_OUT --dataset sa1b

The same command goes on where it was stopped; --plan prints the steps and their cost. The paper refines labels with
CascadePSP, which was trained on human masks; here it is the dense CRF.
"""

from __future__ import annotations

import sys

import stages

CROPS = 50  # of an image, for the estimate (our assumption)


def main() -> int:
    options = stages.parse(__doc__ or "")
    tflops = stages.vit_tflops(480) + CROPS * stages.vit_tflops(256)
    labels = stages.labels_step(options, "sohes", "more than 100 labels per image (paper)", tflops, "--quality", "best")
    steps = [
        labels,
        stages.train_step(
            "Mask2Former with an ancestor head",
            options,
            "sohes",
            stages.train_tflops("sohes", 100_000 * 16),
            toy=("--num-queries", "12"),
        ),
        stages.self_train_step(
            "teacher with a threshold for each size",
            options,
            "sohes",
            stages.train_tflops("sohes", 25_000 * 32) * 7 / 6,
        ),
    ]
    of_labels = (
        "AR1000, S, M, L 12.0, 3.5, 9.5, 20.7 with the CRF, 16.4, 6.0, 15.8, 22.6 with CascadePSP (paper, SA-1B)"
    )
    of_model = (
        "AR1000 33.3 on SA-1B, 30.5 COCO, 29.1 LVIS, 31.1 ADE20K, 33.5 EntitySeg, 36.0 PartImageNet, 17.1 PACO (paper)"
    )
    return stages.run([*steps, *stages.report_steps(options, labels, "corrected", of_labels, of_model)], options)


if __name__ == "__main__":
    sys.exit(main())
