"""MATLAB files that crash or stall the reader end in an error, and the next file is read."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from masktree.errors import FormatError
from masktree.evaluate import mat_file
from masktree.evaluate.mat_file import load_mat


@pytest.fixture
def good(tmp_path, rng):
    cell = np.empty((1, 2), object)
    cell[0, 0] = {"Segmentation": rng.integers(0, 9, (5, 7)).astype(np.uint16)}
    cell[0, 1] = {"Segmentation": np.ones((2, 3))}
    savemat(tmp_path / "good.mat", {"ucm2": rng.random((9, 11)), "groundTruth": cell}, do_compression=True)
    return tmp_path / "good.mat"


def unknown_element_type(path, rng):
    """A file whose numbers have a type that does not exist: SciPy looks it up beyond the end of its table."""
    savemat(path, {"ucm2": rng.random((9, 11))})
    content = path.read_bytes()
    tag = content.index(b"ucm2") + 4
    path.write_bytes(content[:tag] + b"\x9e" + content[tag + 1 :])
    return path


def is_good(path):
    content, expected = load_mat(path), loadmat(path)
    assert content.keys() == expected.keys()
    for cell, expected_cell in zip(content["groundTruth"].ravel(), expected["groundTruth"].ravel(), strict=True):
        np.testing.assert_array_equal(cell["Segmentation"][0, 0], expected_cell["Segmentation"][0, 0])
    return np.array_equal(content["ucm2"], expected["ucm2"])


def test_contents_equal_those_of_scipy_and_one_process_serves_all_files(good):
    assert is_good(good)
    reader = mat_file._readers[os.getpid()]
    assert is_good(good)
    assert mat_file._readers[os.getpid()] is reader
    assert reader.is_running()


def test_a_crash_of_the_reader_is_an_error(tmp_path, good, rng):
    path = unknown_element_type(tmp_path / "bad.mat", rng)
    with pytest.raises(FormatError, match=r"bad\.mat: expected a MATLAB file; got (one on which|a damaged)"):
        load_mat(path)
    assert is_good(good)


def test_a_killed_reader_is_an_error(tmp_path, good):
    os.mkfifo(tmp_path / "stalls.mat")  # opening it waits for a writer
    assert is_good(good)
    threading.Timer(0.2, mat_file._readers[os.getpid()]._process.kill).start()
    with pytest.raises(FormatError, match="got one on which the reader crashes"):
        load_mat(tmp_path / "stalls.mat")
    assert is_good(good)


def test_reading_ends_after_its_time(tmp_path, good, monkeypatch):
    os.mkfifo(tmp_path / "stalls.mat")
    assert is_good(good)
    with monkeypatch.context() as patch:
        patch.setattr(mat_file, "READ_SECONDS", 0.2)
        with pytest.raises(FormatError, match=r"more than 0\.2 seconds"):
            load_mat(tmp_path / "stalls.mat")
    assert is_good(good)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="The address space is limited on Linux only.")
def test_declared_sizes_beyond_the_limit_are_refused(tmp_path, good):
    savemat(tmp_path / "huge.mat", {"ucm2": np.zeros((3, 3))})
    content = (tmp_path / "huge.mat").read_bytes()
    tag = content.index(b"ucm2") + 4
    size = (2**31 - 8).to_bytes(4, "little")
    (tmp_path / "huge.mat").write_bytes(content[: tag + 4] + size + content[tag + 8 :])
    with pytest.raises(FormatError, match=r"huge\.mat: expected a MATLAB file; got"):
        load_mat(tmp_path / "huge.mat")
    assert is_good(good)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own_reader(good):
    assert is_good(good)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(is_good, [good] * 4).get(timeout=60) == [True] * 4
    assert is_good(good)


def test_reference_files_that_crash_scipy_are_errors(shared):
    files = sorted((shared / "cases" / "faults").glob("mat_crash_*.mat"))
    if not files:
        pytest.skip("The faulty files are not on this machine.")
    for path in files:
        with pytest.raises(FormatError, match="the reader crashes"):
            load_mat(path)
