"""What runs in the processes of a Ray cluster."""

from __future__ import annotations

import os
import pickle
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from masktree import __version__
from masktree.errors import InputError
from masktree.io.files import name_writer
from masktree.jobs.shard import run_shard


class TryCounter:
    """Counts how often each item was begun; an actor of its own, which stays when workers die."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Count the item; returns how often it was begun, this time included."""
        self._begun[number] += 1
        return self._begun[number]

    def finish(self, numbers: list[int]) -> None:
        """Forget items that are done."""
        for number in numbers:
            self._begun.pop(number, None)


class ShardWorker:
    """Runs the job of a stage on the shards that it is given; one process of the cluster.

    Args:
        job: pickled.
        folder: working folder of the command, to which the paths of items may be relative.
        version: of masktree, where the command runs.
        counter: handle of the ``TryCounter``.
        tries: of an item at which processes die.

    Raises:
        InputError: the machine has another masktree, or not the folder.
    """

    def __init__(self, job: bytes, folder: str, version: str, counter: Any, tries: int) -> None:
        machine = os.uname().nodename if hasattr(os, "uname") else "this machine"
        if version != __version__:
            raise InputError(
                f"expected masktree {version} on all machines; got {__version__} on {machine}; install the same version"
            )
        if not Path(folder).is_dir():
            raise InputError(
                f"expected the folder {folder} on all machines; got none on {machine}; run the command in a shared one"
            )
        os.chdir(folder)
        # A process that is believed dead may still write beside the one that has taken its place.
        name_writer(uuid.uuid4().hex[:8])
        self.job = pickle.loads(job)
        self.counter = counter
        self.tries = tries

    def __call__(self, shard: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The pickled results of a shard, which has pickled (number, item)."""
        import ray

        numbered = [pickle.loads(data) for data in shard["item"]]
        results = run_shard(
            numbered,
            lambda pair: self.job(pair[1]),
            begin=lambda pair: ray.get(self.counter.begin.remote(pair[0])),
            tries=self.tries,
        )
        pickled = np.empty(len(numbered), object)
        pickled[:] = [pickle.dumps(result) for result in results]
        self.counter.finish.remote([number for number, _ in numbered])
        return {"result": pickled}
