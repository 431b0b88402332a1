from __future__ import annotations

import errno
import hashlib
import json
import math

import pytest

from masktree.errors import FormatError
from masktree.io.files import read_json, sha256_of, write_atomically, write_json


def test_the_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    write_atomically(path, lambda handle: handle.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["c.bin"]


def test_an_earlier_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "c.bin"
    path.write_bytes(b"old")

    def write(handle):
        handle.write(b"new")
        handle.flush()
        assert path.read_bytes() == b"old"

    write_atomically(path, write)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("no"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_the_earlier_file_and_no_temporary_one(tmp_path, error, before):
    path = tmp_path / "c.bin"
    if before is not None:
        path.write_bytes(before)

    def write(handle):
        handle.write(b"half of the")
        raise error

    with pytest.raises(type(error)) as raised:
        write_atomically(path, write)
    assert raised.value is error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_left_over_of_a_killed_run_is_no_obstacle(tmp_path):
    path = tmp_path / "c.json"
    names = []
    write_atomically(path, lambda handle: names.append(handle.name))
    left = tmp_path / names[0]
    left.write_bytes(b"half")
    write_json(path, {"a": 1})
    assert not left.exists()
    assert read_json(path, {"a": int}) == {"a": 1}


def test_json_returns_as_written(tmp_path):
    value = {"Größe": [1, 2.5, None, "ü"], "empty": {}, "undecodable": "\udcfe"}
    path = tmp_path / "v.json"
    write_json(path, value)
    assert read_json(path, {"Größe": list, "empty": dict}) == value
    write_json(path, value, indent=1)
    assert json.loads(path.read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, object()])
def test_values_that_json_does_not_have_are_refused_and_nothing_is_written(tmp_path, bad):
    path = tmp_path / "v.json"
    with pytest.raises((ValueError, TypeError)):
        write_json(path, [bad])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"v\.json: expected JSON; got a damaged file"):
        read_json(path, {})


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"a": [], "b": 1}', '{"b": 1}'])
def test_json_of_another_shape_is_named(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(FormatError, match=r"v\.json: expected a file of masktree with a, b; got no proper a"):
        read_json(path, {"a": dict, "b": int})


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", {})


@pytest.mark.parametrize("size", [0, 10, (1 << 20) + 1])
def test_the_hash_of_a_file_is_that_of_its_content(tmp_path, size):
    path = tmp_path / "f"
    content = bytes(i % 251 for i in range(size))
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
