from __future__ import annotations

import threading
import time

import pytest

from masktree.serve.cache import BoundedCache


def test_the_least_recently_used_go_first():
    cache: BoundedCache[str] = BoundedCache(10, len)
    computed = []

    def get(key: str) -> str:
        def compute() -> str:
            computed.append(key)
            return key * 4

        return cache.get(key, compute)

    for key in "aabac":  # c pushes out b
        assert get(key) == key * 4
    assert cache.size == 8
    get("a")
    get("b")
    assert computed == ["a", "b", "c", "b"]
    cache.remove("a")
    cache.remove("nothing")
    assert cache.size == 4


def test_a_value_beyond_the_limit_is_kept_until_the_next_one():
    cache: BoundedCache[bytes] = BoundedCache(3, len)
    cache.get("large", lambda: b"12345")
    assert cache.size == 5
    cache.get("small", lambda: b"1")
    assert cache.size == 1


def test_nothing_is_computed_twice_at_once_and_errors_are_not_kept():
    cache: BoundedCache[int] = BoundedCache(5)
    calls = []

    def compute() -> int:
        calls.append(1)
        time.sleep(0.05)
        return len(calls)

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(cache.get("k", compute))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 8

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("other", fail)
    assert cache.get("other", lambda: 3) == 3
