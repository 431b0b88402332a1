"""Without usable files for compiled code the kernels still work. In processes of their own: numba looks for the folder
when modules are imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from masktree import kernels
from masktree.jobs import batch

NO_FOLDER = """
from numba.core import caching
(getattr(caching, "CacheImpl", None) or caching._CacheImpl)._locator_classes = []  # its name differs by version
"""
REMOVED_FOLDER = """
import os, shutil
import masktree.trees.rle
shutil.rmtree(os.environ["NUMBA_CACHE_DIR"])
open(os.environ["NUMBA_CACHE_DIR"], "w").close()
"""
SHOWN = """
from masktree.jobs.progress import progress_bar
with progress_bar("boxes", 1, 0, show=True):
    from masktree.trees import rle
    print(rle.boxes([b"m036000`0"], (9, 8)).tolist())
"""
BOX_OF_A_MASK = """
from masktree.trees import rle
print(rle.boxes([b"m036000`0"], (9, 8)).tolist())
"""


def box_of_a_mask(folder, preparation="", code=BOX_OF_A_MASK) -> str:
    """Standard error of a process that computes the box of a mask."""
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", preparation + code],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[[3.0, 2.0, 3.0, 3.0]]\n"
    return result.stderr


@pytest.mark.parametrize("fault", [NO_FOLDER, REMOVED_FOLDER], ids=["none", "removed"])
def test_kernels_work_without_a_folder_for_compiled_code(tmp_path, fault):
    errors = box_of_a_mask(tmp_path / "cache", fault)
    assert errors.count("set NUMBA_CACHE_DIR to a folder that you may write to") == 1


def test_a_bar_says_that_kernels_are_compiled_only_when_they_are(tmp_path):
    assert box_of_a_mask(tmp_path, code=SHOWN).count("compiling kernels (once, for 15 to 30 seconds)\n") == 1
    assert "compiling" not in box_of_a_mask(tmp_path, code=SHOWN)


def report_from_a_worker(item: int) -> None:
    kernels.report_compilation()
    kernels._warn_once()


def test_of_several_workers_that_compile_the_first_process_tells_once(capfd):
    told = []
    with kernels.compilation_reported(lambda: told.append("compiling")):
        results = list(batch.run([1, 2, 3, 4], report_from_a_worker, workers=2))
    assert [result.error for result in results] == [None] * 4
    assert told == ["compiling"]
    assert "NUMBA_CACHE_DIR" not in "".join(capfd.readouterr())  # only the first process warns


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_kernels_work_with_damaged_files_of_compiled_code(tmp_path, suffix):
    assert "NUMBA_CACHE_DIR" not in box_of_a_mask(tmp_path)
    files = list(tmp_path.rglob(f"*{suffix}"))
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:40])
    box_of_a_mask(tmp_path)
