"""Everything that a running server holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from masktree.serve.cache import BoundedCache
from masktree.serve.clicks import Clicks
from masktree.serve.documents import Documents
from masktree.serve.folder import Folder
from masktree.serve.jobs import Jobs
from masktree.serve.picture import Pictures

T = TypeVar("T")

_MAP_CACHE_BYTES = 128 * 2**20  # of compressed maps (our choice)


@dataclass
class Threads:
    """Where work is done that takes the processor: few threads of each kind, so that clicks do not wait for pictures,
    and memory is bounded (our choice)."""

    pictures: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    maps: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    clicks: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    lists: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    files: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))  # uploads and exports

    @staticmethod
    async def run(work: Callable[[], T], limiter: CapacityLimiter) -> T:
        """What ``work`` returns, computed in a thread."""
        return await anyio.to_thread.run_sync(work, limiter=limiter)


@dataclass
class Site:
    """What the handlers of requests work with."""

    folder: Folder
    jobs: Jobs
    documents: Documents
    pictures: Pictures
    clicks: Clicks = field(default_factory=Clicks)
    threads: Threads = field(default_factory=Threads)
    maps: BoundedCache[bytes] = field(default_factory=lambda: BoundedCache(_MAP_CACHE_BYTES, len))

    @classmethod
    def open(cls, folder: Folder, workers: int = 1) -> Site:
        """All parts for a folder; worker processes start when they are needed."""
        documents = Documents(folder)
        return cls(folder, Jobs(folder.output, workers), documents, Pictures(folder))
