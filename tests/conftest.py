"""Shared fixtures. Runtime type checks are on for the whole test run, before masktree is imported."""

from __future__ import annotations

import gc
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

# Files that take longest, in their order: first one that compiles most kernels into the cache beside one that needs
# none, last what fills the gaps, so that two workers end together.
_FIRST = (
    "test_predict.py",
    "models/onnx/test_promptable.py",
    "models/onnx/test_export.py",
    "train/test_self_learning.py",
    "train/test_learning.py",
    "train/test_self_train.py",
    "train/test_run_folder.py",
    "test_cli.py",
    "faults/test_crashes.py",
    "models/promptable/test_model.py",
    "train/test_train_command.py",
    "docs/test_snippets.py",
    "stages/test_rounds.py",
    "test_fork.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; a file stays together."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage() -> None:
    """Leave what imports have made, some million objects, out of later garbage collections.

    Every training run ends with one, which would take longer than the few steps of a test.
    """
    gc.collect()
    gc.freeze()


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
