"""The collapse monitor: when it ends a run, when it warns, and that its state can be reloaded."""

from __future__ import annotations

import pytest
import torch

from masktree.errors import FormatError, InputError, TrainingError
from masktree.train.collapse_monitor import CollapseMonitor
from tests.train.test_pseudo_label_thresholds import reload


def test_a_teacher_that_finds_nothing_ends_the_run_after_a_full_window():
    monitor = CollapseMonitor(window=10, origin="runs/first")
    for _ in range(9):
        monitor.update(4, 0, 4)
    with pytest.raises(
        TrainingError, match=r"got 0 per image over the 10 steps up to step 10 .*lower score threshold.*runs/f"
    ):
        monitor.update(4, 0, 4)


def test_one_mask_of_the_whole_picture_ends_the_run():
    monitor = CollapseMonitor(window=5)
    for _ in range(4):
        monitor.update(8, 8, 8)
    with pytest.raises(TrainingError, match="one mask of the whole image, in 100% of the images"):
        monitor.update(8, 8, 8)
    healthy = CollapseMonitor(window=5)
    for _ in range(50):
        healthy.update(8, 8, 7)  # one mask per image, but one that means something in each eighth
    assert healthy.pop_warning() is None


def test_a_run_is_judged_by_its_last_steps_only():
    monitor = CollapseMonitor(window=10)
    for _ in range(200):
        monitor.update(4, 40, 0)
    for _ in range(9):
        monitor.update(4, 0, 4)  # 1 mask per image left in the window
    assert monitor.pop_warning() == (
        "the teacher finds fewer and fewer masks: 4.0 per image now, 10.0 at first; it may be collapsing"
    )
    assert monitor.pop_warning() is None
    with pytest.raises(TrainingError, match="expected masks from the teacher"):
        monitor.update(4, 0, 4)


def test_a_warning_is_told_once():
    monitor = CollapseMonitor(window=4)
    told = []
    for kept in [20] * 4 + [11] * 8 + [9] * 8:
        monitor.update(2, kept, 0)
        told.append(monitor.pop_warning())
    assert [i for i, text in enumerate(told) if text] == [14]


def test_a_reloaded_monitor_goes_on_with_the_same_memory():
    first, unbroken = CollapseMonitor(window=6), CollapseMonitor(window=6)
    for monitor in (first, unbroken):
        for kept in (30, 20, 10, 9, 8, 7, 6):
            monitor.update(1, kept, 0)
    second = CollapseMonitor(window=6)
    second.load_state_dict(reload(first.state_dict()))
    for kept in (5, 4, 3, 2, 1, 0):
        for monitor in (second, unbroken):
            monitor.update(1, kept, 0)
        assert (second.pop_warning() is None) == (unbroken.pop_warning() is None)
    assert torch.equal(second.state_dict()["history"], unbroken.state_dict()["history"])
    with pytest.raises(FormatError, match="collapse monitor over 7 steps"):
        CollapseMonitor(window=7).load_state_dict(first.state_dict())
    with pytest.raises(FormatError, match="restart the run"):
        CollapseMonitor(window=6).load_state_dict({})
    with pytest.raises(InputError, match="at least 1 step; got 0"):
        CollapseMonitor(window=0)
