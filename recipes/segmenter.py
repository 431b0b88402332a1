"""A segmenter that groups, from a folder of photographs in three phases, on one core without a GPU or a download.

    python recipes/segmenter.py PHOTOS -o OUT
    python recipes/segmenter.py PHOTOS -o OUT --test HELD_OUT --gt HELD_OUT.json --dataset json

1. Pseudo-labels: nodes and combinations of the default method in the order learned from motion.
2. A network that groups: a tiny SOHES model learns them, at 192 and then at 320 pixels.
3. Labels anew, from the masks of the network and of the method in one order (segment --pool), and the network again.

The first two steps were run on 1,200 photographs, the second one with 1,000 steps; the others at toy size only
(docs/benchmarks.md, "A network that groups"). The same command goes on where it was stopped; --plan prints the steps.
The segmenter is OUT/again: masktree segment --model OUT/again --pool. ``recipes/phases.py`` draws the phases,
``benchmarks/results.py`` measures them.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import stages
from stages import Step

LABELS_PER_IMAGE = 40  # of the best masks, as many as the published systems have or more (our choice)
STEPS = {"run": 4800, "fine": 800, "again": 800}  # of 4 images (our choice: an hour and a quarter on one core)
LOSS = "loss below 18.1, which 1,000 steps on 1,200 photographs have"
FINE = ("--image-size", "320", "--lr", "3e-4")


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
    pool = ("--model", str(out / "fine"), "--pool")
    labels = discover_step(
        *(options, "pseudo-labels of the method masktree", "labels", "36 labels per image"),
        *("--method", "masktree", "--masks", "all"),
    )
    steps = [
        labels,
        train_step(options, "a network at 192 pixels", "labels", "run", LOSS),
        train_step(options, "the same at 320 pixels", "labels", "fine", "", *FINE, "--from", str(out / "run")),
        discover_step(options, "labels anew, of the network and the method", "labels-again", "", *pool),
        train_step(options, "the network again", "labels-again", "again", "", *FINE, "--from", str(out / "fine")),
    ]
    reports = stages.report_steps(options, labels, "again", "", "", "--pool")
    return stages.run([*steps, *reports], options)


def last_loss(run: Path) -> float:
    """Mean loss of the last fifty steps of a run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()[-50:]
    losses = [json.loads(line)["loss"] for line in lines]
    return float(sum(losses) / len(losses))


if __name__ == "__main__":
    sys.exit(main())
