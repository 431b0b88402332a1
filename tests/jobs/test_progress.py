"""The bar of a resumed run."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from masktree.jobs.progress import ProgressBar, loading


def shown(bar: ProgressBar) -> str:
    """The bar as a terminal of 80 columns shows it."""
    output = io.StringIO()
    Console(file=output, width=80, force_terminal=True, color_system=None).print(bar.bar.get_renderable())
    return output.getvalue().rstrip()


@pytest.mark.parametrize(("unit", "rate"), [("images", "0.50 images/s"), ("step", "2.00 s/step")])
def test_what_was_done_before_does_not_count_for_speed_and_time_left(monkeypatch, unit, rate):
    now = [1000.0]
    monkeypatch.setenv("COLUMNS", "80")
    bar = ProgressBar("segment", total=100, skipped=900, unit=unit)
    bar.bar.get_time = lambda: now[0]
    bar.bar.start()
    try:
        for _ in range(11):  # one in two seconds
            now[0] += 2
            bar.advance()
        line = shown(bar)
    finally:
        bar.bar.stop()
    assert "911/1000 " in line
    assert rate in line
    assert "elapsed 0:00:" in line
    assert "left 0:02:58" in line  # 89 of 2 seconds
    assert len(line) <= 80
    assert "\n" not in line


def test_an_item_that_takes_minutes_has_a_speed(monkeypatch):
    now = [0.0]
    bar = ProgressBar("segment", total=10, skipped=0)
    bar.bar.get_time = lambda: now[0]
    for _ in range(3):
        now[0] += 120
        bar.advance()
    assert re.search(r"left 0:14:00", shown(bar))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_loading_is_shown_on_a_terminal_and_removed(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with loading("run/", show=True):
        assert capsys.readouterr().err == ("loading run/\r" if is_terminal else "")
    assert capsys.readouterr().err == (" " * 12 + "\r" if is_terminal else "")
