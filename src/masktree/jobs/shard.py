"""The function of a shard: a job over some items, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from masktree.jobs.batch import JobResult, attempt

Item = TypeVar("Item")


def run_shard(
    items: Sequence[Item], job: Callable[[Item], Any], *, begin: Callable[[Item], int], tries: int
) -> Iterator[JobResult[Item]]:
    """Call ``job`` on every item of a shard.

    A shard whose process dies is run again as a whole. Results are files that are replaced at once, so that items that
    were done before are written again with the same content.

    Args:
        items: of the shard.
        job: called with one item.
        begin: called before each item; returns how often it was begun, this time included. It counts outside this
            process, so that it knows of the processes that died.
        tries: an item that was begun more often is not tried again.
    """
    for item in items:
        begun = begin(item)
        if begun > tries:
            died = "once" if tries == 1 else f"{tries} times"
            error = f"the worker process died {died}; most likely out of memory"
            yield JobResult(item, 0.0, error, tries=tries)
            continue
        yield attempt(job, item)
