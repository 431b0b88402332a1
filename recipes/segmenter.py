"""A segmenter that groups, from a folder of photographs in three phases, on one core without a GPU or a download.

    python recipes/segmenter.py PHOTOS -o OUT
    python recipes/segmenter.py PHOTOS -o OUT --test HELD_OUT --gt HELD_OUT.json --dataset json

1. Pseudo-labels: nodes and combinations of the default method in the order learned from motion.
2. A network that groups: a tiny SOHES model learns them at 192 pixels, the size that is fast enough beside the method.
3. Labels anew, from the masks of the network and of the dendrogram that its votes merge anew, in one order (segment
   --pool --regroup), and the network again.

Cost: labels half a second of one core a photograph, training 40 minutes of one core. Expected values are those of two
seeds on 2,493 photographs of mixed origin, and on every second one of them in the third phase (docs/benchmarks.md,
"Results"). The same command goes on where it was stopped; --plan prints the steps. The segmenter is OUT/again:
masktree segment --model OUT/again --pool --regroup. ``recipes/first_masks.py`` draws its first masks,
``benchmarks/results.py`` measures it.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import stages
from stages import Step

LABELS_PER_IMAGE = 40  # of the best masks, as many as the published systems have or more (our choice)
STEPS = {"run": 4800, "again": 1500}  # of 4 images (our choice: 28 and 10 minutes on one core)


def discover_step(options: Namespace, title: str, name: str, expected: str, *segmenter: str) -> Step:
    """Pseudo-labels of all photographs in the folder OUT/``name``."""
    folder = options.output / name
    count, toy = (4, ("--device", "cpu")) if options.toy else (LABELS_PER_IMAGE, ())
    return Step(
        title,
        (
            *("discover", *map(str, options.photos), "-o", str(folder), *segmenter),
            *("--average-labels", str(count), "--workers", str(options.workers), *toy),
        ),
        expected,
        lambda: f"{stages.labels_per_image(folder):.2f} labels per image",
    )


def train_step(options: Namespace, title: str, labels: str, run: str, expected: str, *settings: str) -> Step:
    """A tiny model on the labels OUT/``labels``, in OUT/``run``."""
    folder = options.output / run
    size = stages.TOY_TRAIN if options.toy else ("--steps", str(STEPS[run]), *settings)
    start = settings[settings.index("--from") :][:2] if options.toy and "--from" in settings else ()
    image_size = ("--image-size", "64", "--num-queries", "12") if options.toy else ()
    return Step(
        title,
        (
            *("train", str(options.output / labels), "-o", str(folder), "--preset", "sohes", "--size", "tiny"),
            *(*size, *start, *image_size),
        ),
        expected,
        lambda: f"loss {last_loss(folder):.1f}",
    )


def main() -> int:
    options = stages.parse(__doc__ or "")
    out = options.output
    pool = ("--model", str(out / "run"), "--pool", "--regroup")
    labels = discover_step(
        *(options, "pseudo-labels of the method masktree", "labels", "45 labels per image"),
        *("--method", "masktree", "--masks", "all"),
    )
    again = ("--lr", "3e-4", "--from", str(out / "run"))
    steps = [
        labels,
        train_step(options, "a network at 192 pixels", "labels", "run", "loss 15.4 to 15.7"),
        discover_step(
            options, "labels anew, of the network and the method", "labels-again", "44 labels per image", *pool
        ),
        train_step(options, "the network again", "labels-again", "again", "loss 15.1 to 15.2", *again),
    ]
    reports = stages.report_steps(options, labels, "again", "", "", "--pool", "--regroup")
    return stages.run([*steps, *reports], options)


def last_loss(run: Path) -> float:
    """Mean loss of the last fifty steps of a run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()[-50:]
    losses = [json.loads(line)["loss"] for line in lines]
    return float(sum(losses) / len(losses))


if __name__ == "__main__":
    sys.exit(main())
