"""Command-line arguments of the benchmarks."""

from __future__ import annotations

import argparse


def make_parser(docstring: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring, line breaks included."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
