"""A label set of planted rectangles, and runs on it with a model of three convolutions.

    python -m tests.train.planted LABELS RUN [STEPS] [BATCH] [PARTS] [FROM]

starts such a run in a process of its own, or self-training from the run FROM on, for tests that kill it or run several
of them side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.train.augmentation import Augmentation
from masktree.train.optimiser import Optimisation
from masktree.train.options import RunOptions
from masktree.train.presets import Preset
from masktree.train.self_train import self_train
from masktree.train.self_training_settings import TeacherStudentSettings, find_method
from masktree.train.train import train
from masktree.train.validation import Validation
from masktree.trees.masktree import MaskTree
from tests.models.standins import CONFIG, TinyModel
from tests.train.labelled import write_labels

SIDE = 64
OPTIMISATION = Optimisation(
    lr=0.01, weight_decay=0.01, steps=12, warmup_steps=2, schedule="cosine", batch_size=4, clip_norm=1.0, ema_decay=0.9
)
PRESET = Preset(CONFIG, OPTIMISATION, Augmentation(crop_size=SIDE, scale=(0.8, 1.4), paste_prob=0.5, jitter_prob=0.5))

# The scores of the model of three convolutions are near a half.
CORRECTION: dict[str, object] = {"score_threshold": 0.2, "lr": 0.01, "ema_decay": 0.9}


def make_labels(folder: Path, count: int = 6, shard_size: int = 1000) -> Path:
    """PhotoDataset of two nested rectangles each, in FOLDER/photos, and their label set, in FOLDER/labels."""
    photos, labels = folder / "photos", folder / "labels"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    trees = {}
    for index in range(count):
        image = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        masks = np.zeros((2, SIDE, SIDE), bool)
        top, left = rng.integers(4, 20, 2)
        masks[0, top : top + 36, left : left + 32] = True
        masks[1, top + 4 : top + 20, left + 4 : left + 16] = True
        image[masks[0]] += np.array([150, 60, 0], np.uint8)
        image[masks[1]] += np.array([0, 60, 150], np.uint8)
        Image.fromarray(image).save(photos / f"{index}.png")
        trees[f"{index}.png"] = MaskTree.from_masks(masks)
    write_labels(labels, photos, trees, shard_size)
    return labels


def run(
    labels: Path, output: Path, preset: Preset = PRESET, *, init_from: Path | None = None, **options: object
) -> int:
    """Train the model of three convolutions. ``options``: of ``RunOptions``."""
    return train(labels, output, preset, run_options(options), init_from=init_from, build_model=build)


def correct(
    first: Path,
    labels: Path,
    output: Path,
    settings: TeacherStudentSettings,
    *,
    collapse_window: int = 100,
    validation: Validation | None = None,
    **options: object,
) -> int:
    """Self-training of the model of three convolutions, as ``run``."""
    values, further = run_options(options), {"collapse_window": collapse_window, "validation": validation}
    return self_train(first, labels, output, settings, values, build_model=build, **further)


def run_options(values: Mapping[str, object]) -> RunOptions:
    return RunOptions(**({"device": "cpu", "sample_every": 0} | dict(values)))


def build(config: object, *, weights: bool) -> TinyModel:
    return TinyModel(config)


if __name__ == "__main__":
    steps, batch, parts = (int(value) for value in [*sys.argv[3:6], *("12", "4", "1")[len(sys.argv[:6]) - 3 :]])
    optimisation = replace(OPTIMISATION, steps=steps, batch_size=batch, accumulation_steps=parts)
    labels, output, first = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[6:]
    try:
        if first:
            settings = find_method("sohes", steps=steps, batch_size=batch, accumulation_steps=parts, **CORRECTION)
            correct(Path(first[0]), labels, output, settings, save_every=0)
        else:
            run(labels, output, replace(PRESET, optimisation=optimisation), save_every=0)
    except KeyboardInterrupt:
        sys.exit(130)
    # Threads of connections between processes that are left to the exit of Python abort it now and then.
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    sys.exit(f"threads are left: {left}" if any("gloo" in name for name in left) else 0)
