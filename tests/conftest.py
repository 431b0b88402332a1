"""Shared fixtures. Runtime type checks are on for the whole test run, before masktree is imported."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MASKTREE_CHECK_TYPES", "1")
# Several test workers share few cores: threads that spin for each other slow contended runs up to ten times.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference data (``parity/``, ``data/``) that is not part of the repository."""
    folder = Path(os.environ.get("MASKTREE_SHARED", ROOT.parent / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip("The reference data is not on this machine: set MASKTREE_SHARED to its folder.")
    return folder


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The example photographs of the repository."""
    return sorted(p for p in (ROOT / "examples" / "photos").iterdir() if p.suffix in {".jpg", ".png"})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
