"""UnSAM (Wang et al. 2024, arXiv 2406.20081): 100,000 images of SA-1B, no annotation.

    python recipes/unsam_sa1b.py SA1B_IMAGES -o OUT --gpus 8
    python recipes/unsam_sa1b.py ... --test HELD_OUT_IMAGES --gt HELD_OUT --dataset sa1b

The same command goes on where it was stopped; --plan prints the steps and their cost. Labels are refined with the
dense CRF, and MaskCut divides images instead of a detector.
"""

from __future__ import annotations

import sys

import stages


def main() -> int:
    options = stages.parse(__doc__ or "")
    labels = stages.unsam_labels(options)
    toy = ("--steps", "2", "--device", "cpu", "--sample-every", "0", "--score-threshold", "0.01")
    steps = [
        labels,
        stages.unsam_model(options, options.output / "labels"),
        stages.self_train_step(
            "one round of relabelling",
            options,
            "rounds",
            stages.train_tflops("unsam", 25_000 * 16) + stages.FORWARD_TFLOPS["unsam"] * 100_000,
            toy=toy,
        ),
    ]
    of_model = (
        "AR1000 41.9 on SA-1B, 40.5 COCO, 37.7 LVIS, 35.7 ADE20K, 39.6 EntitySeg, 51.6 PartImageNet, 27.5 PACO (paper)"
    )
    report = stages.report_steps(options, labels, "corrected/round-1/run", stages.UNSAM_LABELS, of_model)
    return stages.run([*steps, *report], options)


if __name__ == "__main__":
    sys.exit(main())
