"""Progress on the terminal: one bar with rate and time left, and a line per failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What a stage tells while it works."""

    def advance(self, note: str = "") -> None:
        """One image is done; ``note`` stands beside the bar."""

    def tell(self, text: str) -> None:
        """A line of its own."""

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        """One image has failed; ``counted`` if it is one of those that the bar counts."""


class Silent:
    """Shows nothing."""

    def advance(self, note: str = "") -> None:
        pass

    def tell(self, text: str) -> None:
        pass

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        pass


class Bar:
    """A rich progress bar on standard error; plain lines where that is not a terminal."""

    def __init__(self, description: str, total: int, kept: int, unit: str = "images") -> None:
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
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        if kept:
            self.console.print(f"{kept} of {kept + total} already done, kept")
        self.task = self.bar.add_task(description, total=total, note="")

    def advance(self, note: str = "") -> None:
        self.bar.update(self.task, advance=1, note=note)

    def tell(self, text: str) -> None:
        self.console.print(one_line(text), markup=False, soft_wrap=True)

    def fail(self, path: str, error: str, *, counted: bool = True) -> None:
        self.console.print(f"failed: {one_line(path)}: {one_line(error)}", markup=False, soft_wrap=True)
        if counted:
            self.bar.advance(self.task)


def one_line(text: str) -> str:
    """Text for a terminal: control characters and undecodable bytes of file names are escaped."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


@contextmanager
def progress_bar(description: str, total: int, kept: int, *, show: bool, unit: str = "images") -> Iterator[Progress]:
    """A live bar over ``total`` images, or a silent stand-in; closed even when the work is interrupted.

    ``unit``: images, with images per second; or what else is counted, with seconds for each.
    """
    if not show:
        yield Silent()
        return
    bar = Bar(description, total, kept, unit)
    with bar.bar:
        yield bar
