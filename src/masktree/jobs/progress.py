"""Progress on the terminal: a bar with rate and remaining time, and a line per failure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_TEXT_WIDTH = 76  # columns of the texts beside the bar
_SPEED_PERIOD = 600.0  # seconds over which the speed is averaged: a large image may take minutes (our choice)


class Progress(Protocol):
    """Reports the progress of a stage."""

    def advance(self, status: str = "") -> None:
        """Count one item as done and show ``status`` beside the bar."""

    def print(self, text: str) -> None:
        """Print one line."""

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        """Print the failure of one item; ``counted``: whether it is part of the bar's total."""


class NoProgress:
    """Shows nothing."""

    def advance(self, status: str = "") -> None:
        pass

    def print(self, text: str) -> None:
        pass

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        pass


class ProgressBar:
    """A rich progress bar on standard error; if that is not a terminal, its last state."""

    def __init__(self, description: str, total: int, skipped: int, unit: str = "images") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                if not speed:
                    return Text("")
                return Text(f"{speed:.2f} {unit}/s" if unit == "images" else f"{1 / speed:.2f} s/{unit}")

        self.console = Console(stderr=True, highlight=False)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(max(3, min(40, self.console.width - _TEXT_WIDTH))),
            MofNCompleteColumn(),
            TextColumn(unit if unit == "images" else f"{unit}s"),
            Rate(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            speed_estimate_period=_SPEED_PERIOD,
        )
        if skipped:
            self.console.print(f"{skipped} of {skipped + total} already done")
        # What was done before does not count for the speed, which is taken from the calls of ``advance``.
        self.task = self.bar.add_task(description, total=skipped + total, completed=skipped, status="")

    def advance(self, status: str = "") -> None:
        self.bar.update(self.task, advance=1, status=status)

    def print(self, text: str) -> None:
        self.console.print(one_line(text), markup=False, soft_wrap=True)

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        self.console.print(f"failed: {one_line(path)}: {one_line(error)}", markup=False, soft_wrap=True)
        if counted:
            self.bar.advance(self.task)


def one_line(text: str) -> str:
    """Text as one terminal line: control characters and undecodable bytes of file names are escaped."""
    decoded = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


def notify(text: str, *, show: bool) -> None:
    """Print one line on standard error, before or between bars, if ``show``."""
    if show:
        print(one_line(text), file=sys.stderr, flush=True)


@contextmanager
def loading(what: str, *, show: bool) -> Iterator[None]:
    """Show "loading ``what``" on a terminal until the end of the block, if ``show``."""
    if not show or not sys.stderr.isatty():
        yield
        return
    text = one_line(f"loading {what}")
    # No live display: a download inside has a bar of its own, which begins in the same line.
    print(text, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(text), end="\r", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(description: str, total: int, skipped: int, *, show: bool, unit: str = "images") -> Iterator[Progress]:
    """A live bar over items, or ``NoProgress`` if not ``show``; closed even when the work is interrupted.

    Args:
        description: label of the bar.
        total: number of items to do.
        skipped: number of items that were done before; the bar begins there.
        show: whether there is a bar.
        unit: "images" shows images per second, another unit seconds per unit.
    """
    if not show:
        yield NoProgress()
        return
    from masktree import kernels  # numba takes half a second to import

    bar = ProgressBar(description, total, skipped, unit)
    compiling = f"compiling kernels (once, for {kernels.DURATION})"
    with bar.bar, kernels.compilation_reported(lambda: bar.print(compiling)):
        yield bar
