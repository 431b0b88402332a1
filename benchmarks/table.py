"""A Markdown table that is printed row by row, as results come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev


def mean_and_deviation(values: Sequence[float | None]) -> str | None:
    """Mean ± standard deviation as text; None where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


class Table:
    """Prints a header at once and each row when it is added.

    Args:
        title: printed above the table.
        columns: column names and the format of their values, such as ``".3f"``; ``""`` for text.
    """

    def __init__(self, title: str, columns: Mapping[str, str]) -> None:
        self._formats = list(columns.values())
        self._widths = [max(len(name), 6 if form else 12) for name, form in columns.items()]
        print(f"\n{title}\n")
        self._print(list(columns))
        print("|" + "|".join("-" * (width + 2) for width in self._widths) + "|", flush=True)

    def add(self, *cells: object) -> None:
        """Print a row; None is shown as "-", a string as it is."""
        texts = [
            "-" if cell is None else cell if isinstance(cell, str) else format(cell, form)
            for cell, form in zip(cells, self._formats, strict=True)
        ]
        self._print(texts)

    def _print(self, texts: list[str]) -> None:
        cells = (
            text.rjust(width) if form else text.ljust(width)
            for text, width, form in zip(texts, self._widths, self._formats, strict=True)
        )
        print("| " + " | ".join(cells) + " |", flush=True)
