"""The example script that a user of an exported model can copy."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "run_onnx.py"


@pytest.fixture(scope="session")
def example() -> dict[str, Callable[..., Any]]:
    """Its functions by name."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install masktree[onnx].")
    return runpy.run_path(str(EXAMPLE))
