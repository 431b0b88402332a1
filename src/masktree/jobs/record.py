"""The record of a run, beside its results: run.json and failures.json."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from masktree.errors import FormatError, InputError
from masktree.io.files import read_json, write_json
from masktree.io.images import Photo
from masktree.jobs.batch import Result

_PACKAGES = ("masktree", "numpy", "scipy", "numba", "pillow", "scikit-image", "torch", "timm")
_WRITE_EVERY = 10.0  # seconds between updates of the files while a run goes on (our choice)
_SHAPE: dict[str, type] = {"config": dict, "weights": dict, "versions": dict, "seconds": dict}


@dataclass
class RunRecord:
    """Configuration, versions, weights, seconds per image and failures of a run in a folder.

    Attributes:
        folder: where run.json and failures.json stand.
        config: everything that decides the content of the results.
        weights: provenance of the weights, with hashes.
        seconds: seconds by output name, over all runs into this folder.
        failures: {"path", "error"} of this run.
        earlier: output names that earlier runs into this folder have written.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    earlier: frozenset[str] = frozenset()
    status: str = "running"
    _written: float = 0.0

    @classmethod
    def open(
        cls,
        folder: Path,
        config: dict[str, Any],
        weights: dict[str, Any],
        *,
        overwrite: bool,
        free: frozenset[str] = frozenset(),
    ) -> RunRecord:
        """Begin or continue the run in ``folder``; the caller writes it once it has checked the rest.

        Args:
            free: configuration keys that may differ from those of the results already there.

        Raises:
            InputError: the folder holds results of another configuration, other weights or another version.
            FormatError: run.json is damaged.
        """
        config, weights = json.loads(json.dumps([config, weights]))  # tuples become lists, as in the file
        record = cls(folder, config, weights)
        path = folder / "run.json"
        if not path.exists():
            return record
        try:
            before = read_json(path, _SHAPE)
        except FormatError:
            if overwrite:
                return record
            raise
        record.earlier = frozenset(before["seconds"])
        if overwrite:
            return record
        old = identity(before["config"], before["weights"], before["versions"].get("masktree"))
        new = identity(config, weights, versions()["masktree"])
        changed = sorted(k for k in old.keys() | new.keys() if k not in free and old.get(k) != new.get(k))
        if changed:
            raise InputError(
                f"expected the configuration of the results already in {folder}; got other values for "
                f"{', '.join(f'{k} ({old.get(k)!r} there, {new.get(k)!r} now)' for k in changed)}; "
                "choose another output folder, or --overwrite"
            )
        record.seconds = dict(before["seconds"])
        return record

    def add(self, result: Result[Photo]) -> None:
        """Note the outcome of one image; the files follow every few seconds."""
        if result.error is None:
            self.seconds[result.item.name] = round(result.seconds, 3)
        else:
            self.failures.append({"path": str(result.item.path), "error": result.error})
        if time.monotonic() - self._written > _WRITE_EVERY:
            try:
                self.write()
            except OSError:  # a full disk must not end the run; the last write, in close, reports it
                self._written = time.monotonic()

    def close(self, status: str) -> None:
        """Write the final state: "complete" or "interrupted"."""
        self.status = status
        self.write()

    @property
    def seconds_per_image(self) -> float:
        return round(sum(self.seconds.values()) / max(len(self.seconds), 1), 3)

    def write(self) -> None:
        self._written = time.monotonic()
        failures = self.folder / "failures.json"
        if self.failures:
            write_json(failures, self.failures, indent=1)
        else:
            failures.unlink(missing_ok=True)
        write_json(
            self.folder / "run.json",
            {
                "status": self.status,
                "config": self.config,
                "weights": self.weights,
                "versions": versions(),
                "platform": platform.platform(),
                "images": len(self.seconds),
                "failed": len(self.failures),
                "seconds_per_image": self.seconds_per_image,
                "seconds": self.seconds,
            },
            indent=1,
        )


def versions(further: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and of ``further`` ones."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *further):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def identity(config: dict[str, Any], weights: dict[str, Any], package: str | None) -> dict[str, Any]:
    """What results of one run have in common: configuration, weights, version of this package."""
    return config | {"weights": f"{weights.get('name')}, sha256 {weights.get('sha256')}", "version": package}


def fingerprint(config: dict[str, Any], weights: dict[str, Any]) -> str:
    """Short hash of the identity, written into every result."""
    text = json.dumps(identity(config, weights, versions()["masktree"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
