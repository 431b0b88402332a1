"""Checks of prompts, and masks at low resolution."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.prompt import Prompt
from masktree.prompt.prompt import LOW_RES_SIZE, low_res_logits
from tests.prompt.planted import SIZE, box, iou

ONE = {"point_coords": [[3, 4]], "point_labels": [1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected a click inside the entity .* got none"),
        ({"point_coords": [[3, 4]], "point_labels": [0]}, "got 1 clicks outside it"),
        ({"granularity": 0.5}, "expected a click inside"),
        ({"point_coords": [[3, 4]]}, "point_coords and point_labels together; got only point_coords"),
        ({"point_labels": [1]}, "got only point_labels"),
        ({"point_coords": [3, 4], "point_labels": [1]}, r"clicks \(N, 2\)"),
        ({"point_coords": [[3, 4]], "point_labels": [1, 1]}, r"labels \(N,\)"),
        ({"point_coords": [[3, 4]], "point_labels": [2]}, "labels 1 .inside., 0"),
        ({"point_coords": [[3, 4]], "point_labels": ["in"]}, "point_labels as an array of numbers"),
        ({"point_coords": [[61, 4]], "point_labels": [1]}, r"0 <= x < 60, 0 <= y < 40\); got \(61, 4\)"),
        ({"point_coords": [[-1.5, 4]], "point_labels": [1]}, "inside the image"),
        ({"point_coords": [[np.nan, 4]], "point_labels": [1]}, "finite point_coords"),
        ({"point_coords": [[3, 4], [3.5, 4.5]], "point_labels": [1, 0]}, r"got \(3, 4\) as both"),
        ({"box": [1, 2, 3]}, r"one box \(4,\)"),
        ({"box": np.ones((2, 4))}, r"one box \(4,\)"),
        ({"box": [5, 2, 5, 9]}, "with an area"),
        ({"box": [9, 2, 5, 9]}, "with an area"),
        ({"box": [5, 2, 161, 9]}, "at least half is inside the image of 60 x 40"),
        ({"box": "all"}, "box as an array of numbers"),
        ({"mask_input": np.zeros((1, 128, 128))}, r"mask_input \(1, 256, 256\)"),
        ({"mask_input": np.full((1, 256, 256), np.inf)}, "finite mask_input"),
        ({**ONE, "granularity": 0.05}, "granularity from 0.1"),
        ({**ONE, "granularity": 1.01}, "granularity from 0.1"),
        ({**ONE, "granularity": float("nan")}, "granularity from 0.1"),
        ({**ONE, "granularity": "fine"}, "granularity from 0.1"),
    ],
)
def test_invalid_prompts_raise_an_input_error(arguments, message):
    with pytest.raises(InputError, match=message):
        Prompt.read(SIZE, **arguments)


def test_valid_prompts_are_read():
    known = Prompt.read(SIZE, [[59.9, 39.9], [0, 0]], np.array([1, 0], np.uint8), np.array([[0, 0, 60, 40]]))
    assert known.pixels.tolist() == [[59, 39], [0, 0]]
    assert known.positive.tolist() == [True, False]
    assert known.box.tolist() == [0, 0, 60, 40]
    assert Prompt.read(SIZE, [[1, 2]], [0], box=[0.5, 1.5, 7.2, 9]).window == (slice(1, 9), slice(0, 8))
    assert Prompt.read(SIZE, **ONE, granularity=1).granularity == 1.0


@pytest.mark.parametrize("size", [(40, 60), (600, 400), (7, 900), (1, 1)])
def test_a_mask_comes_back_from_low_res_logits(size):
    mask = box(0, 0, max(1, size[0] // 2), max(1, 2 * size[1] // 3), size)
    low = low_res_logits(mask[None])
    assert low.shape == (1, LOW_RES_SIZE, LOW_RES_SIZE)
    assert low.dtype == np.float32
    assert abs(low).max() <= 10
    back = Prompt.read(size, mask_input=low).inside
    assert back.shape == size
    assert iou(back, mask) > 0.95


def test_low_resolution_covers_the_square_of_the_longer_side():
    low = low_res_logits(np.ones((1, 100, 200), np.bool_))[0]
    assert (low[:128] == 10).all()
    assert (low[128:] == -10).all()
