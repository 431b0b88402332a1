"""A cache of limited size, in which nothing is computed twice at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key; the least recently used go when their sizes add up to more than ``limit``. For threads.

    Args:
        limit: of the sum of sizes, in whatever unit ``size_of`` counts.
        size_of: of a value; by default each counts 1. A single larger value than the limit is kept until the next one.
    """

    def __init__(self, limit: int, size_of: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit, self._size_of = limit, size_of
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._computing: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of a key; others who ask for it while it is computed wait, and whatever ``compute`` raises goes to
        the one who called it."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            turn = self._computing.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._values:
                    return self._values[key][0]
            try:
                value = compute()
                self._keep(key, value)
            finally:
                with self._lock:
                    self._computing.pop(key, None)
        return value

    def remove(self, key: Hashable) -> None:
        """Forget a value."""
        with self._lock:
            self._values.pop(key, None)

    @property
    def size(self) -> int:
        """Sum of the sizes of what is kept."""
        with self._lock:
            return sum(size for _, size in self._values.values())

    def _keep(self, key: Hashable, value: Value) -> None:
        size = self._size_of(value)
        with self._lock:
            self._values[key] = value, size
            total = sum(kept for _, kept in self._values.values())
            while total > self._limit and len(self._values) > 1:
                total -= self._values.popitem(last=False)[1][1]
