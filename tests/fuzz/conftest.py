"""The table of fuzz targets at the end of a run."""

from __future__ import annotations

import pytest

from .target import OUTCOMES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    terminalreporter.section("fuzz targets")
    row = "{:24} {:>9} {:>9} {:>11} {:>13} {:>9} {:>9}".format
    terminalreporter.write_line(row("target", "inputs", "results", "own errors", "other errors", "seconds", "slowest"))
    for name, outcome in OUTCOMES.items():
        counts = (outcome.inputs, outcome.results, outcome.own_errors, outcome.other_errors)
        numbers = [f"{count:,}" for count in counts]
        terminalreporter.write_line(row(name, *numbers, f"{outcome.seconds:.1f}", f"{outcome.slowest:.2f}"))
