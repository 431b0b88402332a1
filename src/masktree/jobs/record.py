"""The record of a run: run.json and failures.json in the folder of its results."""

from __future__ import annotations

import hashlib
import json
import platform
import reprlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from masktree import __version__
from masktree.errors import FormatError, InputError
from masktree.io.files import is_number, read_json, write_json
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult

_PACKAGES = ("numpy", "scipy", "numba", "pillow", "scikit-image", "torch", "timm")
_WRITE_INTERVAL = 10.0  # seconds between updates of the files during a run (our choice)


@dataclass
class RunRecord:
    """Configuration, versions, weights, seconds per image and failures of a run.

    Attributes:
        folder: folder of run.json and failures.json.
        config: everything that determines the content of the results.
        weights: provenance of the weights, with hashes.
        seconds: seconds by output name, over all runs into this folder.
        failures: {"path", "error"} of this run.
        previous_names: output names that previous runs into this folder have written.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    previous_names: frozenset[str] = frozenset()
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
        ignored_keys: frozenset[str] = frozenset(),
    ) -> RunRecord:
        """Start or continue the run in ``folder``. Writes nothing yet: the caller may have more to check.

        Args:
            folder, config, weights: see the attributes.
            overwrite: whether results of another configuration may be replaced.
            ignored_keys: configuration keys that may differ from those of the existing results.

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
            previous = read_run(path)
        except FormatError:
            if overwrite:
                return record
            raise
        record.previous_names = frozenset(previous["seconds"])
        if overwrite:
            return record
        old = run_identity(previous["config"], previous["weights"], previous["versions"].get("masktree"))
        new = run_identity(config, weights, package_versions()["masktree"])
        changed = sorted(k for k in old.keys() | new.keys() if k not in ignored_keys and old.get(k) != new.get(k))
        if changed:
            raise InputError(
                f"expected the configuration of the results already in {folder}; got other values for "
                f"{', '.join(f'{k} ({old.get(k)!r} there, {new.get(k)!r} now)' for k in changed)}; "
                "choose another output folder, or --overwrite"
            )
        record.seconds = dict(previous["seconds"])
        return record

    def add(self, result: JobResult[Photo]) -> None:
        """Record the result of one image; the files are updated every few seconds."""
        if result.error is None:
            self.seconds[result.item.name] = round(result.seconds, 3)
        else:
            self.failures.append({"path": str(result.item.path), "error": result.error})
        if time.monotonic() - self._written > _WRITE_INTERVAL:
            try:
                self.write()
            except OSError:  # a full disk must not end the run; the last write, in close, raises
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
                "versions": package_versions(),
                "platform": platform.platform(),
                "images": len(self.seconds),
                "failed": len(self.failures),
                "seconds_per_image": self.seconds_per_image,
                "seconds": self.seconds,
            },
            indent=1,
        )


def read_run(path: Path) -> dict[str, Any]:
    """Content of a run.json.

    Raises:
        FormatError: damaged, or another file.
    """
    run = read_json(path, {"config": dict, "weights": dict, "versions": dict, "seconds": dict})
    wrong = [name for name, seconds in run["seconds"].items() if not is_number(seconds, 0)]
    if wrong:
        raise FormatError(
            f"{path}: expected seconds of each image, a number; got {reprlib.repr(run['seconds'][wrong[0]])} for "
            f"{wrong[0]}; restore or delete it"
        )
    return run


def package_versions(extra: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and of the ``extra`` packages."""
    versions = {"python": platform.python_version(), "masktree": __version__}
    for package in (*_PACKAGES, *extra):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def run_identity(config: dict[str, Any], weights: dict[str, Any], package: str | None) -> dict[str, Any]:
    """What all results of one run share: configuration, weights and version of masktree (``package``)."""
    return config | {"weights": f"{weights.get('name')}, sha256 {weights.get('sha256')}", "version": package}


def run_fingerprint(config: dict[str, Any], weights: dict[str, Any]) -> str:
    """Short hash of ``run_identity``, written into every result."""
    text = json.dumps(run_identity(config, weights, package_versions()["masktree"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
