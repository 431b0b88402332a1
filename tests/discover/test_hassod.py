from __future__ import annotations

import inspect

import numpy as np
import pytest

from masktree.discover.hassod import hassod
from masktree.refine import dense_crf
from tests.oracles.discover import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    PaintedBackbone,
    best_iou,
    cells,
    chain_vectors,
    paint,
    scrambled,
    unchanged,
)

SIDE = 96  # 12 x 12 cells
EYE, FACE, TORSO = (cells(12, 12, *w) for w in ((3, 6, 5, 7), (3, 6, 2, 5), (6, 10, 2, 7)))
# Eye and face join at 0.3, that head and the torso at 0.15, the background never.
VECTORS = chain_vectors([6, 9, 20], [0.3, 0.15])
BACKGROUND = np.eye(8)[7]
PALETTE = {GREEN: BACKGROUND, RED: VECTORS[0], BLUE: VECTORS[1], WHITE: VECTORS[2]}


def figure() -> np.ndarray:
    return paint(GREEN, [(EYE, RED), (FACE, BLUE), (TORSO, WHITE)])


def run(image, refiner=unchanged, **options):
    return hassod(image, PaintedBackbone(PALETTE), side=SIDE, refiner=refiner, **options)


def test_finds_whole_part_and_subpart():
    tree = run(figure())
    wanted = [("whole", EYE | FACE | TORSO), ("part", EYE | FACE), ("part", TORSO), ("subpart", EYE), ("subpart", FACE)]
    assert len(tree) == len(wanted)
    index = {}
    for level, mask in wanted:
        iou, number = best_iou(tree, mask)
        assert iou > 0.93  # corners where three labels meet belong to none
        assert tree.record(number)["level"] == level
        index[mask.tobytes()] = number
    whole, head = index[(EYE | FACE | TORSO).tobytes()], index[(EYE | FACE).tobytes()]
    assert tree.parents[whole] == -1
    assert tree.parents[index[TORSO.tobytes()]] == tree.parents[head] == whole
    assert tree.parents[index[EYE.tobytes()]] == tree.parents[index[FACE.tobytes()]] == head
    np.testing.assert_array_equal(tree.scores, 1.0)


def test_the_published_refiner_finds_them_too():
    tree = run(figure(), refiner=dense_crf)
    for mask in (EYE | FACE | TORSO, EYE | FACE, TORSO, EYE, FACE):
        assert best_iou(tree, mask)[0] > 0.95


def test_each_threshold_adds_its_regions():
    assert len(run(figure(), thresholds=(0.1,))) == 1
    assert len(run(figure(), thresholds=(0.2,))) == 2
    assert len(run(figure(), thresholds=(0.4,))) == 3
    assert len(run(figure(), thresholds=(0.4, 0.4, 0.2))) == 4  # torso is in both, and is one mask


def test_background_on_three_corners_is_dropped():
    tree = run(figure(), max_corners=4)
    assert best_iou(tree, np.ones((SIDE, SIDE), bool))[0] == 1.0  # the background, its hole filled
    corner = cells(12, 12, 0, 3, 0, 3)  # one corner is no reason
    assert best_iou(run(paint(GREEN, [(corner, RED)])), corner)[0] > 0.95
    bar = cells(12, 12, 0, 3, 0, 12)  # nor are two
    assert best_iou(run(paint(GREEN, [(bar, RED)])), bar)[0] > 0.95
    frame = cells(12, 12, 0, 12, 0, 3) | bar  # three are
    tree = run(paint(GREEN, [(frame, RED)]))
    assert best_iou(tree, frame)[0] < 0.5
    assert best_iou(run(paint(GREEN, [(frame, RED)]), max_corners=3), frame)[0] > 0.95


def test_area_is_counted_in_original_pixels():
    image = np.kron(figure(), np.ones((2, 2, 1), np.uint8))
    areas = sorted(run(image).areas)
    assert abs(areas[0] - 4 * EYE.sum()) < 100  # without its corners
    tree = run(image, min_area=1600)  # above the eye's 1536; at the working size all but the whole would be below
    assert len(tree) == 4
    assert best_iou(tree, np.kron(EYE, np.ones((2, 2), bool)))[0] < 0.5


def test_masks_that_refinement_changes_too_much_are_dropped():
    assert len(run(figure(), refiner=scrambled)) == 0

    def eyeless(image, probabilities, **_):
        """Gives the smallest label's pixels to the others."""
        changed = probabilities.copy()
        if len(changed) > 3:
            changed[np.argmin(changed.sum(axis=(1, 2)))] = 0
        return changed / np.maximum(changed.sum(axis=0), 1e-6)

    tree = run(figure(), refiner=eyeless)
    assert best_iou(tree, EYE)[0] < 0.5
    assert best_iou(tree, FACE)[0] > 0.5


def test_iou_with_the_refined_mask_is_the_score_and_the_criterion():
    def moved(image, probabilities, **_):
        return np.roll(probabilities, 8, axis=1)

    tree = run(figure(), refiner=moved, thresholds=(0.4,))
    iou, number = best_iou(tree, np.roll(TORSO, 8, axis=0))
    assert iou > 0.95
    assert abs(tree.scores[number] - 3 / 5) < 0.02  # 3 of 4 rows stay, of 5 together
    assert (
        best_iou(run(figure(), refiner=moved, thresholds=(0.4,), refine_iou=0.65), np.roll(TORSO, 8, axis=0))[0] < 0.5
    )


def test_holes_are_filled_after_the_area_is_counted():
    ring, hole = cells(12, 12, 4, 7, 4, 7), cells(12, 12, 5, 6, 5, 6)
    image = paint(GREEN, [(ring, RED), (hole, GREEN)])
    tree = run(image)
    iou, number = best_iou(tree, ring)
    assert iou > 0.95
    assert tree.mask(number)[hole].all()
    # Eight cells of 64 pixels less the rounded corners, about 500; with the hole about 550.
    assert tree.areas[number] > 545
    assert best_iou(run(image, min_area=540), ring)[0] < 0.5


def test_the_smallest_regions_beyond_the_limit_give_no_masks():
    tree = run(figure(), thresholds=(0.4,), max_labels=3)  # background, torso; face and eye share the third label
    assert len(tree) == 1
    assert best_iou(tree, TORSO)[0] > 0.95


def test_defaults_are_the_published_values():
    defaults = {k: p.default for k, p in inspect.signature(inspect.unwrap(hassod)).parameters.items()}
    assert defaults["thresholds"] == (0.4, 0.2, 0.1)
    assert defaults["side"] == 480
    assert defaults["refine_iou"] == 0.5
    assert defaults["min_area"] == 100
    assert defaults["max_corners"] == 2
    assert defaults["min_coverage"] == 0.9
    assert defaults["refiner"] is dense_crf


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (40, 70)])
def test_images_of_any_size_and_one_colour_give_trees(size):
    image = np.zeros((*size, 3), np.uint8)
    image[:] = GREEN
    tree = hassod(image, PaintedBackbone({GREEN: np.eye(2)[0], BLACK: np.eye(2)[1]}), side=48)
    assert tree.size == size
    assert len(tree) == 0  # all of it is background
