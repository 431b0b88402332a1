from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from masktree.errors import FormatError, InputError
from masktree.labels import LabelSet
from masktree.train.label_store import LabelStore
from masktree.train.pseudo_label_thresholds import (
    INITIAL_THRESHOLD,
    MAX_THRESHOLD,
    MIN_THRESHOLD,
    PseudoLabelThresholds,
    labels_per_image,
    size_classes,
)
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.oracles.selection import dynamic_thresholds
from tests.train.labelled import random_tree, write_collection, write_labels

AREAS = np.array([100.0, 5000.0, 20000.0])


def random_step(images: int, rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """Masks of some images, of scores on the grid, on its borders, and alike."""
    return [
        [
            (float(np.float32(rng.choice([rng.random(), 0.7, 0.3, 1.0]))), float(rng.choice(AREAS)))
            for _ in range(rng.integers(0, 12))
        ]
        for _ in range(images)
    ]


def arrays(step: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([pair for image in step for pair in image], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def reload(state):
    """What a checkpoint does to a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# --- thresholds -----------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_coco():
    assert size_classes(np.array([1, 1023, 1023.9, 1024, 9215, 9216, 1e7])).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert size_classes(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("wanted", [(1.0, 0.5, 0.1), (0.0, 2.0, 100.0), (2.0, 2.0, 2.0)])
def test_dynamic_thresholds_are_those_of_the_definition(rng, wanted):
    thresholds, steps = PseudoLabelThresholds(wanted), []
    assert thresholds.values == (INITIAL_THRESHOLD, INITIAL_THRESHOLD, INITIAL_THRESHOLD)
    for _ in range(6):
        step = random_step(int(rng.integers(1, 60)), rng)
        thresholds.update(thresholds.count(*arrays(step)), len(step))
        steps.append(step)
        assert thresholds.values == pytest.approx(dynamic_thresholds(steps, wanted), abs=1e-12)


def test_as_many_masks_are_kept_as_the_labels_have(rng):
    wanted = (3.0, 1.0, 0.5)
    thresholds, kept = PseudoLabelThresholds(wanted), np.zeros(3)
    for step in range(400):
        scores, areas = rng.random(80), np.repeat(AREAS, [40, 24, 16])  # of 8 images: 5, 3 and 2 each
        if step >= 200:
            keep = thresholds.keep(scores, areas)
            kept += [keep[areas == area].sum() / 8 for area in AREAS]
        thresholds.update(thresholds.count(scores, areas), 8)
    np.testing.assert_allclose(kept / 200, wanted, rtol=0.1)
    assert thresholds.values == pytest.approx([0.4, 2 / 3, 0.75], abs=0.05)


def test_thresholds_stay_in_their_range(rng):
    thresholds = PseudoLabelThresholds((1000.0, 0.0, 0.0))
    scores, areas = rng.random(300), np.tile(AREAS, 100)
    thresholds.update(thresholds.count(scores, areas), 10)
    assert thresholds.values == (MIN_THRESHOLD, MAX_THRESHOLD, MAX_THRESHOLD)
    keep = thresholds.keep(scores, areas)
    np.testing.assert_array_equal(keep, scores >= np.tile([MIN_THRESHOLD, MAX_THRESHOLD, MAX_THRESHOLD], 100))
    assert not keep[scores < thresholds.lower_bound].any()


def test_thresholds_follow_a_teacher_that_changes(rng):
    thresholds = PseudoLabelThresholds((0.5, 0.5, 0.5))
    areas = np.repeat(AREAS, 40)
    for _ in range(100):
        thresholds.update(thresholds.count(rng.random(120), areas), 20)
    assert thresholds.values == pytest.approx([0.75] * 3, abs=0.03)
    for _ in range(300):
        thresholds.update(thresholds.count(0.6 * rng.random(120), areas), 20)
    assert thresholds.values == pytest.approx([0.45] * 3, abs=0.03)


def test_equal_counts_do_not_move_a_threshold_by_rounding():
    """The labels have two masks per image, the teacher too: sums of the same weights in other orders."""
    thresholds = PseudoLabelThresholds((2.0, 2.0, 2.0))
    for step in range(300):
        scores = np.repeat(np.array([0.85, 0.75]) - 0.001 * (step % 7), 3)
        thresholds.update(thresholds.count(scores, np.tile(AREAS, 2)), 1)
    assert min(thresholds.values) >= 0.744


def test_fixed_thresholds_are_exceeded_and_never_change(rng):
    thresholds = PseudoLabelThresholds()
    scores = np.array([0.7, np.nextafter(0.7, 1), 0.1, 1.0])
    assert thresholds.keep(scores, np.ones(4)).tolist() == [False, True, False, True]
    thresholds.update(thresholds.count(rng.random(50), np.ones(50)), 10)
    assert thresholds.values == (0.7, 0.7, 0.7)
    assert thresholds.lower_bound == 0.7
    assert PseudoLabelThresholds(fixed=0.0).keep(np.zeros(0), np.zeros(0)).shape == (0,)


def test_parts_of_a_step_add_up(rng):
    one, two = PseudoLabelThresholds((1.0, 1.0, 1.0)), PseudoLabelThresholds((1.0, 1.0, 1.0))
    for _ in range(20):
        step = random_step(6, rng)
        one.update(one.count(*arrays(step)), 6)
        two.update(two.count(*arrays(step[:3])) + two.count(*arrays(step[3:])), 6)
        assert one.values == two.values
    assert torch.equal(one.histogram, two.histogram)


def test_a_reloaded_state_goes_on_with_the_same_bits(rng):
    steps = [random_step(5, rng) for _ in range(30)]
    unbroken, first = PseudoLabelThresholds((1.0, 1.0, 1.0)), PseudoLabelThresholds((1.0, 1.0, 1.0))
    for step in steps[:17]:
        for thresholds in (unbroken, first):
            thresholds.update(thresholds.count(*arrays(step)), 5)
    second = PseudoLabelThresholds((1.0, 1.0, 1.0))
    second.load_state_dict(reload(first.state_dict()))
    for step in steps[17:]:
        for thresholds in (unbroken, second):
            thresholds.update(thresholds.count(*arrays(step)), 5)
    assert torch.equal(unbroken.histogram, second.histogram)
    assert unbroken.images == second.images
    assert unbroken.values == second.values


def test_other_states_and_numbers_are_refused():
    thresholds = PseudoLabelThresholds((1.0, 1.0, 1.0))
    for state in ({}, {"histogram": torch.zeros(3, 5), "images": 1.0}, {"histogram": torch.zeros(3, 1000)}):
        with pytest.raises(FormatError, match="state of dynamic thresholds"):
            thresholds.load_state_dict(state)
    for wanted in ((1.0, 1.0), (1.0, -1.0, 1.0), (1.0, np.inf, 1.0), (1.0, np.nan, 1.0)):
        with pytest.raises(InputError, match="three sizes"):
            PseudoLabelThresholds(wanted)
    with pytest.raises(InputError, match=r"threshold in \[0, 1\); got 1.0"):
        PseudoLabelThresholds(fixed=1.0)


def test_labels_are_counted_by_size(tmp_path):
    rng = np.random.default_rng(0)
    write_collection(tmp_path, {"a.png": (200, 150), "b.png": (64, 64), "c.png": (30, 30)})
    trees = {
        "a.png": random_tree((200, 150), 9, rng),
        "b.png": random_tree((64, 64), 5, rng),
        "c.png": MaskTree.from_masks(np.zeros((0, 30, 30), bool)),
    }
    write_labels(tmp_path / "labels", tmp_path / "photos", trees)
    store = LabelStore.of(LabelSet.open(tmp_path / "labels"))
    areas = [rle.decode(text, tree.size).sum() for tree in trees.values() for text in tree.rles]
    wanted = (
        sum(a < 1024 for a in areas) / 3,
        sum(1024 <= a < 9216 for a in areas) / 3,
        sum(a >= 9216 for a in areas) / 3,
    )
    assert min(wanted) > 0
    assert labels_per_image(store) == wanted
